"""The `amesh` command: app (what can be typed), commands/ (one module each, thin),
terminal (all that is shown or asked), ceremony (a pairing as a person sees it),
failures (error -> exit status and hint).
"""

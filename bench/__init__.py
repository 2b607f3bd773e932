"""What amesh costs, beside what it cannot do without: `make bench`.

Each module with a `run()` measures one thing and returns rows; the first line of its docstring
is their heading. Costs are ratios of two things measured in turn in one run, so that a noisy or
a slow machine changes both.
"""

"""What to say when an optional package is not installed."""

from __future__ import annotations


def missing(extra: str, error: ImportError) -> ImportError:
    """The error of a module that is named after a package which is not there."""
    return ImportError(
        f"{error.name or extra} is not installed: pip install 'authmesh[{extra}]'", name=error.name
    )

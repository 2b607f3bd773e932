"""All errors of the core, wherever they are defined."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module

import amesh_core
from amesh_core.errors import AmeshError


def subclasses(kind: type[AmeshError]) -> Iterator[type[AmeshError]]:
    """`kind` and everything below it."""
    for module in pkgutil.walk_packages(amesh_core.__path__, "amesh_core."):
        import_module(module.name)
    yield from _below(kind)


def _below(kind: type[AmeshError]) -> Iterator[type[AmeshError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _below(child)

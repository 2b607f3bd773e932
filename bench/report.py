"""What a measurement says, and how it is shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `goal` and `met` are None where a number is only told."""

    name: str
    measured: str
    goal: str | None = None
    met: bool | None = None

    def __str__(self) -> str:
        verdict = "" if self.met is None else "met" if self.met else "NOT MET"
        return f"{self.name:<52}{self.measured:>14}  {self.goal or '':<12}{verdict}"


def show(title: str, rows: Iterable[Row]) -> None:
    """Print one module's rows as soon as they are there."""
    print(f"\n{title}", flush=True)
    for row in rows:
        print(f"  {row}", flush=True)

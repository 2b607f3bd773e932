"""How the relay logs: a line for people, or a JSON object for programs, through structlog.

Whom a connection belongs to is not logged. It has a number instead, which begins anew every day
(UTC), so that the logs of two days cannot be laid beside each other.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from datetime import UTC, date, datetime
from importlib import import_module
from typing import Any, Final

from amesh_core.errors import UsageError

# Longer than any connection is expected to last.
_DAYS_REMEMBERED: Final = 8


class DayNumbers:
    """Numbers for one life of a relay, and the names that logs have for them."""

    def __init__(self, today: date) -> None:
        self._last = 0
        self._days: list[tuple[int, date]] = [(0, today)]  # how many came before that day

    def next(self, today: date) -> int:
        """A number that was never used."""
        if today != self._days[-1][1]:
            self._days.append((self._last, today))
            del self._days[:-_DAYS_REMEMBERED]
        self._last += 1
        return self._last

    def name(self, number: int) -> str:
        """Such as `2026-11-23/17`: the 17th connection of that day."""
        for before, day in reversed(self._days):
            if before < number:
                return f"{day}/{number - before}"
        return "of an earlier week"


def set_up(level: str, form: str) -> None:
    """Log everything from `level` on to standard error, as `console` or `json`.

    Raises:
        UsageError: structlog is needed and not installed.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(form))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _formatter(form: str) -> logging.Formatter:
    try:
        structlog = import_module("structlog")
    except ImportError:
        if form == "json":
            raise UsageError("--log-format json needs: pip install 'authmesh[relay]'") from None
        return logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    stdlib = structlog.stdlib
    render = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_level=False)
    )
    formatter: logging.Formatter = stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            stdlib.add_log_level,
            stdlib.add_logger_name,
            stdlib.ExtraAdder(),
            _time,
            structlog.processors.format_exc_info,
        ],
        processors=[stdlib.ProcessorFormatter.remove_processors_meta, render],
    )
    return formatter


def _time(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    created = event["_record"].created
    event["timestamp"] = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
    return event

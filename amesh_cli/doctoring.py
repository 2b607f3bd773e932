"""What `amesh doctor` shows of its checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from amesh_cli import checks, here, terminal
from amesh_cli.checks import Check, Verdict
from amesh_core.errors import TroubleFound

_STYLES: Final = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


def examine(*, against: str | None, relay: str | None, as_json: bool) -> None:
    """Make every check, and show each when it is made, or all as one JSON document.

    Raises:
        TroubleFound: one failed.
        UsageError: not a URL that can be probed.
    """
    made = []
    for check in _all(against, relay):
        made.append(check)
        if not as_json:
            _show(check)
    failed = sum(check.verdict is Verdict.FAIL for check in made)
    if as_json:
        shown = [asdict(check) for check in made]
        terminal.json_result({"ok": not failed, "checks": shown})
    if failed:
        raise TroubleFound(f"{failed} of {len(made)} checks failed")


def _all(against: str | None, relay: str | None) -> Iterator[Check]:
    settings = here.settings()
    if against is None:
        yield from checks.of_device(settings)
        yield from checks.of_relay(relay, settings)
        yield checks.of_extras()
    else:
        from amesh_cli import probing

        place = probing.parse_place(against)
        home = yield from checks.of_device(settings)
        if home is not None:
            yield from probing.probe(place, home.key())


def _show(check: Check) -> None:
    terminal.verdict(
        check.verdict, check.name, check.message, check.hint, style=_STYLES[check.verdict]
    )

"""What `amesh explain` reads and shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from amesh_cli import pipes, terminal
from amesh_core import explain as core
from amesh_core import sighting
from amesh_core.errors import TroubleFound, UsageError
from amesh_core.explain import Explanation, FirstByte
from amesh_core.sighting import Side, Sighting

_AROUND_BYTES: Final = 36
_REASONS: Final = (
    "nothing differs that a signature covers: if the server refused it, its log says why "
    "(amesh.verify): unknown_device, not_a_controller, trust_expired, clock_skew, replayed"
)


def explain(files: Sequence[str], *, as_json: bool) -> None:
    """Compare each request that is in both logs.

    Raises:
        TroubleFound: at least one arrived otherwise than it was signed.
        UsageError: a file that cannot be read, or no request in both.
    """
    sightings = [one for file in files or ["-"] for one in sighting.find(_read(file))]
    pairs = core.pairs(sightings)
    if not pairs:
        raise UsageError(_why_none(sightings))
    explanations = [core.explain(sent, seen) for sent, seen in pairs]
    times = Counter(seen.nonce for _, seen in pairs)
    if as_json:
        terminal.json_result({"requests": [_as_json(one, times) for one in explanations]})
    else:
        for number, one in enumerate(explanations):
            if number:
                terminal.result()
            _show(one, times[one.seen.nonce])
    changed = sum(not one.is_same for one in explanations)
    if changed:
        raise TroubleFound(f"{changed} of {len(pairs)} requests did not arrive as they were signed")


def _read(file: str) -> str:
    try:
        data = pipes.stdin() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    return data.decode("utf-8", "replace")


def _why_none(sightings: Sequence[Sighting]) -> str:
    count = Counter(one.side for one in sightings)
    if not sightings:
        return "there is no request in the input: set AMESH_DEBUG_REQUESTS=1 where they are logged"
    if not count[Side.SENT] or not count[Side.SEEN]:
        there, missing = ("client", "server") if count[Side.SENT] else ("server", "client")
        return f"only the {there} wrote down requests; the log of the {missing} is needed, too"
    return (
        f"{count[Side.SENT]} requests were sent and {count[Side.SEEN]} seen, but none has the "
        "nonce of another: these are other requests, or something made their headers anew"
    )


def _show(one: Explanation, times: int) -> None:
    sent = one.sent
    terminal.result(
        f"{_safe(sent.method)} {_safe(sent.target)}, nonce {_safe(sent.nonce)}", style="bold"
    )
    if one.first_byte:
        _show_first_byte(one, one.first_byte)
    for difference in one.differences:
        terminal.result(
            f"  {difference.part}: {_safe(difference.sent)} -> {_safe(difference.seen)}"
        )
        terminal.result(f"    {difference.cause}")
    if one.seen.body is None:
        terminal.result("  The server refused it before it read the body; its log says why.")
    elif one.is_same:
        terminal.result(f"  {_REASONS}.")
    if times > 1:
        terminal.result(f"  It arrived {times} times, and is let in once.")


def _show_first_byte(one: Explanation, first: FirstByte) -> None:
    terminal.result(
        f"  first difference at byte {first.offset} of what is signed, the {first.part}"
    )
    start = max(0, first.offset - _AROUND_BYTES)
    for label, text in (("signed", one.sent.canonical), ("arrived", one.seen.canonical)):
        shown = _safe((text or "")[start : first.offset + _AROUND_BYTES])
        terminal.result(f"    {label:<8} {shown}")
    before = _safe((one.sent.canonical or "")[start : first.offset])
    terminal.result(f"    {'':<8} {' ' * len(before)}^")


def _safe(text: str) -> str:
    """Logs hold what strangers sent."""
    return text.encode("unicode_escape").decode("ascii")


def _as_json(one: Explanation, times: Counter[str]) -> dict[str, Any]:
    first = one.first_byte
    return {
        "nonce": one.seen.nonce,
        "same": one.is_same,
        "arrived": times[one.seen.nonce],
        "bodyWasRead": one.seen.body is not None,
        "firstByte": {"offset": first.offset, "part": first.part} if first else None,
        "differences": [
            {
                "part": difference.part,
                "sent": difference.sent,
                "seen": difference.seen,
                "cause": difference.cause,
                "harmless": difference.harmless,
            }
            for difference in one.differences
        ],
    }

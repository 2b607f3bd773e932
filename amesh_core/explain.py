"""Why a signature did not fit: two sightings of one request, compared.

A server refuses with one answer for every reason, so the reason is found by laying what was
signed beside what arrived. What differs is certain; the cause is a guess, from how it differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from amesh_core import causes
from amesh_core.errors import MalformedRequest
from amesh_core.sighting import Body, Side, Sighting
from amesh_core.wire.target import canonical_target

# A clock further away than this is refused by default (docs/protocol.md section 3).
CLOCK_SKEW_SECONDS: Final = 30

_LINES: Final = ("version", "method", "target", "timestamp", "nonce", "body")


@dataclass(frozen=True, slots=True)
class Difference:
    """One part of a request that is not the same on both sides, and what may have done it."""

    part: str
    sent: str
    seen: str
    cause: str
    harmless: bool = False


@dataclass(frozen=True, slots=True)
class FirstByte:
    """Where two canonical strings part: the byte, counted from 0, and the line it is in."""

    offset: int
    part: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What differs between a request as it was signed and as it arrived."""

    sent: Sighting
    seen: Sighting
    first_byte: FirstByte | None
    differences: tuple[Difference, ...]

    @property
    def is_same(self) -> bool:
        """Whether nothing differs that a signature covers."""
        return all(difference.harmless for difference in self.differences)


def pairs(sightings: Sequence[Sighting]) -> list[tuple[Sighting, Sighting]]:
    """Put together what is of one request: by the nonce, or the only two there are.

    A nonce that the server saw more than once gives a pair for each time.
    """
    sent = [one for one in sightings if one.side is Side.SENT]
    seen = [one for one in sightings if one.side is Side.SEEN]
    by_nonce = {one.nonce: one for one in sent}
    found = [(by_nonce[one.nonce], one) for one in seen if one.nonce in by_nonce]
    if not found and len(sent) == len(seen) == 1:
        return [(sent[0], seen[0])]
    return found


def explain(sent: Sighting, seen: Sighting) -> Explanation:
    """Compare a request as it was signed with the same as it arrived."""
    differences = (
        *_of_credential(sent, seen),
        *_of_method(sent, seen),
        *_of_target(sent, seen),
        *_of_body(sent, seen),
        *_of_clock(sent, seen),
    )
    first_byte = _first_byte(sent.canonical, seen.canonical)
    if first_byte and all(difference.harmless for difference in differences):
        # Never "the same" when the two texts say otherwise.
        cause = "the two sides write the string that is signed differently: update the older amesh"
        what = Difference(first_byte.part, sent.canonical or "", seen.canonical or "", cause)
        differences = (*differences, what)
    return Explanation(sent, seen, first_byte, differences)


def _first_byte(sent: str | None, seen: str | None) -> FirstByte | None:
    if sent is None or seen is None or sent == seen:
        return None
    offset = next(  # both are ASCII: a character is a byte
        (i for i, (one, other) in enumerate(zip(sent, seen, strict=False)) if one != other),
        min(len(sent), len(seen)),
    )
    line = sent[:offset].count("\n")
    return FirstByte(offset, _LINES[min(line, len(_LINES) - 1)])


# --- credential and clock ---------------------------------------------------------------


def _of_credential(sent: Sighting, seen: Sighting) -> Iterator[Difference]:
    if sent.device_id != seen.device_id:
        cause = "the header of another device was sent: two directories, or two clients, are mixed"
        yield Difference("device", sent.device_id, seen.device_id, cause)
    another = (
        "the header is not the one that was made for this request: each attempt needs a "
        "signature of its own, also a retry and each hop of a redirect"
    )
    if sent.nonce != seen.nonce:
        yield Difference("nonce", sent.nonce, seen.nonce, another)
    if sent.timestamp != seen.timestamp:
        yield Difference("timestamp", sent.timestamp, seen.timestamp, another)


def _of_clock(sent: Sighting, seen: Sighting) -> Iterator[Difference]:
    late = seen.at - int(seen.timestamp)
    if abs(late) > CLOCK_SKEW_SECONDS:
        cause = (
            f"stamped {abs(late)} s {'before' if late > 0 else 'after'} the server's clock, and "
            f"{CLOCK_SKEW_SECONDS} s are allowed: one of the clocks is wrong, or the request "
            "was held back on its way"
        )
        yield Difference("clock", sent.timestamp, str(seen.at), cause)


# --- method -----------------------------------------------------------------------------


def _of_method(sent: Sighting, seen: Sighting) -> Iterator[Difference]:
    if sent.method != seen.method:
        cause = causes.of_method(sent.method, seen.method)
        yield Difference("method", sent.method, seen.method, cause)


# --- target -----------------------------------------------------------------------------


def _of_target(sent: Sighting, seen: Sighting) -> Iterator[Difference]:
    one_path, _, one_query = sent.target.partition("?")
    other_path, _, other_query = seen.target.partition("?")
    if one_path != other_path:
        yield Difference("path", one_path, other_path, causes.of_path(one_path, other_path))
    if one_query != other_query:
        yield _query(one_query, other_query)
    if sent.target == seen.target and seen.canonical is None and seen.body is not None:
        cause = "the server cannot sign this target at all: it is not one that a browser would send"
        yield Difference("target", sent.target, seen.target, cause)


def _query(sent: str, seen: str) -> Difference:
    ours, theirs = _signed(sent), _signed(seen)
    if ours == theirs:
        cause = "another order or spelling of the same query, which makes no difference"
        return Difference("query", sent, seen, cause, harmless=True)
    return Difference("query", sent, seen, causes.of_query(ours, theirs))


def _signed(query: str) -> str:
    try:
        canonical = canonical_target(f"/?{query}".encode("latin-1"))
    except MalformedRequest:
        return query
    return canonical.partition("?")[2]


# --- body -------------------------------------------------------------------------------


def _of_body(sent: Sighting, seen: Sighting) -> Iterator[Difference]:
    ours, theirs = sent.body, seen.body
    if ours is not None and theirs is not None and ours.sha256 != theirs.sha256:
        yield Difference("body", _shown(ours), _shown(theirs), causes.of_body(ours, theirs))


def _shown(body: Body) -> str:
    return f"{body.length_bytes} bytes, SHA-256 {body.sha256[:16]}..."

"""What relays share, or keep over a restart: `--state memory`, `sqlite:FILE`, `redis://...`.

The memory of one process is the default and needs nothing. A file keeps which bootstrap tokens
are used up. A Redis lets any number of relays serve the same codes (cluster.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from amesh_core.wire.relay import ErrorCode, Rejection
from amesh_relay.roles import Burned, Freed, Unwatched


@dataclass(frozen=True, slots=True)
class Granted:
    """It is so: and the relay `node`, perhaps this one, is where it goes on."""

    node: str


@dataclass(frozen=True, slots=True)
class Denied:
    """It is not so; a device is told why."""

    why: ErrorCode | Rejection


@dataclass(frozen=True, slots=True)
class Unknown:
    """Whoever decides cannot be asked."""


Verdict = Granted | Denied | Unknown


class Kind(StrEnum):
    """What a letter says; cluster.py has who writes which."""

    ENTER = "enter"
    FRAME = "frame"
    GONE = "gone"
    STALL = "stall"
    FLOW = "flow"
    TELL = "tell"
    END = "end"
    HOLD = "hold"
    GO = "go"
    LOST = "lost"
    EXPIRE = "expire"


@dataclass(frozen=True, slots=True)
class Letter:
    """What one relay says to another, mostly about one guest.

    `guest` is "<node>/<number>": a connection of the relay `node`, which is the sender or the
    receiver. Letters about one guest are numbered in each direction, as one may be lost.
    """

    sender: str
    guest: str
    number: int
    kind: Kind
    text: str = field(default="", repr=False)
    client: bytes = field(default=b"", repr=False)
    code: int = 0


class Mailbox(Protocol):
    """Whoever reads what a shared state brings."""

    def take(self, letter: Letter) -> None:
        """A letter came."""

    def lost(self) -> None:
        """Letters may have been lost: nothing that depends on other relays can be relied on."""

    def found(self) -> None:
        """Other relays can be reached, for the first time or again, and `node` is another."""

    def died(self, node: str) -> None:
        """A relay that letters were exchanged with is not there any more."""

    def roomy(self) -> None:
        """Not too much waits to be sent."""

    def correspondents(self) -> frozenset[str]:
        """The relays that letters are exchanged with."""


class SharedState(Protocol):
    """What relays decide together; every answer is atomic.

    Questions, news and letters are carried out in the order in which they were given.
    """

    # This relay's name, for as long as it is in touch. Afterwards it has another one, so that
    # nothing of before is taken for something of now.
    node: str
    is_available: bool

    @property
    def is_crowded(self) -> bool:
        """Whether more waits to be sent than should; `Mailbox.roomy` says when that is over."""

    async def run(self, mailbox: Mailbox) -> None:
        """Keep in touch until cancelled; goes on trying when nobody answers."""

    async def listen(self, otc: str, client: bytes, *, again: bool = False) -> Verdict:
        """A target of ours wants to wait under a code; `again`, as it does already."""

    async def connect(self, otc: str, client: bytes) -> Verdict:
        """A controller of ours names a code; granted, the code is in use from now on."""

    async def watch(self, jti: str) -> Verdict:
        """A controller of ours wants to hear of a bootstrap token."""

    async def announce(self, jti: str) -> Verdict:
        """A target of ours has one."""

    def tell(self, news: Freed | Unwatched | Burned) -> None:
        """Something that was ours is not in use any more, or is used up."""

    def send(self, node: str, letter: Letter) -> None:
        """Write to another relay; in order, and perhaps in vain."""

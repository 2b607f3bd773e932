"""What a relay wants done at Redis, in a row of its own so that all of it stays in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

from amesh_core.wire.relay import ErrorCode, Rejection
from amesh_relay.state import Denied, Granted, Unknown, Verdict

# What may wait for Redis before those who cause it are not read from, and when they are again.
CROWDED_BYTES: Final = 1024 * 1024
ROOMY_BYTES: Final = CROWDED_BYTES // 2
# At once; the answers of a thousand scripts take some 20 ms.
MAX_BATCH: Final = 1000
# Short letters share a message; a long one gains nothing from it.
MAX_SHARED_CHARACTERS: Final = 16 * 1024
PUBLISH: Final = "PUBLISH"

_ROW_BYTES: Final = 500  # about what an order takes beside its arguments
_VERDICTS: Final[dict[str, Verdict]] = {str(why): Denied(why) for why in (*ErrorCode, *Rejection)}


@dataclass(slots=True)
class Order:
    """Something to do at Redis: the name of a script or a command, and who waits for it."""

    name: str
    arguments: tuple[str, ...] = field(repr=False)
    answer: asyncio.Future[Verdict] | None = None
    bytes: int = _ROW_BYTES  # about how much memory it takes

    def __post_init__(self) -> None:
        self.bytes += sum(map(len, self.arguments))

    def is_answered(self, answer: object) -> None:
        """Redis said this, or nothing that counts."""
        if self.answer is None or self.answer.done():
            return
        verdict: Verdict = Unknown()
        if isinstance(answer, str):
            is_granted = answer.startswith("@")
            verdict = Granted(answer[1:]) if is_granted else _VERDICTS.get(answer, verdict)
        self.answer.set_result(verdict)


class Orders:
    """A row of orders, to be taken a batch at a time.

    So the more there is to do, the more of it goes in one write and comes back in one read.
    """

    def __init__(self) -> None:
        self._row: deque[Order] = deque()
        self._bytes = 0  # of the row, and of what is taken and not settled

    @property
    def is_crowded(self) -> bool:
        """Whether more waits than should."""
        return self._bytes > CROWDED_BYTES

    @property
    def is_roomy(self) -> bool:
        """Whether enough of it is done for more."""
        return self._bytes <= ROOMY_BYTES

    def add(self, order: Order) -> None:
        """One more, after all others."""
        self._row.append(order)
        self._bytes += order.bytes

    def publish(self, channel: str, text: str) -> None:
        """A letter: after all others, and together with the last when that goes there, too."""
        last = self._row[-1] if self._row else None
        if last is not None and last.name == PUBLISH and last.arguments[0] == channel:
            before = last.arguments[1]
            if len(before) + len(text) <= MAX_SHARED_CHARACTERS:
                last.arguments = (channel, before + text)
                last.bytes += len(text)
                self._bytes += len(text)
                return
        self.add(Order(PUBLISH, (channel, text)))

    def take(self) -> list[Order]:
        """What is to be done now; it is never taken again."""
        row = self._row
        return [row.popleft() for _ in range(min(len(row), MAX_BATCH))]

    def settle(self, batch: Iterable[Order], answers: Iterable[object]) -> None:
        """These have their answers; or none, where there are fewer."""
        for order, answer in zip_longest(batch, answers):
            self._bytes -= order.bytes
            order.is_answered(answer)

    def give_up(self) -> None:
        """Nothing of the row will be done any more."""
        while batch := self.take():
            self.settle(batch, ())

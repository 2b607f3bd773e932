"""What a relay wants done at Redis, in a row of its own so that all of it stays in order."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from amesh_core.wire.relay import ErrorCode, Rejection
from amesh_relay.state import Denied, Granted, Unknown, Verdict
from amesh_relay.state.resp import Answer, Refusal

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
    is_told: bool = False  # with its script, as Redis did not have that
    bytes: int = _ROW_BYTES  # about how much memory it takes

    def __post_init__(self) -> None:
        self.bytes += sum(map(len, self.arguments))

    def is_answered(self, answer: Answer) -> None:
        """Redis said this, or nothing that counts."""
        if self.answer is None or self.answer.done():
            return
        verdict: Verdict = Unknown()
        if isinstance(answer, str):
            is_granted = answer.startswith("@")
            verdict = Granted(answer[1:]) if is_granted else _VERDICTS.get(answer, verdict)
        self.answer.set_result(verdict)


class Orders:
    """A row of orders, of which the first may be with Redis: one batch at a time.

    So the more there is to do, the more of it goes in one write and comes back in one read.
    """

    def __init__(self) -> None:
        self._row: deque[Order] = deque()
        self._out = 0  # so many of the first are with Redis
        self._again: list[Order] = []  # of these, what Redis had no script for
        self._bytes = 0

    @property
    def are_out(self) -> bool:
        """Whether answers are awaited."""
        return self._out > 0

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
        row = self._row
        if len(row) > self._out and row[-1].name == PUBLISH and row[-1].arguments[0] == channel:
            before = row[-1].arguments[1]
            if len(before) + len(text) <= MAX_SHARED_CHARACTERS:
                row[-1].arguments = (channel, before + text)
                row[-1].bytes += len(text)
                self._bytes += len(text)
                return
        self.add(Order(PUBLISH, (channel, text)))

    def batch(self) -> list[Order]:
        """What can be done now, and is out then; nothing while answers are awaited."""
        if self._out:
            return []
        self._out = min(len(self._row), MAX_BATCH)
        return [self._row[place] for place in range(self._out)]

    def answered(self, answer: Answer) -> Order | None:
        """The first that is out has this answer; None when that shall be asked again.

        Raises:
            IndexError: nothing is out.
        """
        if not self._out:
            raise IndexError("an answer without a question")
        order = self._row.popleft()
        self._out -= 1
        is_done = order.is_told or not (isinstance(answer, Refusal) and answer.kind == "NOSCRIPT")
        if is_done:
            self._bytes -= order.bytes
            order.is_answered(answer)
        else:
            order.is_told = True
            self._again.append(order)
        if not self._out and self._again:
            self._row.extendleft(reversed(self._again))
            self._again.clear()
        return order if is_done else None

    def give_up(self) -> None:
        """Nothing of it will be answered any more."""
        for order in (*self._again, *self._row):
            order.is_answered(None)
        self._row.clear()
        self._again.clear()
        self._out = self._bytes = 0

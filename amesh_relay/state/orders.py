"""What a relay wants done at Redis, in a row of its own so that all of it stays in order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from amesh_core.wire.relay import ErrorCode, Rejection
from amesh_relay.state import Denied, Granted, Unknown, Verdict

_VERDICTS: Final[dict[str, Verdict]] = {str(why): Denied(why) for why in (*ErrorCode, *Rejection)}


@dataclass(slots=True)
class Order:
    """Something to do at Redis: the name of a script or a command, and who waits for it."""

    name: str
    arguments: tuple[str, ...]
    answer: asyncio.Future[Verdict] | None = None

    @property
    def bytes(self) -> int:
        """About how much memory it takes."""
        return 500 + sum(map(len, self.arguments))

    def is_answered(self, answer: object) -> None:
        """Redis said this, or nothing that counts."""
        if self.answer is None or self.answer.done():
            return
        verdict: Verdict = Unknown()
        if isinstance(answer, str):
            is_granted = answer.startswith("@")
            verdict = Granted(answer[1:]) if is_granted else _VERDICTS.get(answer, verdict)
        self.answer.set_result(verdict)

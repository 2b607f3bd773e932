"""The two people of a pairing, as tests of the relay client need them: quick, or absent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from amesh_core.identity import Peer


@dataclass
class Room:
    """What the two people tell each other across the room."""

    code: asyncio.Future[str] = field(default_factory=asyncio.Future)
    digits: asyncio.Future[str] = field(default_factory=asyncio.Future)
    matched: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    verdict: asyncio.Future[bool] = field(default_factory=asyncio.Future)


@dataclass
class TargetInRoom:
    """Reads the code out, types the digits it hears; `seen` is what its screen did."""

    room: Room
    seen: list[str] = field(default_factory=list)

    async def code_ready(self, code: str, seconds: float) -> None:
        self.seen.append(f"code for {seconds:.0f} s")
        self.room.code.set_result(code)
        try:
            await asyncio.Event().wait()
        finally:
            self.seen.append("countdown gone")

    async def peer_found(self) -> None:
        self.seen.append("peer found")

    async def ask_digits(self) -> str:
        self.seen.append("asked")
        try:
            return await self.answer()
        finally:
            self.seen.append("prompt gone")

    async def answer(self) -> str:
        return await self.room.digits

    async def matched(self) -> None:
        self.seen.append("matched")
        self.room.matched.set()


class TargetWithBadEyes(TargetInRoom):
    """Types other digits."""

    async def answer(self) -> str:
        digits = await self.room.digits
        return digits[::-1] if digits != digits[::-1] else "123456"


class TargetAway(TargetInRoom):
    """Has left the room: no answer ever."""

    async def answer(self) -> str:
        await asyncio.Event().wait()
        raise AssertionError


@dataclass
class ControllerInRoom:
    """Reads the digits out, and confirms when the target's screen says that they matched."""

    room: Room
    seen: list[str] = field(default_factory=list)

    async def peer_found(self) -> None:
        self.seen.append("peer found")

    async def show_digits(self, digits: str) -> None:
        self.seen.append("digits")
        self.room.digits.set_result(digits)

    async def ask_consent(self, peer: Peer) -> bool:
        self.seen.append(f"asked about {peer.friendly_name}")
        self.room.asked.set()
        try:
            return await self.answer()
        finally:
            self.seen.append("prompt gone")

    async def answer(self) -> bool:
        await self.room.matched.wait()
        return True


class ControllerWhoDoubts(ControllerInRoom):
    """Says no."""

    async def answer(self) -> bool:
        return False


class ControllerAway(ControllerInRoom):
    """Has left the room: no answer ever."""

    async def answer(self) -> bool:
        await asyncio.Event().wait()
        raise AssertionError

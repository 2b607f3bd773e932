"""T3: the same third party over real sockets, with the commands' own way to a relay.

It answers each side's code itself, runs a ceremony of its own with each, and lies to the
controller as soon as it can. The people are honest. What `tests/adversarial/test_pairing_mitm`
shows for the machines must hold for what drives them: nobody recorded, and nobody back.
"""

from __future__ import annotations

import asyncio

import pytest

from amesh_core.errors import RejectedHere, WrongDigits
from amesh_core.identity import Peer
from amesh_core.io import relay_client
from amesh_core.wire import relay as wire
from tests.support import scripted_relay
from tests.support.ceremony import Device, Side, channel_of, controller, target
from tests.support.people import ControllerInRoom, Room, TargetInRoom

PROD = Device.named("prod-api")
LAPTOP = Device.named("laptop")
MIDDLE = Device.named("middle")
PATIENCE_SECONDS = 20


class HostileRelay:
    """Both ends of two ceremonies, and a count of who came."""

    def __init__(self) -> None:
        self.connections = 0
        self.sides: list[Side] = []

    async def script(self, device: scripted_relay.Device) -> None:
        self.connections += 1
        match await device.hear():
            case wire.Listen(code):
                await device.say(wire.Ack(), wire.PeerFound())
                side = controller(MIDDLE, "middle", code)
            case wire.Connect(code):
                await device.say(wire.PeerFound())
                side = target(MIDDLE, "middle", code)
            case frame:
                raise AssertionError(frame)
        self.sides.append(side)
        side.start()
        while True:
            while side.outbox:
                await device.say(wire.Data(side.outbox.popleft()))
            if side.asks_digits:
                side.type(channel_of(side).digits)  # "they matched", whatever anybody typed
            elif side.asks_about is not None:
                side.answer(yes=True)
            else:
                side.hear(await device.payload())


class HonestController(ControllerInRoom):
    """Looks at the target's screen, and says what is there."""

    async def answer(self) -> bool:
        return await self.room.verdict


@pytest.mark.parametrize("patient", [True, False])
def test_a_hostile_relay_gets_nobody_recorded(patient: bool) -> None:
    """Also when the controller's question is answered before the digits are typed."""
    recorded: list[Peer] = []

    class Target(TargetInRoom):
        async def answer(self) -> str:
            if not patient:
                await self.room.asked.wait()
                self.room.verdict.set_result(False)  # its screen asks; it says nothing yet
            return await super().answer()

    async def main() -> None:
        relay = HostileRelay()
        async with scripted_relay.scripted(relay.script) as url:
            room = Room()
            listening = asyncio.create_task(
                relay_client.listen(
                    url,
                    identity=PROD.identity,
                    key=PROD.key,
                    person=Target(room),
                    record=recorded.append,
                )
            )
            inviting = asyncio.create_task(
                relay_client.invite(
                    url,
                    await room.code,
                    identity=LAPTOP.identity,
                    key=LAPTOP.key,
                    person=HonestController(room),
                    record=recorded.append,
                )
            )
            with pytest.raises(WrongDigits):
                await listening
            assert not room.matched.is_set()
            if patient:
                room.verdict.set_result(False)
            with pytest.raises(RejectedHere):
                await inviting
        assert recorded == []
        assert [side.recorded for side in relay.sides] == [[], []]
        assert relay.connections == 2

    asyncio.run(asyncio.wait_for(main(), PATIENCE_SECONDS))

"""The older pairing over a socket: the same driver, another machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from amesh_core.errors import (
    AmeshError,
    HomeUnwritable,
    NewerPairing,
    OlderPairing,
    OneSided,
    PairingExpired,
    RejectedByPeer,
    RejectedHere,
    RelayLost,
    WrongDigits,
)
from amesh_core.identity import Peer, Role
from amesh_core.io import relay_client
from amesh_core.pairing import ControllerCeremony, TargetCeremony
from amesh_core.pairing_v1 import ControllerCeremonyV1, TargetCeremonyV1
from tests.support.ceremony import CODE, Device
from tests.support.node import NodeController, NodeTarget
from tests.support.people import (
    ControllerAway,
    ControllerInRoom,
    ControllerWhoDoubts,
    Room,
    TargetInRoom,
    TargetWithBadEyes,
)
from tests.support.relay import relay_in_process, relay_url

PROD = Device.named("prod-api")
LAPTOP = Device.named("laptop")
PATIENCE_SECONDS = 20
T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(main, PATIENCE_SECONDS))


@dataclass
class Devices:
    """Two devices, their people, and what each has recorded."""

    url: str
    listens_with: type[TargetCeremony | TargetCeremonyV1] = TargetCeremonyV1
    invites_with: type[ControllerCeremony | ControllerCeremonyV1] = ControllerCeremonyV1
    room: Room = field(default_factory=Room)
    at_target: TargetInRoom = field(init=False)
    at_controller: ControllerInRoom = field(init=False)
    recorded: dict[Role, list[Peer]] = field(
        default_factory=lambda: {Role.TARGET: [], Role.CONTROLLER: []}
    )
    cannot_record: AmeshError | None = None

    def __post_init__(self) -> None:
        self.at_target = TargetInRoom(self.room)
        self.at_controller = ControllerInRoom(self.room)

    def record(self, peer: Peer) -> str:
        if self.cannot_record is not None:
            raise self.cannot_record
        self.recorded[peer.role].append(peer)
        return peer.friendly_name

    async def listen(self) -> str:
        return await relay_client.listen(
            self.url,
            identity=PROD.identity,
            key=PROD.key,
            person=self.at_target,
            record=self.record,
            machine=self.listens_with,
        )

    async def invite(
        self, code: str | None = None, clock: Callable[[], float] = lambda: 0.0
    ) -> str:
        return await relay_client.invite(
            self.url,
            code or await self.room.code,
            identity=LAPTOP.identity,
            key=LAPTOP.key,
            person=self.at_controller,
            record=self.record,
            machine=self.invites_with,
            clock=clock,
        )

    async def pair(self) -> tuple[str | BaseException, str | BaseException]:
        first, second = await asyncio.gather(self.listen(), self.invite(), return_exceptions=True)
        return first, second

    @property
    def nobody_is_recorded(self) -> bool:
        return self.recorded == {Role.TARGET: [], Role.CONTROLLER: []}


def test_two_of_ours_pair() -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            assert await devices.pair() == ("laptop", "prod-api")
            assert [p.public_key for p in devices.recorded[Role.CONTROLLER]] == [LAPTOP.key.public]
            assert [p.public_key for p in devices.recorded[Role.TARGET]] == [PROD.key.public]
            assert devices.at_target.seen[-1] == "matched"

    run(main())


def test_wrong_digits() -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            devices.at_target = TargetWithBadEyes(devices.room)
            target, controller = await devices.pair()
            assert isinstance(target, WrongDigits)
            assert isinstance(controller, RejectedByPeer)
            assert devices.nobody_is_recorded

    run(main())


def test_a_target_that_cannot_record_says_so_before_it_confirms() -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url, cannot_record=HomeUnwritable("disk full"))
            target, controller = await devices.pair()
            assert isinstance(target, HomeUnwritable)
            assert isinstance(controller, RejectedByPeer)
            assert "matched" not in devices.at_target.seen
            assert devices.nobody_is_recorded

    run(main())


def test_a_no_at_the_controller_comes_too_late_and_says_so() -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            devices = Devices(url)
            devices.at_controller = ControllerWhoDoubts(devices.room)
            target, controller = await devices.pair()
            assert target == "laptop"
            assert isinstance(controller, OneSided)
            assert isinstance(controller.__cause__, RejectedHere)
            assert devices.recorded[Role.TARGET] == []

    run(main())


@pytest.mark.parametrize("v1_side", ["target", "controller"])
def test_nothing_falls_back(v1_side: str) -> None:
    """Whoever speaks the current pairing ends it, and names no way on."""

    async def main() -> None:
        async with relay_in_process() as url:
            devices = (
                Devices(url, invites_with=ControllerCeremony)
                if v1_side == "target"
                else Devices(url, listens_with=TargetCeremony)
            )
            target, controller = await devices.pair()
            if v1_side == "target":
                assert isinstance(controller, OlderPairing)
                assert isinstance(target, RelayLost)
            else:
                assert isinstance(controller, NewerPairing)
                assert isinstance(target, OlderPairing)
            assert devices.nobody_is_recorded

    run(main())


# --- Node's devices -------------------------------------------------------------------------


def test_node_s_target_hangs_up_while_our_person_thinks() -> None:
    async def main(url: str) -> None:
        devices = Devices(url)
        node = NodeTarget(url, PROD)
        inviting = asyncio.create_task(devices.invite(CODE))
        await asyncio.to_thread(node.meet)
        node.type(await devices.room.digits)
        await devices.room.asked.wait()
        devices.room.matched.set()
        assert await inviting == "prod-api"
        assert [p.public_key for p in devices.recorded[Role.TARGET]] == [PROD.key.public]
        assert [p.public_key for p in node.side.recorded] == [LAPTOP.key.public]

    with relay_url() as url:
        run(main(url))


def test_node_s_controller() -> None:
    async def main(url: str) -> None:
        devices = Devices(url)
        listening = asyncio.create_task(devices.listen())
        node = NodeController(url, LAPTOP, await devices.room.code)
        devices.room.digits.set_result(await asyncio.to_thread(node.meet))
        assert await asyncio.to_thread(node.finish) == "sas_confirmed"
        assert [p.public_key for p in node.side.recorded] == [PROD.key.public]
        assert await listening == "laptop"
        assert [p.public_key for p in devices.recorded[Role.CONTROLLER]] == [LAPTOP.key.public]

    with relay_url() as url:
        run(main(url))


# --- while our person is asked --------------------------------------------------------------


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


async def asked(devices: Devices, *, after_seconds: float) -> asyncio.Task[str]:
    """Our controller's person is asked, and Node's target has recorded and gone."""
    clock = Clock()
    node = NodeTarget(devices.url, PROD)
    inviting = asyncio.create_task(devices.invite(CODE, clock))
    await asyncio.to_thread(node.meet)
    digits = await devices.room.digits
    clock.now = after_seconds
    node.type(digits)
    await devices.room.asked.wait()
    assert len(node.side.recorded) == 1
    return inviting


def test_an_interrupt_says_that_the_target_may_have_recorded_us() -> None:
    async def main(url: str) -> None:
        devices = Devices(url)
        devices.at_controller = ControllerAway(devices.room)
        inviting = await asked(devices, after_seconds=10)
        inviting.cancel()
        with pytest.raises(OneSided, match="interrupted"):
            await inviting
        assert devices.at_controller.seen[-1] == "prompt gone"
        assert devices.nobody_is_recorded

    with relay_url() as url:
        run(main(url))


def test_the_five_minutes_end_the_question_all_the_same() -> None:
    async def main(url: str) -> None:
        devices = Devices(url)
        devices.at_controller = ControllerAway(devices.room)
        inviting = await asked(devices, after_seconds=299.99)
        with pytest.raises(OneSided, match="5 minutes") as raised:
            await inviting
        assert isinstance(raised.value.__cause__, PairingExpired)
        assert devices.nobody_is_recorded

    with relay_url() as url:
        run(main(url))

"""Threats around a bootstrap token, seen from the controller that minted it.

Who knows a token's id but not the token; a relay that changes, repeats, withholds or invents
announcements and acks; a token that leaked and is used by another machine. What stops them:
mac and proof before anything else, one key for each token, written down before the list is,
and a signed ack (docs/protocol.md section 6). Each test asserts what is on the lists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amesh_core.errors import BadAcknowledgement
from amesh_core.identity import Role
from amesh_core.io import provisioned
from amesh_core.io.home import Home
from amesh_core.wire import relay as wire
from amesh_core.wire.encoding import b64
from tests.support.bootstrap_target import SoftKey, TokenHolder
from tests.support.home import NOW, make_home, peer_of, record
from tests.support.provisioning import (
    PATIENCE_SECONDS,
    Clock,
    HostileRelay,
    announce,
    given_out,
    is_acked,
    listed,
    waiting,
)
from tests.support.relay import relay_in_process
from tests.support.scripted_relay import Device as AtRelay
from tests.support.scripted_relay import scripted


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end, and fail instead of hanging."""
    asyncio.run(asyncio.wait_for(main, PATIENCE_SECONDS))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "controller", name="laptop")


def test_a_stranger_who_knows_the_id_of_a_token(home: Home) -> None:
    """Seen at the relay, or in `amesh provision --list`: it is nobody, and blocks nobody."""

    async def main() -> None:
        async with relay_in_process() as url:
            holder = TokenHolder(given_out(home, url))
            stranger = TokenHolder(given_out(home, url, name="a token of mine"))
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                frame = replace(stranger.init(), jti=holder.jti)
                guesses = [
                    frame,
                    replace(frame, mac=b64(bytes(32))),
                    replace(frame, mac=None, proof=None),
                    replace(frame, mac=None, proof=None, token=stranger.text),
                ]
                answers = await announce(url, *guesses)
                assert answers == [wire.BootstrapReject(holder.jti, "bad_announcement")] * 4
                assert listed(home) == {}
                (answer,) = await announce(url, holder.init())
                assert is_acked(holder, answer)
            assert listed(home) == {holder.device_id: "prod-server"}

    run(main())


@pytest.mark.parametrize("field", ["target_public_key", "proof", "mac", "friendly_name"])
def test_a_relay_that_puts_its_own_key_into_an_announcement(home: Home, field: str) -> None:
    async def main() -> None:
        script = HostileRelay()
        async with scripted(script.run) as url:
            holder = TokenHolder(given_out(home, url))
            relays_own = TokenHolder(given_out(home, "ws://elsewhere.example/ws"), name="mine")
            theirs: str = getattr(relays_own.init(), field)
            script.frames = [replace(holder.init(), **{field: theirs})]
            tokens = [minted for minted in provisioned.read(home) if minted.relay == url]
            async with waiting(home, tokens=tokens) as controller:
                await controller.told.hears("refused: bad_announcement")
                await script.hears(wire.BootstrapReject(holder.jti, "bad_announcement"))
        assert listed(home) == {}
        assert all(minted.used_by is None for minted in provisioned.read(home))

    run(main())


def test_a_token_that_leaked_is_used_a_second_time(home: Home) -> None:
    """After the relay forgot that it was used: the operator hears of it, the list stays."""

    async def main() -> None:
        text = ""
        async with relay_in_process() as url:
            text = given_out(home, url)
            first, thief = TokenHolder(text), TokenHolder(text, name="not the server")
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                (answer,) = await announce(url, first.init())
                assert is_acked(first, answer)
                await controller.ends()
            (answer,) = await announce(url, thief.init())
            assert answer == wire.BootstrapReject(first.jti, "token_already_used")
        script = HostileRelay([thief.init()])  # one that forgot, or never cared
        async with scripted(script.run) as url:
            given_out(home, url, name="another")
            used, other = provisioned.read(home)
            async with waiting(home, tokens=[replace(used, relay=url), other]) as controller:
                await controller.told.hears("used twice")
                await script.hears(wire.BootstrapReject(first.jti, "token_already_used"))
        assert listed(home) == {first.device_id: "prod-server"}
        assert used.used_by == first.key.public

    run(main())


def test_a_relay_that_repeats_an_announcement(home: Home) -> None:
    async def main() -> None:
        script = HostileRelay()
        async with scripted(script.run) as url:
            holder = TokenHolder(given_out(home, url))
            script.frames = [holder.init()] * 3
            async with waiting(home) as controller:
                await controller.ends()
            assert [type(frame) for frame in script.heard] == [wire.BootstrapAck] * 3
            assert listed(home) == {holder.device_id: "prod-server"}
            # And once the operator has revoked the device, it does not come back.
            with home.editing_allow_list(NOW + 90) as edit:
                edit.allow_list = edit.allow_list.revoke(edit.allow_list.find(holder.device_id))
            given_out(home, url, name="another")
            script.frames, script.heard = [holder.init()], []
            async with waiting(home) as controller:
                await controller.told.hears("refused: token_not_usable")
                await script.hears(wire.BootstrapReject(holder.jti, "token_not_usable"))
        assert listed(home) == {}

    run(main())


def test_an_announcement_that_was_kept_until_the_token_expired(home: Home) -> None:
    async def main() -> None:
        holder = TokenHolder("")
        clock = Clock(NOW + 3599)

        heard: list[wire.DeviceFrame] = []

        async def script(device: AtRelay) -> None:
            await device.hear()
            clock.now = NOW + 3600
            await device.say(wire.BootstrapWatching(holder.jti), holder.init())
            while True:
                frame = await device.hear()
                heard.append(frame)
                if isinstance(frame, wire.BootstrapWatch):
                    await device.say(wire.BootstrapWatching(holder.jti))

        async with scripted(script) as url:
            holder = TokenHolder(given_out(home, url))
            async with waiting(home, clock=clock) as controller:
                await controller.ends()
                assert controller.told.events[-1] == "settled prod-server"
        assert not any(isinstance(frame, wire.BootstrapAck) for frame in heard)
        assert listed(home) == {}
        (minted,) = provisioned.read(home)
        assert minted.used_by is None

    run(main())


@pytest.mark.parametrize("role", list(Role))
def test_a_device_that_is_listed_already(home: Home, role: Role) -> None:
    """A controller of ours that gets hold of a token does not become our target as well."""

    async def main() -> None:
        key = SoftKey()
        record(home, peer_of(key.private, "old friend", role))
        before = home.allow_list()
        async with relay_in_process() as url:
            holder = TokenHolder(given_out(home, url), key)
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                (answer,) = await announce(url, holder.init())
                assert answer == wire.BootstrapReject(holder.jti, "already_listed")
                # The token is still good for the server that it was made for.
                server = TokenHolder(holder.text)
                assert home.allow_list() == before
                assert provisioned.read(home)[0].used_by is None
                (answer,) = await announce(url, server.init())
                assert is_acked(server, answer)
        assert listed(home) == {
            holder.device_id: "old friend",
            server.device_id: "prod-server",
        }

    run(main())


def test_the_controller_announces_itself(home: Home) -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            holder = TokenHolder(given_out(home, url), home.key())
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                (answer,) = await announce(url, holder.init())
                assert answer == wire.BootstrapReject(holder.jti, "own_key")
        assert listed(home) == {}

    run(main())


def test_a_relay_that_lies_about_acks(home: Home) -> None:
    """It can withhold an ack, not make one: the target asks again, and gets it again."""

    async def main() -> None:
        script = HostileRelay()
        async with scripted(script.run) as url:
            holder = TokenHolder(given_out(home, url))
            script.frames = [holder.init(), holder.init()]
            async with waiting(home) as controller:
                await controller.ends()
        first, again = script.heard
        assert isinstance(first, wire.BootstrapAck)
        assert isinstance(again, wire.BootstrapAck)
        holder.check(wire.BootstrapAcked(again.jti, again.public_key, again.controller_sig))
        relays_own = SoftKey()
        from amesh_core.provisioning import acknowledge

        signature = b64(acknowledge(relays_own, holder.key.public, holder.jti))
        other_target = TokenHolder(holder.text)
        for lie, target in (
            (wire.BootstrapAcked(holder.jti, b64(relays_own.public), signature), holder),
            (wire.BootstrapAcked(holder.jti, first.public_key, signature), holder),
            (
                wire.BootstrapAcked(first.jti, first.public_key, first.controller_sig),
                other_target,
            ),
        ):
            with pytest.raises(BadAcknowledgement):
                target.check(lie)

    run(main())


@pytest.mark.parametrize("lie", ["token_already_used", "no_watcher", "x" * 60])
def test_a_relay_that_says_the_token_is_no_good(home: Home, lie: str) -> None:
    """No word of a relay ends the wait or uses up a token; it is asked again."""

    async def main() -> None:
        asked = 0
        holder = TokenHolder("")

        async def script(device: AtRelay) -> None:
            nonlocal asked
            while True:
                if isinstance(await device.hear(), wire.BootstrapWatch):
                    asked += 1
                    if asked < 3:
                        await device.say(wire.BootstrapReject(holder.jti, lie))
                    else:
                        await device.say(wire.BootstrapWatching(holder.jti), holder.init())

        async with scripted(script) as url:
            holder = TokenHolder(given_out(home, url))
            async with waiting(home) as controller:
                await controller.ends()
                assert controller.told.events == [
                    f"held up: {lie}",
                    "watching",
                    f"recorded {holder.device_id}",
                ]
        assert listed(home) == {holder.device_id: "prod-server"}

    run(main())


def test_a_node_target_only_with_a_token_made_for_it(home: Home) -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            strict = TokenHolder(given_out(home, url, name="python"))
            node = TokenHolder(given_out(home, url, name="node", for_node=True))
            async with waiting(home) as controller:
                await controller.told.hears("watching")
                (answer,) = await announce(url, strict.node_init())
                assert answer == wire.BootstrapReject(strict.jti, "bad_announcement")
                wrong = replace(node.node_init(), token=strict.text)
                (answer,) = await announce(url, wrong)
                assert answer == wire.BootstrapReject(node.jti, "bad_announcement")
                (answer,) = await announce(url, node.node_init())
                assert is_acked(node, answer)
        (device,) = home.allow_list().devices
        assert (device.device_id, device.friendly_name) == (node.device_id, "node")
        assert device.pairing == "bootstrap-unproven"

    run(main())

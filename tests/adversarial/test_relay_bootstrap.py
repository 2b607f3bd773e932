"""Threat: a stranger who knows a jti burns it, answers for its controller, or smuggles fields.

What stops it: a jti is used up by its watcher's ack alone; only the socket that watches can
answer; a frame is rebuilt from the listed fields (docs/protocol.md sections 4 and 6). In the
original any `bootstrap_init` burned a jti, and `controllerSig` never arrived.
"""

from __future__ import annotations

import json

import pytest
from websockets.sync.client import ClientConnection, connect

from amesh_core.wire import relay as wire
from amesh_relay.roles import Deliver
from tests.support.hub import JTI, House, error
from tests.support.relay import relay_process

INIT = wire.BootstrapInit(JTI, "A+Y=", mac="bQ==")


def test_a_stranger_who_knows_a_jti_cannot_burn_it() -> None:
    house = House()
    stranger = house.open("192.0.2.66")
    house.say(stranger, INIT)  # before anybody watches
    watcher = house.watching()
    for _ in range(3):  # and after, each refused by the controller
        house.say(stranger, INIT)
        house.say(watcher, wire.BootstrapReject(JTI, "bad_mac"))
    house.leave(stranger)
    house.take(watcher)
    target = house.open()
    assert house.say(target, INIT) == [Deliver(watcher, INIT)]
    assert house.say(watcher, wire.BootstrapAck(JTI, "key", "sig")) == [
        Deliver(target, wire.BootstrapAcked(JTI, "key", "sig"))
    ]


def test_an_ack_burns_it() -> None:
    house = House()
    watcher, target, copy = house.watching(), house.open(), house.open()
    house.say(target, INIT)
    house.say(watcher, wire.BootstrapAck(JTI, "key", "sig"))
    house.leave(watcher)
    house.say(copy, INIT)
    assert house.take(copy) == [wire.BootstrapReject(JTI, "token_already_used")]


@pytest.mark.parametrize(
    "answer", [wire.BootstrapAck(JTI, "evil", "sig"), wire.BootstrapReject(JTI, "go_away")]
)
def test_only_the_watching_socket_answers(
    answer: wire.BootstrapAck | wire.BootstrapReject,
) -> None:
    house = House()
    watcher, target = house.watching(), house.open()
    house.say(target, INIT)
    fresh = house.open("192.0.2.66")
    elsewhere = house.watching("bt_ffffffffffffffffffffffffffffffff")
    announcing = house.open("192.0.2.66")
    house.say(announcing, wire.BootstrapInit("bt_" + "e" * 32, "A"))
    house.take(announcing)
    for stranger in (fresh, elsewhere, announcing):
        house.say(stranger, answer)
        assert house.take(stranger) == [error("invalid_message")]
        assert house.closed[stranger] == 1008
    assert house.take(target) == []
    house.say(watcher, wire.BootstrapAck(JTI, "key", "sig"))
    assert house.take(target) == [wire.BootstrapAcked(JTI, "key", "sig")]


def test_an_earlier_watcher_cannot_answer() -> None:
    house = House()
    earlier = house.watching()
    house.leave(earlier)
    watcher, target = house.watching(), house.open()
    house.say(target, INIT)
    assert house.say(earlier, wire.BootstrapAck(JTI, "evil", "sig")) == []
    assert house.take(target) == []
    assert INIT in house.take(watcher)


def say(socket: ClientConnection, **fields: object) -> None:
    socket.send(json.dumps(fields))


def hear(socket: ClientConnection) -> object:
    return json.loads(socket.recv(timeout=10))


def test_the_listed_fields_arrive_and_no_others() -> None:
    """Over real sockets, as texts written by hand: what Node devices read and write."""
    with (
        relay_process() as relay,
        connect(relay.url, proxy=None) as watcher,
        connect(relay.url, proxy=None) as target,
    ):
        say(watcher, type="bootstrap_watch", jti=JTI)
        assert hear(watcher) == {"type": "bootstrap_watching", "jti": JTI}
        full = {
            "type": "bootstrap_init",
            "jti": JTI,
            "targetPubKey": "A+Y=",
            "friendlyName": "büro 7",
            "proof": "cA==",
            "mac": "bQ==",
            "token": "eyJ.e.s",
        }
        say(target, **full, controllerPubKey="smuggled", x={"y": 1})
        assert hear(watcher) == full
        say(watcher, type="bootstrap_reject", jti=JTI, error="bad_mac", publicKey="smuggled")
        assert hear(target) == {"type": "bootstrap_reject", "jti": JTI, "error": "bad_mac"}
        short = {"type": "bootstrap_init", "jti": JTI, "targetPubKey": "A+Y="}
        say(target, **short)
        assert hear(watcher) == short
        say(
            watcher,
            type="bootstrap_ack",
            jti=JTI,
            publicKey="A6s=",
            controllerSig="c2ln",
            friendlyName="smuggled",
        )
        assert hear(target) == {
            "type": "bootstrap_ack",
            "jti": JTI,
            "controllerPubKey": "A6s=",
            "controllerSig": "c2ln",
        }

"""A device moves on to a new key: the statement, and what a peer makes of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core import crypto, rotation
from amesh_core.allow_list import AllowList, Device
from amesh_core.crypto import PrivateKey
from amesh_core.errors import (
    AlreadyRotated,
    AmeshError,
    BadStatement,
    FormerKeyUnknown,
    Malformed,
    NotAController,
    OwnKey,
    TooManyControllers,
    TrustExpired,
    UnknownDevice,
)
from amesh_core.identity import Role, device_id
from amesh_core.rotation import DEFAULT_OVERLAP_SECONDS, MAX_AGE_SECONDS, MAX_AHEAD_SECONDS, Swap
from amesh_core.wire.encoding import b64, instant
from amesh_core.wire.rotation import (
    OtherKey,
    Pending,
    Retiring,
    Statement,
    parse_rotation_file,
)
from tests.support.home import NOW, peer_of

DAY: Final = 86_400


class Key:
    """A key as a back end gives it; `mac` is of no use here."""

    def __init__(self) -> None:
        self._private = PrivateKey.generate()

    @property
    def public(self) -> bytes:
        return self._private.public

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    def mac(self, message: bytes) -> bytes:
        raise AssertionError("nothing is sealed here")


OLD, NEW, NEWER, OWNER, OTHER = Key(), Key(), Key(), Key(), Key()
STATEMENT: Final = rotation.state(OLD, NEW, "laptop", NOW)


def peer(key: Key, name: str = "laptop", role: Role = Role.CONTROLLER) -> Any:
    return peer_of(key._private, name, role)


def listing(*, role: Role = Role.CONTROLLER, expires_at: float | None = None) -> AllowList:
    """The list of a device that knows the old key, between two others."""
    allow_list = AllowList.empty(OWNER.public, NOW)
    for key, name in ((Key(), "first"), (OLD, "laptop"), (Key(), "last")):
        allow_list = allow_list.record(
            peer(key, name, role if key is OLD else Role.TARGET),
            added_by="handshake",
            now=NOW,
            limit=1,
            expires_at=expires_at if key is OLD else None,
        )
    return allow_list


def accept(
    allow_list: AllowList,
    statement: Statement = STATEMENT,
    *,
    now: float = NOW,
    overlap_seconds: int = DEFAULT_OVERLAP_SECONDS,
) -> Swap:
    rotation.check(statement, now)
    return rotation.accept(allow_list, statement, now=now, overlap_seconds=overlap_seconds)


def may_call(allow_list: AllowList, key: Key, now: float) -> bool:
    try:
        return allow_list.controller(key.public, now).public_key == key.public
    except (UnknownDevice, NotAController, TrustExpired):
        return False


def entry_of(allow_list: AllowList, key: Key) -> Device:
    return next(device for device in allow_list.devices if device.public_key == key.public)


# --- the statement ----------------------------------------------------------------------


def test_what_both_keys_sign() -> None:
    old, new = STATEMENT.signed_bytes("old"), STATEMENT.signed_bytes("new")
    rest = OLD.public + NEW.public + b"2026-01-02T03:04:05.678Z\0laptop"
    assert old == b"amesh-rotation/1 old\0" + rest
    assert new == b"amesh-rotation/1 new\0" + rest
    crypto.verify(OLD.public, STATEMENT.old_signature, old)
    crypto.verify(NEW.public, STATEMENT.new_signature, new)


def test_a_statement_is_one_line_of_ascii() -> None:
    statement = rotation.state(OLD, NEW, "bücher \u202e\ud800", NOW)
    text = statement.encode()
    assert text.isascii()
    assert text.isprintable()
    assert rotation.read(f" {text}\n".encode(), NOW) == statement
    assert json.loads(text)["type"] == "amesh-rotation"


@pytest.mark.parametrize(
    "change",
    [
        {"oldKey": b64(OTHER.public)},
        {"newKey": b64(OTHER.public)},
        {"friendlyName": "another"},
        {"friendlyName": ""},
        {"issuedAt": instant(NOW + 0.001)},
        {"oldSig": b64(STATEMENT.new_signature), "newSig": b64(STATEMENT.old_signature)},
        {"oldSig": b64(STATEMENT.new_signature)},
        {"newSig": b64(STATEMENT.old_signature)},
        # Whoever has the new key signs twice, and whoever has the old one does.
        {"oldSig": b64(NEW.sign(STATEMENT.signed_bytes("old")))},
        {"newSig": b64(OLD.sign(STATEMENT.signed_bytes("new")))},
        {"newSig": b64(NEW.sign(STATEMENT.signed_bytes("old")))},
        {"oldKey": b64(b"\x02" + b"\xff" * 32)},
    ],
)
def test_what_is_signed_cannot_be_changed(change: dict[str, str]) -> None:
    text = json.dumps(STATEMENT.entry() | change)
    with pytest.raises(BadStatement):
        rotation.read(text.encode(), NOW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"x"',
        json.dumps(STATEMENT.entry() | {"more": 1}),
        json.dumps({k: v for k, v in STATEMENT.entry().items() if k != "friendlyName"}),
        json.dumps(STATEMENT.entry() | {"version": 2}),
        json.dumps(STATEMENT.entry() | {"version": True}),
        json.dumps(STATEMENT.entry() | {"version": 1.0}),
        json.dumps(STATEMENT.entry() | {"type": "amesh-card"}),
        json.dumps(STATEMENT.entry() | {"oldKey": b64(OLD.public)[:-1]}),
        json.dumps(STATEMENT.entry() | {"newKey": b64(NEW.public + b"x")}),
        json.dumps(STATEMENT.entry() | {"oldSig": b64(b"x")}),
        json.dumps(STATEMENT.entry() | {"issuedAt": "2026-01-02T03:04:05Z"}),
        json.dumps(STATEMENT.entry() | {"friendlyName": 1}),
        json.dumps(STATEMENT.entry() | {"friendlyName": "x" * 5000}),
        STATEMENT.encode().replace('"version":1', '"version":1,"version":1'),
        STATEMENT.encode() + STATEMENT.encode(),
    ],
)
def test_what_is_no_statement(text: str) -> None:
    with pytest.raises(BadStatement):
        rotation.read(text.encode(), NOW)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8")))
def test_any_bytes_are_a_statement_or_malformed(data: bytes) -> None:
    for parse in (Statement.parse, parse_rotation_file):
        with pytest.raises(Malformed):
            parse(data)


def test_one_key_twice_is_no_rotation() -> None:
    with pytest.raises(BadStatement, match="one key twice"):
        rotation.check(rotation.state(OLD, OLD, "laptop", NOW), NOW)


@pytest.mark.parametrize(
    ("now", "is_good"),
    [
        (NOW + MAX_AGE_SECONDS, True),
        (NOW + MAX_AGE_SECONDS + 0.01, False),
        (NOW - MAX_AHEAD_SECONDS, True),
        (NOW - MAX_AHEAD_SECONDS - 0.01, False),
    ],
)
def test_a_statement_has_its_time(now: float, is_good: bool) -> None:
    if is_good:
        rotation.check(STATEMENT, now)
    else:
        with pytest.raises(BadStatement, match="2026-01-02"):
            rotation.check(STATEMENT, now)


def test_signatures_do_not_print() -> None:
    assert "signature" not in repr(STATEMENT)


# --- the swap ---------------------------------------------------------------------------


def test_the_entry_keeps_everything_but_its_key() -> None:
    allow_list = listing(expires_at=NOW + 9 * DAY)
    extra = {"limits": {"rate": 5}}
    before = dataclasses.replace(entry_of(allow_list, OLD), pairing="v1", extra=extra)
    allow_list = allow_list._with(entry_of(allow_list, OLD), before)
    swap = accept(allow_list)
    assert swap.before == before
    assert swap.after == dataclasses.replace(
        before, device_id=device_id(NEW.public), public_key=NEW.public
    )
    assert swap.allow_list.devices.index(swap.after) == 1
    assert swap.allow_list.devices[0] == allow_list.devices[0]
    assert swap.allow_list.devices[2] == allow_list.devices[2]
    assert swap.allow_list.devices[3:] == (swap.overlap,)


def test_both_keys_are_let_in_for_a_while() -> None:
    after = accept(listing(), overlap_seconds=3600).allow_list
    assert [may_call(after, key, NOW) for key in (OLD, NEW)] == [True, True]
    assert [may_call(after, key, NOW + 3599) for key in (OLD, NEW)] == [True, True]
    assert [may_call(after, key, NOW + 3601) for key in (OLD, NEW)] == [False, True]


def test_without_an_overlap_the_old_key_is_out_at_once() -> None:
    swap = accept(listing(), overlap_seconds=0)
    assert swap.overlap is None
    assert [may_call(swap.allow_list, key, NOW) for key in (OLD, NEW)] == [False, True]


@pytest.mark.parametrize("left_seconds", [3600, 2 * DAY])
def test_the_old_key_lives_no_longer_than_it_would_have(left_seconds: int) -> None:
    swap = accept(listing(expires_at=NOW + left_seconds))
    assert swap.overlap is not None
    assert swap.overlap.expires_at == instant(NOW + min(left_seconds, DAY))
    assert swap.after.expires_at == instant(NOW + left_seconds)


@pytest.mark.parametrize("end", [instant(NOW), "soon"])
def test_expired_trust_is_not_renewed(end: str) -> None:
    allow_list = listing()
    expired = dataclasses.replace(entry_of(allow_list, OLD), expires_at=end)
    allow_list = allow_list._with(entry_of(allow_list, OLD), expired)
    swap = accept(allow_list)
    assert swap.overlap is None
    assert swap.after.expires_at == end
    assert not may_call(swap.allow_list, NEW, NOW)


def test_of_a_target_nothing_overlaps() -> None:
    swap = accept(listing(role=Role.TARGET))
    assert swap.overlap is None
    assert len(swap.allow_list.devices) == 3
    assert swap.after.role is Role.TARGET


def test_a_former_key_survives_the_file() -> None:
    after = accept(listing()).allow_list
    again = [Device.parse(device.entry()) for device in after.devices]
    assert again == list(after.devices)
    assert [device.is_former for device in again] == [False, False, False, True]
    assert again[3].successor == NEW.public


# --- replayed, reversed, out of order ---------------------------------------------------


def refused(allow_list: AllowList, statement: Statement, error: type[AmeshError]) -> None:
    with pytest.raises(error):
        accept(allow_list, statement)


def test_a_statement_counts_once() -> None:
    refused(accept(listing()).allow_list, STATEMENT, AlreadyRotated)
    refused(accept(listing(), overlap_seconds=0).allow_list, STATEMENT, FormerKeyUnknown)


def test_of_two_new_keys_the_first_counts() -> None:
    """An attacker with a copy of the old key states another one."""
    theirs = rotation.state(OLD, OTHER, "laptop", NOW)
    refused(accept(listing()).allow_list, theirs, AlreadyRotated)


def test_there_is_no_way_back() -> None:
    after = accept(listing()).allow_list
    refused(after, rotation.state(NEW, OLD, "laptop", NOW), AlreadyRotated)
    refused(after, rotation.state(NEWER, NEW, "laptop", NOW), FormerKeyUnknown)


def test_a_revoked_device_does_not_come_back() -> None:
    allow_list = listing()
    revoked = allow_list.revoke(entry_of(allow_list, OLD))
    refused(revoked, STATEMENT, FormerKeyUnknown)
    after = accept(allow_list).allow_list
    revoked = after.revoke(entry_of(after, NEW))
    refused(revoked, STATEMENT, FormerKeyUnknown)
    refused(revoked, rotation.state(NEW, NEWER, "laptop", NOW), FormerKeyUnknown)


def test_a_key_that_is_another_device_s_takes_no_place() -> None:
    allow_list = listing().record(peer(NEW, "another"), added_by="handshake", now=NOW, limit=5)
    refused(allow_list, STATEMENT, AlreadyRotated)


@pytest.mark.parametrize(
    "statement", [rotation.state(OLD, OWNER, "x", NOW), rotation.state(OWNER, NEW, "x", NOW)]
)
def test_not_with_our_own_key(statement: Statement) -> None:
    refused(listing(), statement, OwnKey)


def test_twice_within_the_overlap() -> None:
    """The oldest key is let in as long as it was to be, by the grace of the newest."""
    once = accept(listing(), overlap_seconds=3600).allow_list
    twice = accept(once, rotation.state(NEW, NEWER, "laptop", NOW)).allow_list
    assert [may_call(twice, key, NOW) for key in (OLD, NEW, NEWER)] == [True, True, True]
    assert [may_call(twice, key, NOW + 3601) for key in (OLD, NEW, NEWER)] == [False, True, True]
    assert len(twice.controllers()) == 1
    gone = twice.revoke(entry_of(twice, NEWER))
    assert [may_call(gone, key, NOW) for key in (OLD, NEW, NEWER)] == [False, False, False]
    assert len(gone.devices) == 2


def test_former_keys_do_not_pile_up() -> None:
    allow_list, keys = listing(), [OLD, *(Key() for _ in range(5))]
    now = NOW
    for old, new in pairwise(keys):
        statement = rotation.state(old, new, "laptop", now)
        allow_list = accept(allow_list, statement, now=now).allow_list
        now += DAY + 1
    assert len(allow_list.devices) == 4


# --- a former key and everything else that is done to a list ----------------------------


@pytest.fixture
def after() -> AllowList:
    return accept(listing()).allow_list


def test_it_is_no_controller_more(after: AllowList) -> None:
    assert [device.public_key for device in after.controllers()] == [NEW.public]
    with pytest.raises(TooManyControllers):
        after.record(peer(OTHER, "other"), added_by="handshake", now=NOW, limit=1)
    full = after.record(peer(OTHER, "other"), added_by="handshake", now=NOW, limit=2)
    assert len(full.controllers()) == 2


def test_it_lives_no_longer_than_its_successor(after: AllowList) -> None:
    """However that ends: revoked, its trust shortened, its role lost."""
    new = entry_of(after, NEW)
    changes: list[Callable[[], AllowList]] = [
        lambda: after.revoke(new),
        lambda: after.extended(new, NOW - 1),
        lambda: after._with(new, dataclasses.replace(new, role=None)),
        lambda: after._with(new, dataclasses.replace(new, role=Role.TARGET)),
        lambda: dataclasses.replace(
            after, devices=tuple(d for d in after.devices if d.public_key != NEW.public)
        ),
    ]
    assert may_call(after, OLD, NOW)
    for change in changes:
        assert not may_call(change(), OLD, NOW)


@pytest.mark.parametrize(
    "successor",
    [b64(OLD.public), b64(OTHER.public), "", 1, None],
    ids=["itself", "another", "empty", "number", "none"],
)
def test_a_successor_that_is_none_lets_nobody_in(after: AllowList, successor: object) -> None:
    old = entry_of(after, OLD)
    odd = dataclasses.replace(old, extra={"rotatedTo": successor})
    assert not may_call(after._with(old, odd), OLD, NOW)


def test_it_is_revoked_with_its_successor(after: AllowList) -> None:
    assert len(after.revoke(entry_of(after, NEW)).devices) == 2
    # And alone, when it is meant.
    alone = after.revoke(entry_of(after, OLD))
    assert [may_call(alone, key, NOW) for key in (OLD, NEW)] == [False, True]


def test_it_leaves_when_its_successor_is_replaced(after: AllowList) -> None:
    replaced = after.record(
        peer(OTHER, "other"),
        added_by="handshake",
        now=NOW,
        limit=1,
        replacing=[device_id(NEW.public)],
    )
    assert [may_call(replaced, key, NOW) for key in (OLD, NEW, OTHER)] == [False, False, True]
    assert len(replaced.devices) == 3


def test_the_name_is_that_of_the_new_key(after: AllowList) -> None:
    assert after.find("laptop").public_key == NEW.public
    assert after.find(device_id(OLD.public)).public_key == OLD.public
    renamed = after.renamed(entry_of(after, NEW), "workstation").renamed(
        entry_of(after, NEW), "laptop"
    )
    assert renamed.find("laptop").public_key == NEW.public
    again = after.record(peer(NEW), added_by="handshake", now=NOW, limit=1)
    assert again.find("laptop").public_key == NEW.public


def test_its_end_is_not_moved(after: AllowList) -> None:
    with pytest.raises(NotAController):
        after.extended(entry_of(after, OLD), None)


def test_paired_again_it_is_a_device_of_its_own(after: AllowList) -> None:
    again = after.record(peer(OLD, "old laptop"), added_by="handshake", now=NOW, limit=2)
    assert not entry_of(again, OLD).is_former
    assert len(again.controllers()) == 2
    with pytest.raises(TooManyControllers):
        after.record(peer(OLD), added_by="handshake", now=NOW, limit=1)


# --- rotation.json ----------------------------------------------------------------------


def test_the_file_of_a_rotation() -> None:
    key = OtherKey(device_id(NEW.public), NEW.public, "tpm2")
    for file in (Pending(key, STATEMENT), Retiring(key)):
        assert parse_rotation_file(file.encode()) == file


@pytest.mark.parametrize(
    "change",
    [
        {"version": "2.0.1"},
        {"state": "done"},
        {"keyAlias": "../x"},
        {"publicKey": b64(b"x")},
        {"storageBackend": 1},
        {"statement": None},
        {"statement": STATEMENT.entry() | {"more": 1}},
        {"more": 1},
    ],
)
def test_a_file_that_is_none(change: dict[str, object]) -> None:
    key = OtherKey(device_id(NEW.public), NEW.public, "tpm2")
    document = json.loads(Pending(key, STATEMENT).encode())
    with pytest.raises(Malformed):
        parse_rotation_file(json.dumps(document | change).encode())

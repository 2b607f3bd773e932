"""Trust with an end, and names that are unique on one list."""

from __future__ import annotations

from dataclasses import replace

import pytest

from amesh_core.allow_list import AllowList, Device
from amesh_core.errors import (
    AmbiguousDevice,
    Malformed,
    NoSuchDevice,
    NotAController,
    TrustExpired,
)
from amesh_core.identity import Peer, Role
from tests.support.ceremony import Device as SoftDevice
from tests.support.home import NOW, make_peer

OWNER = SoftDevice.named("owner").key
DAY = 86_400


def recorded(*peers: Peer, expires_at: float | None = None) -> AllowList:
    result = AllowList.empty(OWNER.public, NOW)
    for peer in peers:
        result = result.record(peer, added_by="handshake", now=NOW, limit=9, expires_at=expires_at)
    return result


def reread(allow_list: AllowList) -> AllowList:
    return AllowList.parse(allow_list.encode(OWNER), OWNER)


def test_a_controller_is_let_in_until_its_trust_ends() -> None:
    peer = make_peer()
    allow_list = reread(recorded(peer, expires_at=NOW + DAY))
    assert allow_list.controller(peer.public_key, NOW + DAY - 0.001).device_id == peer.device_id
    with pytest.raises(TrustExpired):
        allow_list.controller(peer.public_key, NOW + DAY)


def test_pairing_again_sets_the_end_anew() -> None:
    peer = make_peer()
    once = recorded(peer, expires_at=NOW + DAY)
    for expires_at in (None, NOW + 2 * DAY):
        again = once.record(peer, added_by="handshake", now=NOW, limit=9, expires_at=expires_at)
        (device,) = reread(again).devices
        assert device.is_expired(NOW + DAY) is False
        assert device.is_expired(NOW + 2 * DAY) is (expires_at is not None)


def test_an_expired_entry_still_counts_against_the_limit() -> None:
    assert len(recorded(make_peer(), expires_at=NOW - 1).controllers()) == 1


def test_the_end_is_moved_in_both_directions_and_taken_away() -> None:
    peer, other = make_peer("one"), make_peer("other")
    allow_list = recorded(peer, other, expires_at=NOW - 1)
    entry = allow_list.find(peer.device_id)
    for end, lasts in ((NOW + DAY, True), (NOW - DAY, False), (None, True)):
        allow_list = reread(allow_list.extended(entry, end))
        after = allow_list.find(peer.device_id)
        assert after.is_expired(NOW) is not lasts
        assert replace(after, expires_at=None) == replace(entry, expires_at=None)
        assert allow_list.find(other.device_id).is_expired(NOW)


def test_an_end_that_was_no_time_is_gone_afterwards() -> None:
    peer = make_peer()
    (entry,) = recorded(peer).devices
    odd = Device.parse({**entry.entry(), "expiresAt": 5, "note": "stays"})
    assert odd.is_expired(NOW)
    allow_list = replace(recorded(), devices=(odd,))
    (after,) = reread(allow_list.extended(odd, NOW + DAY)).devices
    assert not after.is_expired(NOW)
    assert after.extra == {"note": "stays"}
    (forever,) = reread(allow_list.extended(odd, None)).devices
    assert not forever.is_expired(NOW)


@pytest.mark.parametrize("role", [Role.TARGET, None])
def test_only_a_controller_is_trusted(role: Role | None) -> None:
    (entry,) = recorded(make_peer(role=Role.TARGET)).devices
    allow_list = replace(recorded(), devices=(replace(entry, role=role),))
    with pytest.raises(NotAController):
        allow_list.extended(entry, NOW + DAY)


def test_who_is_not_listed_is_not_extended() -> None:
    (entry,) = recorded(make_peer()).devices
    with pytest.raises(NoSuchDevice):
        recorded(make_peer()).extended(entry, NOW + DAY)
    with pytest.raises(NoSuchDevice):
        recorded(make_peer()).renamed(entry, "other")


# --- names ------------------------------------------------------------------------------


def test_a_device_is_renamed() -> None:
    first, second = make_peer("laptop"), make_peer("laptop")
    allow_list = recorded(first, second)
    suffixed = allow_list.find(second.device_id)
    assert suffixed.friendly_name == f"laptop ({second.device_id})"
    after = reread(allow_list.renamed(suffixed, "old laptop"))
    assert after.find("old laptop").device_id == second.device_id
    assert after.find("laptop").device_id == first.device_id


def test_a_name_in_use_is_refused_and_one_s_own_is_not() -> None:
    first, second = make_peer("first"), make_peer("second")
    allow_list = recorded(first, second)
    entry = allow_list.find("second")
    with pytest.raises(AmbiguousDevice):
        allow_list.renamed(entry, "first")
    assert allow_list.renamed(entry, "second").devices == allow_list.devices


@pytest.mark.parametrize("name", ["", "a  b", 'a"b', "\x1b[2J", "a" * 65])
def test_a_bad_name_is_refused(name: str) -> None:
    allow_list = recorded(make_peer("first"))
    with pytest.raises(Malformed):
        allow_list.renamed(allow_list.find("first"), name)

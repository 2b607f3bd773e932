"""The allow list: Node's vectors, the seal, who may call, what is recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core import crypto
from amesh_core.allow_list import AllowList, Device
from amesh_core.errors import (
    AllowListTampered,
    AmbiguousDevice,
    Malformed,
    NoSuchDevice,
    NotAController,
    OwnKey,
    RoleConflict,
    TooManyControllers,
    TrustExpired,
    Unauthenticated,
    UnknownDevice,
)
from amesh_core.identity import Peer, Role, check_name, device_id
from amesh_core.wire.encoding import b64, canonical_json, instant, parse_instant
from amesh_core.wire.files import AllowListFile
from tests.support import vectors
from tests.support.home import NOW, make_peer

CASES: Final[list[dict[str, Any]]] = vectors.load("allow_list.json")["cases"]

# Where docs/protocol.md section 2 is stricter than Node's verdict "ok" (vectors/README.md).
REFUSED_HERE: Final = {
    "other version string, sealed",
    "hmac base64url alphabet / no padding",
    "two devices with the same id, sealed",
}
# Node makes these a controller; here they stay on the list and may not authenticate.
WITHOUT_ROLE: Final = {
    "without role, stable seal",
    "role empty string becomes controller",
    "role null becomes controller",
}


class SealKey:
    """A device key that can only seal, from the HMAC material of a vector."""

    def __init__(self, material: bytes, owner_id: str) -> None:
        salt = b"amesh-allow-list-integrity-v1"
        self._key = crypto.hkdf(material, salt=salt, info=owner_id.encode())
        self.public = b"\x02" + bytes(32)

    def mac(self, message: bytes) -> bytes:
        return crypto.hmac_sha256(self._key, message)

    def sign(self, message: bytes) -> bytes:
        raise NotImplementedError


KEY: Final = SealKey(bytes(range(1, 33)), "am_Jiewadq71uJbO88K")
OWNER: Final = KEY.public


def vector(name: str) -> dict[str, Any]:
    return next(case for case in CASES if case["name"] == name)


def empty() -> AllowList:
    return AllowList.empty(OWNER, NOW)


def add(allow_list: AllowList, peer: Peer, **more: Any) -> AllowList:
    options: dict[str, Any] = {"added_by": "handshake", "now": NOW, "limit": 10**6}
    return allow_list.record(peer, **options | more)


def sealed_by_hand(devices: list[dict[str, Any]], key: SealKey = KEY) -> bytes:
    """allow_list.json with any entries under a good seal, without the code under test."""
    body = {"version": "2.0.0", "devices": devices, "updatedAt": "2026-01-02T03:04:05.678Z"}
    return json.dumps(body | {"hmac": b64(key.mac(canonical_json(body)))}).encode()


ENTRY: Final[dict[str, Any]] = vector("one controller")["devices"][0]
ENTRY_KEY: Final = b"\x01" * 33


# --- vectors ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_vector(case: dict[str, Any]) -> None:
    key = SealKey(bytes.fromhex(case["hmac_key_material_hex"]), case["device_id"])
    data = case["file_text"].encode("utf-8", "surrogatepass")
    if case["expect"] == "error" or case["name"] in REFUSED_HERE:
        with pytest.raises(AllowListTampered):
            AllowList.parse(data, key)
        return
    allow_list = AllowList.parse(data, key)
    assert AllowListFile.parse(data).sealed_bytes() == case["canonical"].encode()

    written = json.loads(allow_list.encode(key))
    in_file = json.loads(case["file_text"])
    assert written["devices"] == in_file["devices"]
    assert written["updatedAt"] == in_file["updatedAt"]
    # Exactly the lists that Node seals anew are the legacy ones and those without a role.
    assert (written["hmac"] != in_file["hmac"]) == (
        case["resealed"] and case["name"] not in WITHOUT_ROLE
    )
    expected = [device["role"] for device in case["devices"]]
    if case["name"] in WITHOUT_ROLE:
        expected = [None]
    assert [device.role for device in allow_list.devices] == expected


def test_every_deviation_from_node_is_in_the_vectors() -> None:
    verdicts = {case["name"]: case["expect"] for case in CASES}
    assert {name: verdicts[name] for name in REFUSED_HERE | WITHOUT_ROLE} == dict.fromkeys(
        REFUSED_HERE | WITHOUT_ROLE, "ok"
    )


@pytest.mark.parametrize("name", sorted(WITHOUT_ROLE))
def test_without_a_role_nobody_authenticates(name: str) -> None:
    """LESSONS: unknown and missing roles count as controller there."""
    allow_list = AllowList.parse(vector(name)["file_text"].encode(), KEY)
    with pytest.raises(NotAController):
        allow_list.controller(ENTRY_KEY, NOW)
    assert allow_list.controllers() == ()


def test_a_legacy_seal_is_replaced_at_the_next_write() -> None:
    case = vector("legacy insertion-order seal (with role)")
    allow_list = AllowList.parse(case["file_text"].encode(), KEY)
    written = AllowListFile.parse(allow_list.encode(KEY))
    assert written.seal == KEY.mac(case["canonical"].encode())
    assert AllowList.parse(allow_list.encode(KEY), KEY) == allow_list


# --- the seal ---------------------------------------------------------------------------


def test_every_byte_of_a_list_is_covered() -> None:
    data = add(empty(), make_peer("prod-api")).encode(KEY)
    for position in range(len(data)):
        mutated = bytearray(data)
        mutated[position] ^= 0x01
        with pytest.raises(AllowListTampered):
            AllowList.parse(bytes(mutated), KEY)


def test_the_list_of_another_device_is_not_ours() -> None:
    other = SealKey(bytes(range(1, 33)), "am_AAAAAAAAAAAAAAAA")
    with pytest.raises(AllowListTampered, match="seal"):
        AllowList.parse(empty().encode(other), KEY)


def test_the_seal_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, bytes]] = []

    def same(a: bytes, b: bytes) -> bool:
        seen.append((a, b))
        return False

    data = empty().encode(KEY)
    monkeypatch.setattr(crypto, "same", same)
    with pytest.raises(AllowListTampered):
        AllowList.parse(data, KEY)
    assert len(seen) == 2


# --- entries ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["deviceId", "publicKey", "friendlyName", "addedAt", "addedBy"])
def test_no_entry_without(key: str) -> None:
    for broken in ({k: v for k, v in ENTRY.items() if k != key}, {**ENTRY, key: 7}):
        with pytest.raises(AllowListTampered):
            AllowList.parse(sealed_by_hand([broken]), KEY)


@pytest.mark.parametrize(
    "change",
    [
        {"deviceId": "am_\x1b[31m"},
        {"deviceId": ""},
        {"publicKey": "AQEB"},
        {"publicKey": "____" + ENTRY["publicKey"][4:]},
    ],
)
def test_no_entry_with(change: dict[str, str]) -> None:
    with pytest.raises(AllowListTampered):
        AllowList.parse(sealed_by_hand([ENTRY | change]), KEY)


def test_no_key_twice() -> None:
    """One key under two ids could be revoked under one and stay under the other."""
    other = ENTRY | {"deviceId": "am_dev2", "role": "target"}
    with pytest.raises(AllowListTampered, match="twice"):
        AllowList.parse(sealed_by_hand([ENTRY, other]), KEY)


def test_no_id_twice() -> None:
    """Revoking one of two keys under one id would leave the other."""
    other = ENTRY | {"publicKey": b64(b"\x02" * 33)}
    with pytest.raises(AllowListTampered, match="twice"):
        AllowList.parse(sealed_by_hand([ENTRY, other]), KEY)


@pytest.mark.parametrize("role", ["admin", "Controller", "controller ", 1, True, [], {}, None])
def test_an_unknown_role_is_kept_and_may_not_authenticate(role: object) -> None:
    allow_list = AllowList.parse(sealed_by_hand([ENTRY | {"role": role}]), KEY)
    assert allow_list.devices[0].role is None
    with pytest.raises(NotAController):
        allow_list.controller(ENTRY_KEY, NOW)
    assert json.loads(allow_list.encode(KEY))["devices"] == [ENTRY | {"role": role}]


def test_what_we_do_not_know_is_kept_under_the_seal() -> None:
    strange = ENTRY | {"note": "\ud800", "nested": {"z": [1.5, None]}, "pairing": 7}
    data = AllowList.parse(sealed_by_hand([strange]), KEY).encode(KEY)
    assert json.loads(data)["devices"] == [strange]
    with pytest.raises(AllowListTampered):
        AllowList.parse(data.replace(b"1.5", b"2.5"), KEY)


# --- who may call -----------------------------------------------------------------------


def test_a_controller_is_found_by_its_key() -> None:
    peer = make_peer("ci")
    found = add(add(empty(), make_peer()), peer).controller(peer.public_key, NOW)
    assert (found.device_id, found.friendly_name) == (peer.device_id, "ci")


def test_an_unlisted_key_is_unknown() -> None:
    with pytest.raises(UnknownDevice):
        add(empty(), make_peer()).controller(make_peer().public_key, NOW)


def test_a_target_may_not_call() -> None:
    peer = make_peer(role=Role.TARGET)
    with pytest.raises(NotAController):
        add(empty(), peer).controller(peer.public_key, NOW)


def test_the_id_in_the_list_is_not_what_is_matched() -> None:
    """An entry that claims another device's id lets in its own key only."""
    victim = make_peer()
    liar = ENTRY | {"deviceId": victim.device_id}
    allow_list = AllowList.parse(sealed_by_hand([liar]), KEY)
    with pytest.raises(UnknownDevice):
        allow_list.controller(victim.public_key, NOW)


@pytest.mark.parametrize(
    ("expires_at", "now", "expired"),
    [
        ("2026-01-02T03:04:05.678Z", NOW - 0.001, False),
        ("2026-01-02T03:04:05.678Z", NOW, True),
        ("2026-01-02T03:04:05.678Z", NOW + 1, True),
        ("2027-01-02", NOW, True),
        ("2027-01-02T00:00:00Z", NOW, True),
        ("2027-01-02T00:00:00.000+00:00", NOW, True),
        ("2027-02-30T00:00:00.000Z", NOW, True),
        ("never", NOW, True),
        ("", NOW, True),
        (None, NOW, True),
        (99999999999999, NOW, True),
        ({}, NOW, True),
    ],
)
def test_trust_can_end(expires_at: object, now: float, expired: bool) -> None:
    entry = ENTRY | {"expiresAt": expires_at}
    allow_list = AllowList.parse(sealed_by_hand([entry]), KEY)
    assert json.loads(allow_list.encode(KEY))["devices"] == [entry]
    if expired:
        with pytest.raises(TrustExpired):
            allow_list.controller(ENTRY_KEY, now)
    else:
        assert allow_list.controller(ENTRY_KEY, now).device_id == "am_dev1"


def test_looking_up_does_not_walk_the_list() -> None:
    """10 000 devices: the look-up touches the entry it finds and no other."""
    device = add(empty(), make_peer()).devices[0]
    others = tuple(
        replace(device, device_id=f"am_{n}", public_key=n.to_bytes(33, "big"))
        for n in range(10_000)
    )
    allow_list = AllowList(OWNER, (*others, device), instant(NOW))

    class CountedKey(bytes):
        compared = 0

        def __eq__(self, other: object) -> bool:
            CountedKey.compared += 1
            return bytes(self) == other

        __hash__ = bytes.__hash__

    assert allow_list.controller(CountedKey(device.public_key), NOW) is device
    assert CountedKey.compared <= 3


# --- naming a device --------------------------------------------------------------------


def listed(*devices: tuple[str, str]) -> AllowList:
    entries = [
        Device(id_, bytes([n]) * 33, name, instant(NOW), "handshake", Role.CONTROLLER)
        for n, (id_, name) in enumerate(devices)
    ]
    return AllowList(OWNER, tuple(entries), instant(NOW))


THREE: Final = listed(("am_abcd", "prod"), ("am_abce", "café"), ("am_xyz", "am_abcd"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("am_abce", "am_abce"),
        ("am_x", "am_xyz"),
        ("prod", "am_abcd"),
        ("cafe\u0301", "am_abce"),
        # An exact id wins over a device that took it for its name.
        ("am_abcd", "am_abcd"),
    ],
)
def test_a_device_is_named(text: str, found: str) -> None:
    assert THREE.find(text).device_id == found


@pytest.mark.parametrize("text", ["", "am_", "pro", "PROD", "am_zzz", "abcd", "am_abcde"])
def test_nothing_answers(text: str) -> None:
    with pytest.raises(NoSuchDevice):
        THREE.find(text)


def test_a_person_has_to_say_which() -> None:
    with pytest.raises(AmbiguousDevice) as raised:
        THREE.find("am_abc")
    assert "am_abcd" in str(raised.value)
    assert "am_abce" in str(raised.value)


def test_a_name_that_looks_like_the_beginning_of_an_id_hides_nothing() -> None:
    allow_list = listed(("am_victim", "v"), ("am_other", "am_vic"))
    with pytest.raises(AmbiguousDevice):
        allow_list.find("am_vic")


def test_what_a_person_typed_is_shown_without_escapes() -> None:
    twice = listed(("am_one", "\x1b[31m"), ("am_two", "\x1b[31m"))
    for allow_list, error in ((THREE, NoSuchDevice), (twice, AmbiguousDevice)):
        with pytest.raises(error) as raised:
            allow_list.find("\x1b[31m")
        assert "\x1b" not in str(raised.value)


# --- recording --------------------------------------------------------------------------


def test_a_peer_is_recorded() -> None:
    peer = make_peer("laptop", Role.TARGET)
    allow_list = add(empty(), peer, added_by="bootstrap", pairing="v1", limit=0)
    assert json.loads(allow_list.encode(KEY))["devices"] == [
        {
            "deviceId": peer.device_id,
            "publicKey": b64(peer.public_key),
            "friendlyName": "laptop",
            "addedAt": "2026-01-02T03:04:05.678Z",
            "addedBy": "bootstrap",
            "role": "target",
            "pairing": "v1",
        }
    ]


def test_the_same_device_again_is_refreshed() -> None:
    peer, other = make_peer("old name"), make_peer("other")
    before = add(add(empty(), peer, pairing="v1"), other)
    renamed = replace(peer, friendly_name="new name")
    after = add(before, renamed, now=NOW + 60, limit=1)
    assert [device.device_id for device in after.devices] == [peer.device_id, other.device_id]
    assert after.devices[0].friendly_name == "new name"
    assert after.devices[0].added_at == instant(NOW + 60)
    assert after.devices[0].pairing is None
    assert after.devices[1] == before.devices[1]


def test_refreshing_renews_the_trust_and_keeps_what_we_do_not_know() -> None:
    peer = make_peer()
    entry = ENTRY | {
        "publicKey": b64(peer.public_key),
        "role": "owner",
        "expiresAt": 5,
        "pairing": 6,
        "note": "x",
    }
    after = add(AllowList.parse(sealed_by_hand([entry]), KEY), peer)
    device = after.controller(peer.public_key, NOW)
    assert device.device_id == peer.device_id
    assert device.extra == {"note": "x"}
    assert device.expires_at is None


def test_one_key_never_has_both_roles() -> None:
    peer = make_peer(role=Role.TARGET)
    allow_list = add(empty(), peer)
    with pytest.raises(RoleConflict) as raised:
        add(allow_list, replace(peer, role=Role.CONTROLLER))
    assert (raised.value.device_id, raised.value.role) == (peer.device_id, "target")


def test_a_device_is_not_its_own_peer() -> None:
    own = Peer(device_id(OWNER), OWNER, "me", Role.TARGET)
    with pytest.raises(OwnKey):
        add(empty(), own)


def test_an_id_is_that_of_its_key() -> None:
    with pytest.raises(Malformed):
        add(empty(), replace(make_peer(), device_id="am_Jiewadq71uJbO88K"))


def test_two_keys_with_one_id_do_not_break_the_list() -> None:
    """Ids are 96 bits of a hash: somebody may own two keys with one id."""
    peer = make_peer()
    allow_list = listed((peer.device_id, "other"))
    with pytest.raises(AmbiguousDevice):
        add(allow_list, peer)


@pytest.mark.parametrize("name", ["", " x", "a\x1b[31m", "a\u202eb", 'a"b', "x" * 65])
def test_only_good_names_are_recorded(name: str) -> None:
    with pytest.raises(Malformed):
        add(empty(), replace(make_peer(), friendly_name=name))


def test_the_limit_of_controllers() -> None:
    first, second = make_peer("one"), make_peer("two")
    allow_list = add(empty(), first, limit=1)
    with pytest.raises(TooManyControllers) as raised:
        add(allow_list, second, limit=1)
    assert raised.value.limit == 1
    assert add(allow_list, make_peer(role=Role.TARGET), limit=1).controllers() == (
        allow_list.devices
    )
    assert len(add(allow_list, second, limit=2).controllers()) == 2


def test_an_entry_without_role_counts_once_it_is_a_controller() -> None:
    peer = make_peer()
    entry = ENTRY | {"publicKey": b64(peer.public_key), "role": "owner"}
    allow_list = add(AllowList.parse(sealed_by_hand([entry]), KEY), make_peer("first"), limit=1)
    with pytest.raises(TooManyControllers):
        add(allow_list, peer, limit=1)


def test_replacing_makes_room_in_the_same_step() -> None:
    first, second, third = make_peer("1"), make_peer("2"), make_peer("3", Role.TARGET)
    before = add(add(empty(), first), third)
    after = add(before, second, limit=1, replacing=[first.device_id, "am_gone"])
    assert [device.device_id for device in after.devices] == [third.device_id, second.device_id]


def test_replacing_what_is_not_enough_changes_nothing() -> None:
    first, second = make_peer("1"), make_peer("2")
    before = add(add(empty(), first), second)
    with pytest.raises(TooManyControllers):
        add(before, make_peer("3"), limit=1, replacing=[first.device_id])
    assert len(before.devices) == 2


def test_a_name_in_use_gets_the_id() -> None:
    first, second = make_peer("prod"), make_peer("prod")
    allow_list = add(add(empty(), first), second)
    assert [device.friendly_name for device in allow_list.devices] == [
        "prod",
        f"prod ({second.device_id})",
    ]
    # Again: it is still the second of that name, and refreshed, not renamed further.
    assert add(allow_list, second) == allow_list


@pytest.mark.parametrize("length", range(38, 46))
def test_a_name_is_cut_before_a_space(length: int) -> None:
    name = "x" * length + " y" + "z" * (62 - length)
    allow_list = add(add(empty(), make_peer(name)), make_peer(name))
    assert len(check_name(allow_list.devices[1].friendly_name)) <= 64


@given(st.text(min_size=1, max_size=64))
def test_a_lengthened_name_is_still_a_good_name(name: str) -> None:
    try:
        check_name(name)
    except Malformed:
        return
    allow_list = add(add(empty(), make_peer(name)), make_peer(name))
    assert check_name(allow_list.devices[1].friendly_name) != name


# --- revoking ---------------------------------------------------------------------------


def test_a_revoked_device_is_unknown() -> None:
    peer, other = make_peer(), make_peer("other")
    allow_list = add(add(empty(), peer), other)
    after = allow_list.revoke(allow_list.devices[0])
    with pytest.raises(UnknownDevice):
        after.controller(peer.public_key, NOW)
    assert after.controller(other.public_key, NOW).friendly_name == "other"
    with pytest.raises(NoSuchDevice):
        after.revoke(allow_list.devices[0])


# --- time -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "written"),
    [
        (NOW + 60, "2026-01-02T03:05:05.678Z"),
        (NOW, "2026-01-02T03:04:05.679Z"),
        (NOW - 10**6, "2026-01-02T03:04:05.679Z"),
    ],
)
def test_updated_at_never_shrinks(now: float, written: str) -> None:
    assert empty().stamped(now).updated_at == written


@pytest.mark.parametrize("year", ["2600", "7000", "9999"])
def test_updated_at_grows_after_a_clock_that_was_centuries_ahead(year: str) -> None:
    """Two lists of one time could be exchanged: no mark tells which one is the newer."""
    allow_list = replace(empty(), updated_at=f"{year}-01-02T03:04:05.000Z")
    for milliseconds in range(1, 1000):
        allow_list = allow_list.stamped(NOW)
        assert allow_list.updated_at == f"{year}-01-02T03:04:05.{milliseconds:03d}Z"


@given(st.integers(0, 4 * 10**12), st.integers(0, 4 * 10**12))
def test_updated_at_grows_by_a_millisecond_at_least(old_ms: int, now_ms: int) -> None:
    old = replace(empty(), updated_at=instant(old_ms / 1000))
    new = old.stamped(now_ms / 1000)
    assert new.updated_at > old.updated_at
    assert round(parse_instant(new.updated_at) * 1000) == max(now_ms, old_ms + 1)


# --- any input --------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([*sorted(ENTRY), "expiresAt", "pairing", "x"]), JSON)
def test_an_entry_is_kept_as_it_is_or_refused(key: str, value: object) -> None:
    entry = ENTRY | {key: value}
    try:
        data = sealed_by_hand([entry])
    except Malformed:
        return
    try:
        allow_list = AllowList.parse(data, KEY)
    except AllowListTampered:
        return
    assert allow_list.devices[0].entry() == entry
    if entry["role"] != "controller":
        with pytest.raises(Unauthenticated):
            allow_list.controller(allow_list.devices[0].public_key, NOW)

"""Cards: one form, and what two people compare before one is believed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core.card import fingerprint, introduce, is_fingerprint_of
from amesh_core.errors import Malformed, OwnKey, UsageError
from amesh_core.identity import Peer, Role, device_id
from amesh_core.wire.card import MAX_BYTES, Card
from amesh_core.wire.encoding import b64
from tests.support.ceremony import Device

PROD = Device.named("prod-api")
LAPTOP = Device.named("laptop")
CARD = Card(PROD.identity.device_id, PROD.key.public, "prod-api")
OFF_CURVE = b"\x02" + (1).to_bytes(32, "big")  # x = 1 has no point on P-256
FIELDS: dict[str, Any] = {
    "type": "amesh-card",
    "version": 1,
    "deviceId": PROD.identity.device_id,
    "publicKey": b64(PROD.key.public),
    "friendlyName": "prod-api",
}


def test_a_card_is_one_line_of_ascii() -> None:
    assert json.loads(CARD.encode()) == FIELDS
    for name in ("prod-api", "Zoë 日本", "\u2028", "😀" * 64):
        text = Card(CARD.device_id, CARD.public_key, name).encode()
        assert text.isascii()
        assert text.isprintable()
        assert len(text) < MAX_BYTES
        assert Card.parse(f" {text}\r\n".encode()).friendly_name == name


@pytest.mark.parametrize(
    "changed",
    [
        {"type": "amesh-bootstrap"},
        {"version": 2},
        {"version": "1"},
        {"version": True},
        {"version": 1.0},
        {"deviceId": None},
        {"publicKey": b64(PROD.key.public[:-1])},
        {"publicKey": b64(PROD.key.public + b"\0")},
        {"publicKey": "!"},
        {"friendlyName": ["prod-api"]},
        {"privateKey": "no"},
    ],
)
def test_cards_of_another_form(changed: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        Card.parse(json.dumps(FIELDS | changed).encode())


@pytest.mark.parametrize("missing", FIELDS)
def test_cards_with_a_key_less(missing: str) -> None:
    rest = {key: value for key, value in FIELDS.items() if key != missing}
    with pytest.raises(Malformed):
        Card.parse(json.dumps(rest).encode())


def test_a_later_version_is_called_one() -> None:
    with pytest.raises(Malformed, match="another version"):
        Card.parse(json.dumps(FIELDS | {"version": 2, "rounds": 3}).encode())


def test_a_card_is_not_long() -> None:
    with pytest.raises(Malformed, match="too long"):
        Card.parse(CARD.encode().encode() + b" " * MAX_BYTES)


@given(st.binary() | st.from_regex(r"\{.*\}").map(str.encode))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(Malformed):
        Card.parse(data)


# --- who it is of -----------------------------------------------------------------------


def test_a_card_becomes_a_peer() -> None:
    assert introduce(CARD, Role.TARGET, ours=LAPTOP.key.public) == Peer(
        PROD.identity.device_id, PROD.key.public, "prod-api", Role.TARGET
    )


def test_our_own_card() -> None:
    with pytest.raises(OwnKey):
        introduce(CARD, Role.TARGET, ours=PROD.key.public)


@pytest.mark.parametrize(
    "card",
    [
        Card(LAPTOP.identity.device_id, PROD.key.public, "prod-api"),
        Card(PROD.identity.device_id, LAPTOP.key.public, "prod-api"),
        Card(device_id(OFF_CURVE), OFF_CURVE, "prod-api"),
        Card(PROD.identity.device_id, PROD.key.public, 'prod" (am_x)'),
        Card(PROD.identity.device_id, PROD.key.public, ""),
        Card(PROD.identity.device_id, PROD.key.public, "\x1b[2J"),
    ],
)
def test_cards_of_nobody(card: Card) -> None:
    with pytest.raises(Malformed):
        introduce(card, Role.CONTROLLER, ours=LAPTOP.key.public)


# --- fingerprints -----------------------------------------------------------------------


def test_a_fingerprint_is_all_of_sha_256() -> None:
    lines = fingerprint(PROD.key.public)
    assert len(lines) == 4
    assert all(len(group) == 4 for line in lines for group in line.split(" "))
    digits = "".join(lines).replace(" ", "")
    assert digits == hashlib.sha256(PROD.key.public).hexdigest()


@pytest.mark.parametrize(
    "spelled", ["{0}", "{1}", "{2}", " {0}\n", "{3}"], ids=["groups", "bare", "upper", "", "colons"]
)
def test_how_a_fingerprint_is_spaced_does_not_matter(spelled: str) -> None:
    groups = "\n".join(fingerprint(PROD.key.public))
    bare = "".join(groups.split())
    colons = ":".join(bare[i : i + 2] for i in range(0, 64, 2))
    text = spelled.format(groups, bare, bare.upper(), colons)
    assert is_fingerprint_of(text, PROD.key.public)
    assert not is_fingerprint_of(text, LAPTOP.key.public)


@pytest.mark.parametrize("keep", [0, 4, 32, 63])
def test_a_part_of_a_fingerprint_is_none(keep: int) -> None:
    """Of a part, another key with the same part can be made."""
    bare = "".join("".join(fingerprint(PROD.key.public)).split())
    with pytest.raises(UsageError, match="64"):
        is_fingerprint_of(bare[:keep], PROD.key.public)


def test_every_digit_counts() -> None:
    bare = "".join("".join(fingerprint(PROD.key.public)).split())
    for place in range(64):
        other = "0" if bare[place] != "0" else "1"
        assert not is_fingerprint_of(bare[:place] + other + bare[place + 1 :], PROD.key.public)

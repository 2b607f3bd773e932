"""provisioned.json: what is written is read back, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core.errors import Malformed
from amesh_core.wire.encoding import b64
from amesh_core.wire.provisioned import Minted, ProvisionedFile

KEY = b"\x02" + bytes(range(32))
WAITING = Minted(
    jti="bt_" + "0123456789abcdef" * 2,
    token_hash=bytes(range(32)),
    name="prod-server",
    relay="wss://relay.example/ws",
    minted_at="2026-01-02T03:04:05.000Z",
    expires_at="2026-01-02T04:04:05.000Z",
)
USED = Minted(
    jti="bt_" + "f" * 32,
    token_hash=bytes(32),
    name="web-1",
    relay="ws://127.0.0.1:3001/ws",
    minted_at="2026-01-02T03:04:05.000Z",
    expires_at="2026-01-02T04:04:05.000Z",
    for_node=True,
    used_by=KEY,
    recorded_at="2026-01-02T03:05:00.000Z",
    extra={"note": "rack 7"},
)
ENTRY = WAITING.entry()
SEAL = b64(bytes(32))


def file(*entries: object, **changes: object) -> bytes:
    value: dict[str, object] = {"version": "2.0.0", "tokens": list(entries), "hmac": SEAL}
    kept = {key: value for key, value in (value | changes).items() if value is not None}
    return json.dumps(kept).encode()


def test_what_is_written_is_read() -> None:
    written = ProvisionedFile((WAITING, USED), seal=bytes(32))
    assert ProvisionedFile.parse(written.encode()) == written


def test_the_file_has_a_hash_and_no_more_of_a_token() -> None:
    assert {
        "jti": WAITING.jti,
        "tokenHash": b64(bytes(range(32))),
        "name": "prod-server",
        "relay": "wss://relay.example/ws",
        "mintedAt": "2026-01-02T03:04:05.000Z",
        "expiresAt": "2026-01-02T04:04:05.000Z",
        "forNode": False,
    } == ENTRY


def test_unknown_keys_of_an_entry_are_kept_and_sealed() -> None:
    parsed = ProvisionedFile.parse(file(USED.entry()))
    assert parsed.tokens == (USED,)
    assert b"rack 7" in parsed.sealed_bytes()
    assert b"rack 7" in parsed.encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"jti": "bt_" + "e" * 32},
        {"token_hash": bytes(range(1, 33))},
        {"name": "web-2"},
        {"relay": "wss://elsewhere.example/ws"},
        {"minted_at": "2026-01-02T03:04:06.000Z"},
        {"expires_at": "2026-01-03T04:04:05.000Z"},
        {"for_node": False},
        {"cancelled_at": "2026-01-02T03:04:06.000Z"},
        {"used_by": None},
        {"recorded_at": None},
        {"extra": {}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_value_is_under_the_seal(changes: dict[str, Any]) -> None:
    other = ProvisionedFile((replace(USED, **changes),))
    assert other.sealed_bytes() != ProvisionedFile((USED,)).sealed_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        file(ENTRY, version="1.0.0"),
        file(ENTRY, version=None),
        file(ENTRY, tokens=None),
        file(ENTRY, tokens={}),
        file(ENTRY, hmac=None),
        file(ENTRY, hmac="AAAA"),
        file(ENTRY, hmac=SEAL.rstrip("=")),
        file(ENTRY, unsealed=True),
        file(ENTRY, ENTRY),
        file(1),
        *[file({k: v for k, v in ENTRY.items() if k != left_out}) for left_out in ENTRY],
        *[file(ENTRY | {key: 7}) for key in ENTRY],
        *[file(ENTRY | {key: 7}) for key in ("cancelledAt", "usedBy", "recordedAt")],
        file(ENTRY | {"jti": "bt_x"}),
        file(ENTRY | {"tokenHash": b64(bytes(31))}),
        file(ENTRY | {"usedBy": b64(bytes(32))}),
        file(ENTRY | {"expiresAt": "tomorrow"}),
        file(ENTRY | {"cancelledAt": "2026-02-30T00:00:00.000Z"}),
        file(ENTRY | {"recordedAt": ""}),
    ],
)
def test_anything_else_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        ProvisionedFile.parse(data)


@given(
    st.dictionaries(st.sampled_from([*ENTRY, "usedBy", "x"]), st.none() | st.text() | st.binary())
)
def test_any_entry_is_one_or_malformed(changes: dict[str, Any]) -> None:
    entry = {**ENTRY, **{k: v for k, v in changes.items() if not isinstance(v, bytes)}}
    try:
        minted = Minted.parse(entry)
    except Malformed:
        return
    assert Minted.parse(minted.entry()) == minted


def test_until_when_it_is_waited_for() -> None:
    end = 1_767_326_645.0
    assert WAITING.is_outstanding(end - 1)
    assert not WAITING.is_outstanding(end)
    assert not WAITING.is_expired(end - 0.001)
    assert WAITING.is_expired(end)
    assert not USED.is_outstanding(end - 1)

"""announce.json: what is written is read again, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core import provisioning
from amesh_core.errors import Malformed
from amesh_core.wire.announce import AnnounceFile
from amesh_core.wire.encoding import b64, instant
from tests.support.bootstrap import END, TARGET, file_of, token_of

FILE = file_of(token_of(), TARGET)
JSON: dict[str, Any] = json.loads(FILE.encode())


def encoded(**changes: Any) -> bytes:
    return json.dumps(JSON | changes).encode()


def framed(**changes: Any) -> bytes:
    return encoded(frame=JSON["frame"] | changes)


def without(key: str) -> bytes:
    return json.dumps({k: v for k, v in JSON.items() if k != key}).encode()


def test_what_is_written_is_read_again() -> None:
    assert AnnounceFile.parse(FILE.encode()) == FILE


def test_it_holds_what_section_6_says_and_no_token() -> None:
    token = token_of()
    file = file_of(token, TARGET)
    text = file.encode().decode()
    assert set(json.loads(text)) == {
        "version",
        "relay",
        "expiresAt",
        "controllerPublicKey",
        "frame",
    }
    assert all(part not in text for part in token.split("."))
    announcement = provisioning.Announcement.parse(file.frame)
    provisioning.check_announcement(announcement, provisioning.hash_of(token))


def test_the_end_of_the_token_is_the_end_of_the_attempts() -> None:
    assert FILE.expires_at == instant(END)
    assert not FILE.is_expired(END - 0.001)
    assert FILE.is_expired(END)


@pytest.mark.parametrize("key", JSON)
def test_nothing_may_be_missing(key: str) -> None:
    with pytest.raises(Malformed):
        AnnounceFile.parse(without(key))


@pytest.mark.parametrize("key", ["friendlyName", "proof", "mac", "jti", "targetPubKey", "type"])
def test_nothing_may_be_missing_in_the_frame(key: str) -> None:
    frame = {k: v for k, v in JSON["frame"].items() if k != key}
    with pytest.raises(Malformed):
        AnnounceFile.parse(encoded(frame=frame))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        encoded(version="2.0.1"),
        encoded(more=1),
        encoded(relay="https://relay.example/ws"),
        encoded(relay="wss://user:secret@relay.example/ws"),
        encoded(relay="wss://relay.example/\x1b[2J"),
        encoded(expiresAt="tomorrow"),
        encoded(expiresAt="2026-01-02T04:04:05Z"),
        encoded(controllerPublicKey=b64(bytes(32))),
        encoded(controllerPublicKey="?"),
        encoded(frame=None),
        encoded(frame="{}"),
        encoded(frame={"type": "listen", "otc": "123456"}),
        framed(type="bootstrap_ack"),
        framed(jti="bt_1"),
        framed(jti=JSON["frame"]["jti"].upper()),
        framed(friendlyName=7),
        framed(friendlyName="\ud800"),
        framed(mac="x" * 5000),
        framed(token=token_of()),
        framed(more="x"),
    ],
)
def test_anything_else_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        AnnounceFile.parse(data)


@given(
    st.binary()
    | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_any_bytes_are_an_announcement_or_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        AnnounceFile.parse(data)


def test_nothing_of_the_frame_is_shown() -> None:
    assert FILE.frame.jti not in repr(FILE)
    assert str(FILE.frame.proof) not in repr(FILE)

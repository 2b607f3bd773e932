"""Each file of the directory has one form; everything else is Malformed."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core.errors import Malformed
from amesh_core.wire.encoding import b64
from amesh_core.wire.files import (
    AllowListFile,
    Argon2Cost,
    IdentityFile,
    KeyFile,
    check_alias,
    parse_config,
)

IDENTITY: Final[dict[str, Any]] = {
    "version": "2.0.0",
    "deviceId": "am_uzTxBgcsiyOa6j4b",
    "keyAlias": "am_uzTxBgcsiyOa6j4b",
    "publicKey": "ArY1/wCvIBrxWCDCXhCQNliSg0i7AkjRXo/4yfx6wjGM",
    "friendlyName": "prod-api",
    "createdAt": "2026-01-02T03:04:05.678Z",
    "storageBackend": "encrypted-file",
}
KEY_FILE: Final[dict[str, Any]] = {
    "version": "2.0.0",
    "algorithm": "aes-256-gcm",
    "kdf": "argon2id",
    "argon2Params": {"t": 3, "m": 65536, "p": 1},
    "salt": b64(bytes(16)),
    "nonce": b64(bytes(12)),
    "ciphertext": b64(bytes(48)),
    "publicKey": b64(b"\x02" + bytes(32)),
}
ALLOW_LIST: Final[dict[str, Any]] = {
    "version": "2.0.0",
    "devices": [],
    "updatedAt": "2026-01-02T03:04:05.678Z",
    "hmac": b64(bytes(32)),
}


def text(value: object) -> bytes:
    return json.dumps(value).encode()


# --- identity.json ----------------------------------------------------------------------


def test_an_identity_is_read() -> None:
    file = IdentityFile.parse(text(IDENTITY))
    assert file.device_id == file.key_alias == "am_uzTxBgcsiyOa6j4b"
    assert file.public_key.hex() == (
        "02b635ff00af201af15820c25e10903658928348bb0248d15e8ff8c9fc7ac2318c"
    )
    assert file.friendly_name == "prod-api"
    assert file.created_at == "2026-01-02T03:04:05.678Z"
    assert file.storage_backend == "encrypted-file"
    assert file.max_controllers == 1
    assert file.passphrase is None


def test_what_we_do_not_know_survives_a_rewrite() -> None:
    strange = {**IDENTITY, "maxControllers": 4, "future": {"a": [1, None]}, "naïve": "\ud800"}
    assert json.loads(IdentityFile.parse(text(strange)).encode()) == strange


@pytest.mark.parametrize("key", IDENTITY)
def test_no_key_of_an_identity_may_be_missing_or_of_another_type(key: str) -> None:
    for broken in ({k: v for k, v in IDENTITY.items() if k != key}, {**IDENTITY, key: 7}):
        with pytest.raises(Malformed):
            IdentityFile.parse(text(broken))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", "2.0.1"),
        ("keyAlias", "../../etc/passwd"),
        ("keyAlias", ""),
        ("publicKey", IDENTITY["publicKey"].replace("/", "_")),
        ("publicKey", b64(bytes(32))),
        ("createdAt", "2026-01-02T03:04:05Z"),
        ("createdAt", "2026-02-30T03:04:05.678Z"),
        ("maxControllers", 0),
        ("maxControllers", -1),
        ("maxControllers", True),
        ("maxControllers", 1.5),
        ("maxControllers", "1"),
        ("maxControllers", None),
        ("passphrase", None),
    ],
)
def test_values_an_identity_does_not_have(key: str, value: object) -> None:
    with pytest.raises(Malformed):
        IdentityFile.parse(text({**IDENTITY, key: value}))


def test_an_old_passphrase_is_read_but_not_shown() -> None:
    file = IdentityFile.parse(text({**IDENTITY, "passphrase": "hunter2", "other": "hunter3"}))
    assert file.passphrase == "hunter2"
    assert "hunter" not in repr(file)
    assert json.loads(file.encode())["passphrase"] == "hunter2"


@pytest.mark.parametrize("alias", ["../x", "a.b", "a/b", "", "a\n", "é", "a b"])
def test_an_alias_leads_nowhere_else(alias: str) -> None:
    with pytest.raises(Malformed):
        check_alias(alias)


# --- allow_list.json --------------------------------------------------------------------


def test_every_key_of_an_allow_list_is_sealed_or_refused() -> None:
    with pytest.raises(Malformed, match="no seal covers"):
        AllowListFile.parse(text({**ALLOW_LIST, "note": "not under the seal"}))


@pytest.mark.parametrize("key", ALLOW_LIST)
def test_no_key_of_an_allow_list_may_be_missing_or_of_another_type(key: str) -> None:
    for broken in ({k: v for k, v in ALLOW_LIST.items() if k != key}, {**ALLOW_LIST, key: 7}):
        with pytest.raises(Malformed):
            AllowListFile.parse(text(broken))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", "2.0.1"),
        ("devices", {}),
        ("devices", [[]]),
        ("devices", ["am_x"]),
        ("updatedAt", "yesterday"),
        ("hmac", b64(bytes(31))),
        ("hmac", b64(bytes(33))),
        ("hmac", b64(bytes(32)).rstrip("=")),
        ("hmac", b64(b"\xff" * 32).replace("/", "_")),
        ("hmac", b64(bytes(32))[:-2] + "B="),
    ],
)
def test_values_an_allow_list_does_not_have(key: str, value: object) -> None:
    with pytest.raises(Malformed):
        AllowListFile.parse(text({**ALLOW_LIST, key: value}))


def test_a_key_twice_is_no_allow_list() -> None:
    twice = text(ALLOW_LIST).replace(b'"devices": []', b'"devices": [], "devices": []')
    with pytest.raises(Malformed, match="twice"):
        AllowListFile.parse(twice)


def test_a_legacy_seal_covers_what_json_stringify_writes() -> None:
    """Both texts are node 20's: JSON.stringify(JSON.parse(first)) is the second."""
    parsed = (
        '{"version":"2.0.0","updatedAt":"2026-01-02T03:04:05.678Z","devices":[{"b":1,"10":"ten",'
        '"2":[1.50,1e21,-0,1e-7,123456789012],"4294967295":0,"4294967294":1,"01":2,'
        '"a":"\\u2028\\u007f\\u0001\\b\\/\\"\\ud800 é","\\ud800":true,"n":null}]}'
    )
    written = (
        '{"version":"2.0.0","updatedAt":"2026-01-02T03:04:05.678Z","devices":[{'
        '"2":[1.5,1e+21,0,1e-7,123456789012],"10":"ten","4294967294":1,"b":1,"4294967295":0,'
        '"01":2,"a":"\u2028\u007f\\u0001\\b/\\"\\ud800 é","\\ud800":true,"n":null}]}'
    )
    sealed = parsed[:-1] + f',"hmac":"{b64(bytes(32))}"}}'
    assert AllowListFile.parse(sealed.encode()).legacy_sealed_bytes() == written.encode()


def test_a_legacy_seal_takes_no_longer_for_many_keys_than_for_few() -> None:
    """A planted list of 600 KiB took half a minute: each request of a verifier waited for it."""
    entry = {key: 0 for number in range(25_000) for key in (str(number), f"key{number}")}
    file = AllowListFile.parse(text({**ALLOW_LIST, "devices": [entry]}))
    started = time.process_time()
    file.sealed_bytes()
    once = time.process_time() - started
    assert file.legacy_sealed_bytes().count(b'":') == len(entry) + 3
    # Of the same order, with a generous allowance: it was a hundredfold.
    assert time.process_time() - started < 20 * once + 1


def test_a_number_that_javascript_would_round_has_no_seal() -> None:
    file = AllowListFile.parse(text({**ALLOW_LIST, "devices": [{"n": 2**53}]}))
    for sealed_bytes in (file.sealed_bytes, file.legacy_sealed_bytes):
        with pytest.raises(Malformed):
            sealed_bytes()


# --- key files --------------------------------------------------------------------------


def test_a_key_file_is_written_as_it_is_read() -> None:
    assert json.loads(KeyFile.parse(text(KEY_FILE)).encode()) == KEY_FILE


@pytest.mark.parametrize("key", KEY_FILE)
def test_no_key_of_a_key_file_may_be_missing_or_of_another_type(key: str) -> None:
    for broken in ({k: v for k, v in KEY_FILE.items() if k != key}, {**KEY_FILE, key: 7}):
        with pytest.raises(Malformed):
            KeyFile.parse(text(broken))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", "1.0.0"),
        ("algorithm", "aes-128-gcm"),
        ("kdf", "scrypt"),
        ("argon2Params", {"t": 3, "m": 65536}),
        ("argon2Params", {"t": True, "m": 65536, "p": 1}),
        ("argon2Params", {"t": 3.0, "m": 65536, "p": 1}),
        ("salt", b64(bytes(15))),
        ("nonce", b64(bytes(13))),
        ("ciphertext", b64(bytes(32))),
        ("publicKey", b64(bytes(32))),
    ],
)
def test_values_a_key_file_does_not_have(key: str, value: object) -> None:
    with pytest.raises(Malformed):
        KeyFile.parse(text({**KEY_FILE, key: value}))


@pytest.mark.parametrize(
    ("t", "m", "p"),
    [(0, 8, 1), (65, 8, 1), (1, 7, 1), (1, 15, 2), (1, 2**20 + 1, 1), (1, 8, 0), (1, 2**20, 17)],
)
def test_argon2_parameters_have_bounds(t: int, m: int, p: int) -> None:
    with pytest.raises(Malformed):
        Argon2Cost(t, m, p)


@pytest.mark.parametrize(("t", "m", "p"), [(1, 8, 1), (64, 2**20, 16)])
def test_argon2_parameters_at_the_bounds(t: int, m: int, p: int) -> None:
    assert KeyFile.parse(text({**KEY_FILE, "argon2Params": {"t": t, "m": m, "p": p}})).cost == (
        Argon2Cost(t, m, p)
    )


# --- config.json ------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["ws://localhost:8787/ws", "wss://relay.example", "ws://[::1]:1/"])
def test_the_relay_of_a_config(url: str) -> None:
    assert parse_config(text({"relay": url, "theme": "dark"})) == url


def test_a_config_need_not_name_a_relay() -> None:
    assert parse_config(b"{}") is None


@pytest.mark.parametrize(
    "relay",
    [
        "https://relay.example/ws",
        "relay.example",
        "ws://",
        "ws:///ws",
        "ws://host:port/",
        "ws://host:99999/",
        "ws://host:0/",
        "ws://[::1/",
        "ws://ho\u202est/",
        "ws://host/\n",
        "ws://host/a b",
        "",
        7,
        None,
        ["ws://host"],
    ],
)
def test_no_relay(relay: object) -> None:
    with pytest.raises(Malformed):
        parse_config(text({"relay": relay}))


# --- all of them ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parse", [IdentityFile.parse, AllowListFile.parse, KeyFile.parse, parse_config]
)
@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b'"x"', b"{", b"\xff", b"\xef\xbb\xbf{}", b"[" * 10**5]
)
def test_not_an_object(parse: Any, data: bytes) -> None:
    with pytest.raises(Malformed):
        parse(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    whole=st.sampled_from([IDENTITY, ALLOW_LIST, KEY_FILE, {"relay": "ws://host"}]),
    data=st.data(),
)
def test_a_parser_returns_or_raises_malformed(whole: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(whole)))
    mutated = text({**whole, key: data.draw(JSON)})
    for parse in (IdentityFile.parse, AllowListFile.parse, KeyFile.parse, parse_config):
        try:
            parse(mutated)
        except Malformed:
            continue


@given(st.dictionaries(st.text(), JSON, max_size=4), st.text())
def test_an_allow_list_file_is_read_as_it_was_written(extra: dict[str, Any], name: str) -> None:
    file = AllowListFile(({"name": name, **extra},), ALLOW_LIST["updatedAt"], bytes(32), ())
    try:
        sealed = file.sealed_bytes()
    except Malformed:
        return  # no seal covers it, so it is never written
    assert AllowListFile.parse(file.encode()).sealed_bytes() == sealed

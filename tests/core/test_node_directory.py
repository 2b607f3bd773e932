"""A whole directory of Node's, opened, listed and edited by us; and one of ours by its formulas.

The key comes from tests/vectors/keyfile.json. Everything that Node computes is computed here
with the standard library and the formulas that the vector files state, never with our own
code, so that neither side can bless the other.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any, Final

import pytest
from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from amesh_core import crypto
from amesh_core.errors import AllowListTampered
from amesh_core.identity import Role
from amesh_core.io import configuration
from amesh_core.io.home import Home
from amesh_core.settings import Settings
from tests.support import vectors
from tests.support.cli import amesh
from tests.support.home import NOW, make_peer

KEY: Final[dict[str, Any]] = next(
    case for case in vectors.load("keyfile.json")["cases"] if case["name"] == "ok0"
)
PUBLIC_KEY: Final[str] = b64encode(bytes.fromhex(KEY["public_key_hex"])).decode()
MATERIAL: Final = bytes.fromhex(KEY["hmac_material_hex"])
IDENTITY: Final[dict[str, Any]] = {
    "version": "2.0.0",
    "deviceId": KEY["device_id"],
    "keyAlias": KEY["alias"],
    "publicKey": PUBLIC_KEY,
    "friendlyName": "node-api",
    "createdAt": "2026-01-01T00:00:00.000Z",
    "storageBackend": "encrypted-file",
    "maxControllers": 3,
    "somethingOfALaterNode": {"kept": [1, 2]},
}


def hkdf(ikm: bytes, salt: bytes, info: bytes) -> bytes:
    prk = hmac.digest(salt, ikm, "sha256")
    return hmac.digest(prk, info + b"\x01", "sha256")


def seal(material: bytes, device_id: str, text: str) -> str:
    key = hkdf(material, b"amesh-allow-list-integrity-v1", device_id.encode())
    return b64encode(hmac.digest(key, text.encode(), "sha256")).decode()


def canonical(body: dict[str, Any]) -> str:
    """As the vectors say: sorted keys, compact. For what is in this file, JCS writes the same."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def point(scalar: int) -> bytes:
    numbers = ec.derive_private_key(scalar, ec.SECP256R1()).public_key().public_numbers()
    return bytes([2 + numbers.y % 2]) + numbers.x.to_bytes(32, "big")


def node_entry(scalar: int, name: str, **more: Any) -> dict[str, Any]:
    public = point(scalar)
    digest = b64encode(hashlib.sha256(public).digest()).decode()
    return {
        "deviceId": "am_" + digest.replace("+", "-").replace("/", "_")[:16],
        "publicKey": b64encode(public).decode(),
        "friendlyName": name,
        "addedAt": "2026-01-01T00:00:00.000Z",
        "addedBy": "handshake",
        **more,
    }


CALLER: Final = node_entry(5, "laptop", role="controller")
OVER: Final = node_entry(
    6,
    "contractor",
    role="controller",
    expiresAt="2026-01-01T12:00:00.000Z",
    note="a key of its own",
)
CALLED: Final = node_entry(7, 'Zoë "日本" \\', role="target")


def node_directory(directory: Path, *, legacy: bool = False) -> Path:
    """What `amesh init` and two pairings of Node's leave behind."""
    body = {
        "version": "2.0.0",
        "devices": [CALLER, OVER, CALLED],
        "updatedAt": "2026-01-02T03:04:05.678Z",
    }
    text = (
        json.dumps(body, separators=(",", ":"), ensure_ascii=False) if legacy else canonical(body)
    )
    files = {
        "identity.json": json.dumps(IDENTITY, indent=2),
        f"keys/{KEY['file_name']}": json.dumps(KEY["key_file"], indent=2),
        "allow_list.json": json.dumps(
            {**body, "hmac": seal(MATERIAL, KEY["device_id"], text)}, indent=2, ensure_ascii=False
        ),
        ".passphrase": KEY["passphrase"],
    }
    for place in (directory, directory / "keys"):
        place.mkdir(mode=0o700)
    for name, contents in files.items():
        (directory / name).write_text(contents, encoding="utf-8")
        (directory / name).chmod(0o400 if name == ".passphrase" else 0o600)
    return directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return node_directory(tmp_path / "node")


def opened(directory: Path) -> Home:
    return Home.open(Settings(directory=directory))


def check_as_node(directory: Path, material: bytes, device_id: str) -> dict[str, Any]:
    """allow_list.json, its seal recomputed by the formula of the vectors."""
    file: dict[str, Any] = json.loads((directory / "allow_list.json").read_bytes())
    assert file.keys() == {"version", "devices", "updatedAt", "hmac"}
    body = {key: file[key] for key in ("version", "devices", "updatedAt")}
    assert file["hmac"] == seal(material, device_id, canonical(body))
    return file


def test_it_opens(directory: Path) -> None:
    home = opened(directory)
    assert home.identity.device_id == KEY["device_id"]
    assert home.identity.friendly_name == "node-api"
    assert home.max_controllers == 3
    key = home.key()
    assert key.public.hex() == KEY["public_key_hex"]
    message = bytes.fromhex(KEY["message_hex"])
    crypto.verify(key.public, key.sign(message), message)
    crypto.verify(key.public, bytes.fromhex(KEY["signature_hex"]), message)


@pytest.mark.parametrize("legacy", [False, True])
def test_its_list_is_read(tmp_path: Path, legacy: bool) -> None:
    allow_list = opened(node_directory(tmp_path / "node", legacy=legacy)).allow_list()
    assert [device.entry() for device in allow_list.devices] == [CALLER, OVER, CALLED]
    assert [device.role for device in allow_list.devices] == [
        *(Role.CONTROLLER, Role.CONTROLLER, Role.TARGET),
    ]
    assert [device.is_expired(NOW) for device in allow_list.devices] == [False, True, False]


def test_its_list_with_one_letter_changed_is_not(directory: Path) -> None:
    path = directory / "allow_list.json"
    path.write_text(path.read_text(encoding="utf-8").replace("contractor", "contractos"))
    with pytest.raises(AllowListTampered):
        opened(directory).allow_list()


@pytest.mark.parametrize("legacy", [False, True])
def test_what_we_write_is_what_node_would_check(tmp_path: Path, legacy: bool) -> None:
    directory = node_directory(tmp_path / "node", legacy=legacy)
    home, peer = opened(directory), make_peer("ours")
    with home.editing_allow_list(NOW) as edit:
        edit.allow_list = edit.allow_list.record(
            peer, added_by="handshake", now=NOW, limit=3, pairing="v1", expires_at=NOW + 60
        )
        edit.allow_list = edit.allow_list.extended(edit.allow_list.find("contractor"), None)
        edit.allow_list = edit.allow_list.revoke(edit.allow_list.find("laptop"))
    file = check_as_node(directory, MATERIAL, KEY["device_id"])
    forgiven, called, ours = file["devices"]
    assert forgiven == {key: value for key, value in OVER.items() if key != "expiresAt"}
    assert called == CALLED
    assert ours == {
        "deviceId": peer.device_id,
        "publicKey": b64encode(peer.public_key).decode(),
        "friendlyName": "ours",
        "addedAt": "2026-01-02T03:04:05.678Z",
        "addedBy": "handshake",
        "role": "controller",
        "expiresAt": "2026-01-02T03:05:05.678Z",
        "pairing": "v1",
    }
    assert file["updatedAt"] > "2026-01-02T03:04:05.678Z"


def test_settings_change_nothing_else(directory: Path) -> None:
    (directory / "config.json").write_text('{"relay": "ws://old/ws", "theme": "dark"}')
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    home = opened(directory)
    configuration.set_max_controllers(home, 7)
    configuration.set_name(home, "renamed")
    configuration.set_relay(home, "wss://relay.example/ws")
    identity = json.loads((directory / "identity.json").read_bytes())
    assert identity == {**IDENTITY, "maxControllers": 7, "friendlyName": "renamed"}
    assert json.loads((directory / "config.json").read_bytes()) == {
        "relay": "wss://relay.example/ws",
        "theme": "dark",
    }
    for path, contents in before.items():
        if path.name not in ("identity.json", "config.json"):
            assert path.read_bytes() == contents
    assert opened(directory).allow_list().devices


def test_the_commands_work_there(directory: Path) -> None:
    shown = json.loads(amesh(directory, "list", "--json").out)
    assert shown["deviceId"] == KEY["device_id"]
    assert [(d["friendlyName"], d["role"], d["expired"]) for d in shown["devices"]] == [
        ("laptop", "controller", False),
        ("contractor", "controller", True),
        ('Zoë "日本" \\', "target", False),
    ]
    assert amesh(directory, "revoke", "laptop", "--yes").status == 0
    assert amesh(directory, "trust", "extend", "contractor", "--for", "1d").status == 0
    file = check_as_node(directory, MATERIAL, KEY["device_id"])
    assert [entry["friendlyName"] for entry in file["devices"]] == [
        *("contractor", CALLED["friendlyName"]),
    ]


def test_a_directory_of_ours_by_node_s_formulas(tmp_path: Path) -> None:
    """Key file, identity and list, with the parameters that Node has built in."""
    directory = tmp_path / "ours"
    assert amesh(directory, "init", "--name", "ours").status == 0
    identity = json.loads((directory / "identity.json").read_bytes())
    file = json.loads((directory / "keys" / f"{identity['keyAlias']}.key.json").read_bytes())
    assert file.keys() == KEY["key_file"].keys()
    assert file["argon2Params"] == KEY["key_file"]["argon2Params"] == {"t": 3, "m": 65536, "p": 1}
    secret = (directory / ".passphrase").read_bytes()
    aes_key = hash_secret_raw(
        secret, b64decode(file["salt"]), 3, 65536, 1, hash_len=32, type=Type.ID
    )
    scalar = AESGCM(aes_key).decrypt(b64decode(file["nonce"]), b64decode(file["ciphertext"]), None)
    public = point(int.from_bytes(scalar, "big"))
    assert b64decode(identity["publicKey"]) == b64decode(file["publicKey"]) == public
    material = hkdf(scalar, b"amesh-hmac-material-v1", identity["keyAlias"].encode())
    assert check_as_node(directory, material, identity["deviceId"])["devices"] == []
    for place in (directory, directory / "keys"):
        assert place.stat().st_mode & 0o777 == 0o700


def test_the_formulas_here_are_those_of_the_vectors() -> None:
    assert (
        hkdf(
            bytes.fromhex(KEY["private_key_hex"]), b"amesh-hmac-material-v1", KEY["alias"].encode()
        ).hex()
        == KEY["hmac_material_hex"]
    )
    assert point(int(KEY["private_key_hex"], 16)).hex() == KEY["public_key_hex"]
    lists = vectors.load("allow_list.json")
    case = next(case for case in lists["cases"] if case["name"] == "one controller")
    body = json.loads(case["file_text"])
    stated = body.pop("hmac")
    assert canonical(body) == case["canonical"]
    material = bytes.fromhex(case["hmac_key_material_hex"])
    assert seal(material, case["device_id"], canonical(body)) == stated

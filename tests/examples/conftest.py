"""Two devices, paired as examples/README.md says: once for all recipes, a copy for each."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from amesh_core import crypto
from amesh_core.wire.files import Argon2Cost, KeyFile
from tests.examples.recipes import Examples, copy_examples
from tests.support.home import CHEAP


@pytest.fixture(scope="session")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    examples = Examples(copy_examples(tmp_path_factory.mktemp("paired"), ports=False))
    done = examples.recipe("").run("pair.py")
    assert done.status == 0, done.err
    devices = examples.root / "devices"
    for name in ("laptop", "server"):
        make_cheap(devices / name)
    return devices


@pytest.fixture
def examples(devices: Path, tmp_path: Path) -> Examples:
    copy = copy_examples(tmp_path)
    shutil.copytree(devices, copy / "devices")
    return Examples(copy)


def make_cheap(device: Path) -> None:
    """Lock the same key by a cheap Argon2: some forty programs of the recipes unlock it."""
    (path,) = (device / "keys").glob("*.key.json")
    passphrase = (device / ".passphrase").read_bytes()
    file = KeyFile.parse(path.read_bytes())
    scalar = crypto.aes_gcm_decrypt(
        _file_key(passphrase, file.salt, file.cost), file.nonce, file.ciphertext
    )
    nonce = secrets.token_bytes(12)
    locked = crypto.aes_gcm_encrypt(_file_key(passphrase, file.salt, CHEAP), nonce, scalar)
    path.write_bytes(replace(file, cost=CHEAP, nonce=nonce, ciphertext=locked).encode())


def _file_key(passphrase: bytes, salt: bytes, cost: Argon2Cost) -> bytes:
    return crypto.argon2id(passphrase, salt, t=cost.t, m=cost.m, p=cost.p)

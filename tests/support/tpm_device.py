"""The tpm2 store of one directory, and tpm2-tools on the same TPM, as tests of it need them."""

from __future__ import annotations

from pathlib import Path

from amesh_core import crypto
from amesh_core.identity import DeviceKey, device_id
from amesh_core.keystore import Means, tpm2
from amesh_core.keystore.tpm2.chip import Chip, chip
from amesh_core.keystore.tpm2.store import Tpm2Store
from amesh_core.wire.encoding import instant
from amesh_core.wire.tss2 import LoadableKey, PartsFile
from tests.support.swtpm import SoftwareTpm


class Device:
    """The tpm2 store of one directory."""

    def __init__(self, directory: Path, tcti: str) -> None:
        self.directory = directory
        self.keys = directory / "keys"
        self.tcti = tcti

    @property
    def chip(self) -> Chip:
        return chip(self.tcti)

    def store(self) -> Tpm2Store:
        return tpm2.open_store(self.directory, Means(bytes, self.tcti))

    def create(self) -> DeviceKey:
        return self.store().create()

    def load(self, key: DeviceKey) -> DeviceKey:
        return self.store().load(device_id(key.public), key.public)

    def newest(self, key: DeviceKey) -> str | None:
        return self.store().newest(key, device_id(key.public))

    def remember(self, key: DeviceKey, seconds: float) -> None:
        self.store().remember(key, device_id(key.public), instant(seconds))

    def delete(self, key: DeviceKey) -> None:
        self.store().delete(device_id(key.public))

    def pem(self, key: DeviceKey) -> Path:
        return self.keys / f"{device_id(key.public)}.tpm2.pem"

    def parts(self, key: DeviceKey) -> Path:
        return self.keys / f"{device_id(key.public)}.tpm2.json"

    def index(self, key: DeviceKey) -> int | None:
        return PartsFile.parse(self.parts(key).read_bytes()).nv_index


class Tools:
    """tpm2-tools, on a TPM that our process lets go of first."""

    def __init__(self, tpm: SoftwareTpm, directory: Path) -> None:
        self.tpm = tpm
        self.directory = directory
        directory.mkdir()

    def __call__(self, *command: str) -> str:
        chip(self.tpm.tcti).close()
        return self.tpm.run(*command, cwd=self.directory)

    def handles(self, kind: str) -> list[str]:
        chip(self.tpm.tcti).close()
        return self.tpm.handles(kind)

    def storage_root_key(self, attributes: str = "", password: str = "") -> None:
        chip(self.tpm.tcti).close()
        self.tpm.make_storage_root_key(attributes, password)


def check(key: DeviceKey, message: bytes = b"message") -> None:
    crypto.verify(key.public, key.sign(message), message)


def flip(pem: Path) -> None:
    """Change the wrapped private key by one bit."""
    key = LoadableKey.parse(pem.read_bytes())
    private = key.private[:-1] + bytes([key.private[-1] ^ 1])
    pem.write_bytes(LoadableKey(key.parent, key.public, private).encode())

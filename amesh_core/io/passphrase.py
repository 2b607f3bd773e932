"""Where the passphrase of the encrypted key file comes from; docs/protocol.md section 2."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from amesh_core import disk
from amesh_core.errors import NoPassphrase
from amesh_core.settings import Settings

FILE: Final = ".passphrase"
MODE: Final = 0o400
CREDENTIAL: Final = "amesh-passphrase"  # systemd: LoadCredential=amesh-passphrase:...

_GENERATED_BYTES: Final = 32  # as many as the key it protects


@dataclass(frozen=True, slots=True)
class Found:
    """A passphrase, and where it was, to tell the person whose passphrase is wrong."""

    secret: bytes = field(repr=False)
    source: str

    def lies_beside_key(self, directory: Path) -> bool:
        """Whether it is that of `<directory>/.passphrase`, whoever named that file."""
        return Path(self.source).resolve() == (directory / FILE).resolve()


def generate() -> bytes:
    """A new passphrase, as text that a person can copy: hexadecimal, like Node's."""
    return secrets.token_hex(_GENERATED_BYTES).encode("ascii")


def from_operator(settings: Settings) -> Found | None:
    """The passphrase the operator provides, which is never written anywhere.

    In order: AUTH_MESH_PASSPHRASE, the file named by AMESH_PASSPHRASE_FILE, the systemd
    credential. Who names a file means that file: it is no reason to go on when it is
    missing. Its permissions are its owner's business (a container's secrets are 0444).

    Raises:
        NoPassphrase: the named file is missing, or what was found is empty.
        HomeUnwritable: a file cannot be read.
    """
    if settings.passphrase is not None:
        # The environment is bytes; surrogateescape gives back those that are not UTF-8.
        secret = settings.passphrase.encode("utf-8", "surrogateescape")
        return _found(secret, "AUTH_MESH_PASSPHRASE")
    if settings.passphrase_file is not None:
        path = settings.passphrase_file
        data = disk.read(path)
        if data is None:
            raise NoPassphrase(f"{path}, named by AMESH_PASSPHRASE_FILE, does not exist")
        return _found(without_newline(data), str(path))
    if settings.credentials_directory is not None:
        path = settings.credentials_directory / CREDENTIAL
        data = disk.read(path)
        if data is not None:
            return _found(without_newline(data), str(path))
    return None


def find(settings: Settings, directory: Path, unmoved: str | None = None) -> Found:
    """The passphrase of an existing key: the operator's, else `<directory>/.passphrase`.

    `unmoved` is what an old identity.json still holds, for want of a writable disk.

    Raises:
        NoPassphrase: there is none; the message names every place.
        UnsafePermissions: others may read `.passphrase`.
        HomeUnwritable: a file cannot be read.
    """
    found = from_operator(settings)
    if found is not None:
        return found
    path = directory / FILE
    data = disk.read_private(path, wanted=MODE)
    if data is None and unmoved is not None:
        return _found(unmoved.encode("utf-8", "surrogatepass"), "identity.json")
    if data is None:
        raise NoPassphrase(
            "no passphrase for the key: AUTH_MESH_PASSPHRASE is not set, AMESH_PASSPHRASE_FILE"
            f" names no file, systemd passes no credential {CREDENTIAL}, and there is no {path}"
        )
    return _found(without_newline(data), str(path))


class ForNewKey:
    """The passphrase of a new key: the operator's, else one that is generated when asked for.

    With `directory`, what lies there already comes before one that is generated.
    """

    def __init__(self, settings: Settings, directory: Path | None = None) -> None:
        self._settings = settings
        self._directory = directory
        self.generated: bytes | None = None
        self.of_operator: Found | None = None

    def __call__(self) -> bytes:
        """The passphrase; `generated` says afterwards whether it is to be written."""
        self.of_operator = from_operator(self._settings)
        if self.of_operator is not None:
            return self.of_operator.secret
        if self._directory is not None and disk.exists(self._directory / FILE):
            return find(self._settings, self._directory).secret
        self.generated = generate()
        return self.generated


def without_newline(data: bytes) -> bytes:
    """Leave out one line end, which `echo` and editors add; the rest is the passphrase."""
    if data.endswith(b"\r\n"):
        return data[:-2]
    return data.removesuffix(b"\n")


def _found(secret: bytes, source: str) -> Found:
    if not secret:
        raise NoPassphrase(f"the passphrase in {source} is empty")
    return Found(secret, source)

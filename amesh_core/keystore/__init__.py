"""Where private keys live: the table of back ends, and how one is chosen.

A back end is a module. It is imported only when it is used, always says why it cannot be,
and is chosen once, at `init`; from then on identity.json names it and nothing falls back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from amesh_core.errors import AmeshError, BackendUnavailable

# Help texts and shell completion read the table below: it must not cost them cryptography.
if TYPE_CHECKING:
    from amesh_core.identity import DeviceKey

Passphrase = Callable[[], bytes]  # asked only by a back end that needs one


@dataclass(frozen=True, slots=True)
class Means:
    """What this process's environment gives the back ends to work with.

    `tpm_tcti` is the TPM to talk to, as tpm2-tss spells it; None is the one of this machine.
    `platform` is what Python calls the operating system.
    """

    passphrase: Passphrase = field(repr=False)
    tpm_tcti: str | None = None
    platform: str = sys.platform


class KeyStore(Protocol):
    """The keys of one directory in one back end."""

    @property
    def hardware_bound(self) -> bool:
        """Whether a key cannot be copied off this machine; if not, software protects it."""

    def create(self) -> DeviceKey:
        """Make a key; its alias is the id of the device it makes.

        Raises:
            KeyStoreError: the back end refuses.
            HomeUnwritable: it cannot be stored.
        """

    def load(self, alias: str, public: bytes) -> DeviceKey:
        """The key of that alias, once it is known to be the private half of `public`.

        Raises:
            KeyMissing: there is none.
            KeyFileDamaged: it is another key, or none at all.
            KeyStoreError: the back end refuses.
        """

    def delete(self, alias: str) -> None:
        """Make the key unusable for ever, and forget its mark; they may be gone already.

        Raises:
            KeyStoreError: the back end refuses.
            HomeUnwritable: it cannot be deleted.
        """

    def newest(self, key: DeviceKey, alias: str) -> str | None:
        """The `updatedAt` of the newest allow list remembered; None before the first.

        Raises:
            AllowListMarkBroken: what is remembered cannot be believed.
            KeyStoreError: the back end refuses.
            HomeUnwritable: it cannot be read.
        """

    def remember(self, key: DeviceKey, alias: str, updated_at: str) -> None:
        """Remember a list as the newest, unless a newer one is; the caller holds the lock.

        What cannot be believed is replaced; so ask `newest` first.

        Raises:
            KeyStoreError: the back end refuses.
            HomeUnwritable: it cannot be written.
        """


class Backend(Protocol):
    """What the module of a back end has."""

    def why_not(self, means: Means) -> str | None:
        """Why it cannot be used on this machine, or None if it can."""

    def open_store(self, directory: Path, means: Means) -> KeyStore:
        """The keys of one directory."""


# Name in identity.json -> module, best first.
BACKENDS: Final[dict[str, str]] = {
    "secure-enclave": "amesh_core.keystore.secure_enclave",
    "tpm2": "amesh_core.keystore.tpm2",
    "keychain": "amesh_core.keystore.keychain",
    "encrypted-file": "amesh_core.keystore.encrypted_file",
}

# Name and platform of a back end that works there but is only taken when it is asked for.
ONLY_WHEN_ASKED: Final[dict[tuple[str, str], str]] = {
    ("keychain", "linux"): (
        "only with `--backend keychain`: a service runs outside the login that unlocks it"
    ),
}

# The others are protected by software: who has the right bytes has the key.
HARDWARE_BOUND: Final = frozenset({"secure-enclave", "tpm2"})


@dataclass(frozen=True, slots=True)
class Choice:
    """The best back end of this machine, and why each better one is not it."""

    backend: str
    reasons: Mapping[str, str]


def detect(means: Means) -> Choice:
    """Choose the best back end that works here; only `init` does.

    Raises:
        BackendUnavailable: none does.
    """
    reasons: dict[str, str] = {}
    for name in BACKENDS:
        if reason := ONLY_WHEN_ASKED.get((name, means.platform)):
            reasons[name] = reason
            continue
        try:
            _backend(name, means)
        except BackendUnavailable as error:
            reasons[name] = error.reason
        else:
            return Choice(name, reasons)
    raise BackendUnavailable("best", "; ".join(f"{k}: {v}" for k, v in reasons.items()))


def open_store(name: str, directory: Path, means: Means) -> KeyStore:
    """The keys of one directory in the back end that identity.json names.

    Raises:
        BackendUnavailable: no such back end, or it cannot be used on this machine.
    """
    return _backend(name, means).open_store(directory, means)


@contextmanager
def deleted_after_an_error(
    store: KeyStore, alias: str, *, unless: Callable[[], bool]
) -> Iterator[None]:
    """Take a key back that was just made, if what it was made for fails.

    A key in a keychain or a chip does not go away with the files beside it. `unless` says
    whether it counts already, in spite of the error.
    """
    try:
        yield
    except BaseException:
        with suppress(AmeshError):
            if not unless():
                store.delete(alias)
        raise


def _backend(name: str, means: Means) -> Backend:
    try:
        module = cast(Backend, import_module(BACKENDS[name]))
    except KeyError:
        raise BackendUnavailable(name, f"choose one of {', '.join(BACKENDS)}") from None
    except ImportError as error:
        raise BackendUnavailable(name, f"{error.name} is not installed") from error
    if reason := module.why_not(means):
        raise BackendUnavailable(name, reason)
    return module

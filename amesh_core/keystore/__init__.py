"""Where private keys live: the table of back ends, and how one is chosen.

A back end is a module. It is imported only when it is used, always says why it cannot be,
and is chosen once, at `init`; from then on identity.json names it and nothing falls back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol, cast

from amesh_core.errors import BackendUnavailable
from amesh_core.identity import DeviceKey

Passphrase = Callable[[], bytes]  # asked only by a back end that needs one


@dataclass(frozen=True, slots=True)
class Means:
    """What this process's environment gives the back ends to work with.

    `tpm_tcti` is the TPM to talk to, as tpm2-tss spells it; None is the one of this machine.
    """

    passphrase: Passphrase = field(repr=False)
    tpm_tcti: str | None = None


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
        """Make the key unusable for ever; it may be gone already.

        Raises:
            KeyStoreError: the back end refuses.
            HomeUnwritable: it cannot be deleted.
        """


class Backend(Protocol):
    """What the module of a back end has."""

    def why_not(self, means: Means) -> str | None:
        """Why it cannot be used on this machine, or None if it can."""

    def open_store(self, directory: Path, means: Means) -> KeyStore:
        """The keys of one directory."""


# Name in identity.json -> module, best first.
BACKENDS: Final[dict[str, str]] = {
    "encrypted-file": "amesh_core.keystore.encrypted_file",
}


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

"""Where a key is and who could use it, in words; for init, list and doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from amesh_core.keystore import HARDWARE_BOUND

if TYPE_CHECKING:
    from amesh_core.io.home import Home

_NO_BACKUP: Final = (
    "A backup of this directory is no backup of the key: only this machine can use it."
)


def place(backend: str) -> str:
    """The back end, and whether its keys can be copied."""
    how = "hardware-bound" if backend in HARDWARE_BOUND else "protected by software"
    return f"{backend}, {how}"


def passphrase_beside_key(home: Home) -> str | None:
    """The file with the passphrase, if it lies in the directory that the key lies in.

    Raises:
        KeyStoreError: no place has a passphrase.
    """
    source = home.passphrase_source()
    if source is None:
        return None
    # What links lead out of the directory does not lie in it.
    path = Path(source).resolve()
    beside = path.is_file() and path.is_relative_to(home.directory.resolve())
    return source if beside else None


def warning_and_advice(home: Home, *, generated: bool) -> tuple[str | None, str]:
    """What a person should know who made a key just now; `generated` is of its passphrase."""
    match home.backend:
        case "secure-enclave":
            return (
                "the secure-enclave back end has not been run on a Mac yet: try it before you"
                " rely on it",
                _NO_BACKUP,
            )
        case backend if backend in HARDWARE_BOUND:
            return None, _NO_BACKUP
        case "keychain":
            return (
                "the key is protected by software only: programs that run as you may get it",
                "Whatever uses the key needs your keychain unlocked; see amesh-init(1).",
            )
        case _:
            return _of_a_file(passphrase_beside_key(home), generated=generated)


def _of_a_file(beside: str | None, *, generated: bool) -> tuple[str, str]:
    warning = "the key is protected by software only: who can copy this directory has it"
    if beside is None:
        return (
            f"{warning}, once the passphrase is guessed",
            "The passphrase was not written anywhere; every command and service needs it.",
        )
    if generated:
        return (
            warning,
            f"Its passphrase was generated and lies beside it, in {beside}.\n"
            "To part them, run `amesh passphrase change --new-passphrase-file FILE` with a FILE "
            "that lies elsewhere; see amesh-init(1).",
        )
    return (
        warning,
        f"Its passphrase lies beside it, in {beside}.\n"
        "To part them, move that file elsewhere and name it in AMESH_PASSPHRASE_FILE.",
    )

"""Keys in a TPM 2.0: made there, used there, and impossible to copy.

    __init__      may it be used on this machine; the door that key stores have
    store         the files of a directory, the key that they make
    mark          the newest allow list, remembered in the TPM
    chip          one connection for the process: threads, forks, lost connections, what is kept
    connection    the commands, over tpm2-pytss
    codes         what a TPM answers, in words

docs/keys.md is for the people who set one up.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from amesh_core.keystore import Means
from amesh_core.keystore.tpm2 import codes
from amesh_core.keystore.tpm2.chip import Chip, chip
from amesh_core.keystore.tpm2.codes import Refused, explained
from amesh_core.keystore.tpm2.connection import load_library
from amesh_core.keystore.tpm2.store import Tpm2Store

# With the kernel's resource manager, so that others can use the TPM at the same time. Never
# left to tpm2-tss, which would try one simulator after the other.
DEVICE: Final = "/dev/tpmrm0"
_DEVICE_TCTI: Final = "device"


def why_not(means: Means) -> str | None:
    """Why the TPM cannot be used; in order, so that the first reason is the one to mend."""
    tcti = _tcti(means)
    name, _, _ = tcti.partition(":")
    # Without a name, tpm2-tss would try one simulator after the other; it takes UTF-8 only.
    if not name or not tcti.isprintable():
        return f"{tcti!r} does not name a TPM, as `device:{DEVICE}` does"
    device = _device(tcti)
    here = chip(tcti)
    # A bare /dev/tpm0 can be opened only once, and is ours then.
    if device is not None and not here.is_open and (reason := _why_not_device(device)):
        return reason
    return _why_not_library() or _why_not_answering(here)


def open_store(directory: Path, means: Means) -> Tpm2Store:
    """The keys in `<directory>/keys`."""
    return Tpm2Store(directory, chip(_tcti(means)))


def _tcti(means: Means) -> str:
    # A device without a path, too, would be looked for.
    if means.tpm_tcti in (None, "", _DEVICE_TCTI, f"{_DEVICE_TCTI}:"):
        return f"{_DEVICE_TCTI}:{DEVICE}"
    return means.tpm_tcti


def _device(tcti: str) -> Path | None:
    name, _, conf = tcti.partition(":")
    return Path(conf) if name == _DEVICE_TCTI and conf else None


def _why_not_device(path: Path) -> str | None:
    # tpm2-tss has one code for all of this.
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            # Commands would be written over the contents of a file.
            if not stat.S_ISCHR(os.fstat(descriptor).st_mode):
                return f"{path} is not a device"
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return f"this machine has no TPM 2.0 that Linux knows of: there is no {path}"
    except PermissionError:
        return _how_to_get_in(path)
    except OSError as error:
        return f"{path} cannot be opened: {error.strerror}"
    return None


def _how_to_get_in(path: Path) -> str:
    who, group = str(os.geteuid()), "tss"
    with suppress(KeyError):
        who = pwd.getpwuid(os.geteuid()).pw_name
    with suppress(KeyError, OSError):
        group = grp.getgrgid(path.stat().st_gid).gr_name
    if group == "root":
        return f"{who} may not open {path}; install the package tpm-udev, which gives it to tss"
    return (
        f"{who} may not open {path}; run `sudo usermod -aG {group} {who}`, then log in again"
        " or restart the service"
    )


def _why_not_library() -> str | None:
    try:
        load_library()
    except ModuleNotFoundError:
        return (
            "tpm2-pytss is not installed; run `pip install 'authmesh[tpm]'`, which needs gcc,"
            " pkg-config and libtss2-dev"
        )
    except ImportError as error:
        return f"tpm2-pytss cannot be loaded, is libtss2-dev installed? {error}"
    return None


def _why_not_answering(here: Chip) -> str | None:
    try:
        has_parent = here.attempt(lambda line: line.connection.has_parent())
    except Refused as refused:
        name, _, _ = here.tcti.partition(":")
        if refused.rc == codes.NO_PLUGIN:
            return f"tpm2-tss has no plug-in {name!r}; on Debian it is libtss2-tcti-{name}0"
        return str(explained(refused, here.tcti))
    if not has_parent:
        return (
            "the owner of the TPM has a password, and there is no storage root key at 0x81000001;"
            " amesh-init(1) says how its owner makes one"
        )
    return None

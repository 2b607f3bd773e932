"""The tokens this device minted, in its directory: read, change, use up one at a time.

Every change is made under the directory's lock, whole files only, sealed with the device's
key (docs/protocol.md sections 2 and 6).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from amesh_core import crypto, disk, identity
from amesh_core.admission import Announced
from amesh_core.allow_list import Device
from amesh_core.errors import Malformed, NoSuchToken, TokenNotUsable, TokenRecordsBroken
from amesh_core.io import identity_file
from amesh_core.io.home import Home
from amesh_core.wire.encoding import instant, parse_instant
from amesh_core.wire.provisioned import Minted, ProvisionedFile

PROVISIONED_FILE: Final = "provisioned.json"
# Long enough to look up what became of a token, short enough for the file to stay small.
KEPT_AFTER_EXPIRY_SECONDS: Final = 30 * 86_400


@dataclass(slots=True)
class _Edit:
    tokens: tuple[Minted, ...]


def read(home: Home) -> tuple[Minted, ...]:
    """All minted tokens, oldest first.

    Raises:
        TokenRecordsBroken: the file is not as this device sealed it.
        IdentityReplaced: it is that of a new identity.
        HomeError, KeyStoreError: it cannot be read, or its seal not be checked.
    """
    path = home.directory / PROVISIONED_FILE
    data = disk.read_private(path)
    if data is None:
        return ()
    try:
        file = ProvisionedFile.parse(data)
        sealed = file.sealed_bytes()
    except Malformed as error:
        raise TokenRecordsBroken(f"{path} is not valid: {error}") from None
    if not crypto.same(home.key().mac(sealed), file.seal):
        # It may be that of a new identity, and then nobody changed anything: the list says so.
        home.allow_list()
        raise TokenRecordsBroken(f"the seal of {path} does not fit its contents")
    return file.tokens


def add(home: Home, minted: Iterable[Minted], now: float) -> None:
    """Remember new tokens, and forget those that expired long ago.

    Raises:
        TokenRecordsBroken, HomeError, KeyStoreError: as `read`, or it cannot be written.
    """
    with _editing(home) as edit:
        kept = (
            token
            for token in edit.tokens
            if parse_instant(token.expires_at) + KEPT_AFTER_EXPIRY_SECONDS > now
        )
        edit.tokens = (*kept, *minted)


def forget(home: Home, minted: Iterable[Minted]) -> None:
    """Take back what was added, as nobody was given the tokens.

    Raises:
        TokenRecordsBroken, HomeError, KeyStoreError: as `add`.
    """
    gone = {token.jti for token in minted}
    with _editing(home) as edit:
        edit.tokens = tuple(token for token in edit.tokens if token.jti not in gone)


def cancel(home: Home, text: str, now: float) -> Minted:
    """Make one token unusable here; `text` is its jti or an unambiguous start of it.

    Raises:
        NoSuchToken: it names none, or several.
        TokenNotUsable: a device was recorded because of it, and not only begun to be.
        AllowListBroken: whether it was cannot be known.
        TokenRecordsBroken, HomeError, KeyStoreError: as `add`.
    """
    with _editing(home) as edit:
        minted = _find(edit.tokens, text)
        if minted.used_by is not None and (minted.recorded_at or minted.used_by in _listed(home)):
            used_by = identity.device_id(minted.used_by)
            raise TokenNotUsable(f"{used_by} has used the token; `amesh revoke` is what ends that")
        cancelled = replace(minted, cancelled_at=minted.cancelled_at or instant(now))
        edit.tokens = _with(edit.tokens, cancelled)
    return cancelled


def admit(home: Home, announced: Announced, now: float) -> Device:
    """Record the announced key as a target, once for each token; gives its entry.

    Raises:
        BootstrapError, DeviceError: it is not to be recorded, and nothing was changed.
        AllowListBroken, HomeError, KeyStoreError: it could not be recorded; the next
            announcement of the same key completes what was begun.
    """
    with home.editing_allow_list(now) as edit:
        tokens = read(home)
        minted = _find(tokens, announced.jti)
        admission = announced.admit(minted, edit.allow_list, now)
        # First: a kill after this line leaves a token that only the same key can use. The
        # other way round it would leave a listed key, and a token good for another one.
        if admission.minted != minted:
            _write(home, _with(tokens, admission.minted))
        edit.allow_list = admission.allow_list
    if admission.minted.recorded_at is None:
        _settle(home, announced.jti, now)
    return admission.device


def settle(home: Home, now: float) -> None:
    """Finish what a crash cut off after the list was written; before a device leaves the list.

    Otherwise its announcement, played again by a relay, would count as the one that completes
    the list, and would bring it back.

    Raises:
        TokenRecordsBroken, HomeError, KeyStoreError: as `add`.
    """
    if not any(minted.used_by and not minted.recorded_at for minted in read(home)):
        return
    with _editing(home) as edit:
        listed = _listed(home)
        edit.tokens = tuple(
            replace(minted, recorded_at=instant(now))
            if minted.used_by in listed and not minted.recorded_at
            else minted
            for minted in edit.tokens
        )


def _listed(home: Home) -> frozenset[bytes | None]:
    return frozenset(device.public_key for device in home.allow_list().devices)


def _settle(home: Home, jti: str, now: float) -> None:
    """Remember that the list had the key: if it is missing from now on, it was revoked."""
    with _editing(home) as edit:
        minted = replace(_find(edit.tokens, jti), recorded_at=instant(now))
        edit.tokens = _with(edit.tokens, minted)


@contextmanager
def _editing(home: Home) -> Iterator[_Edit]:
    home.key()  # before the lock: nobody need wait for the unlocking
    with disk.locked(home.directory):
        # A new identity begins without tokens; ours would be under a seal that it cannot check.
        identity_file.unreplaced(home.directory, home.identity)
        edit = _Edit(read(home))
        yield edit
        _write(home, edit.tokens)


def _write(home: Home, tokens: tuple[Minted, ...]) -> None:
    file = ProvisionedFile(tokens)
    sealed = replace(file, seal=home.key().mac(file.sealed_bytes()))
    disk.replace(home.directory / PROVISIONED_FILE, sealed.encode())


def _find(tokens: tuple[Minted, ...], text: str) -> Minted:
    found = [minted for minted in tokens if minted.jti == text]
    if not found and len(text) > len("bt_"):
        found = [minted for minted in tokens if minted.jti.startswith(text)]
    match found:
        case [minted]:
            return minted
        case []:
            raise NoSuchToken("no token of this device has that id")
        case _:
            raise NoSuchToken("more than one token has an id that begins so")


def _with(tokens: tuple[Minted, ...], changed: Minted) -> tuple[Minted, ...]:
    return tuple(changed if minted.jti == changed.jti else minted for minted in tokens)

"""A device that makes itself from a bootstrap token; docs/protocol.md section 6.

What a target must know is its controller's key, and the token carries it, signed. So the
device is made without any network; that its controller hears of it is for `announcing`.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from amesh_core import disk, provisioning
from amesh_core.errors import IdentityExists, Malformed, NoToken
from amesh_core.identity import DeviceKey, Peer, Role, check_name
from amesh_core.io.home import Bootstrap, Created, Home
from amesh_core.provisioning import AcceptedToken
from amesh_core.settings import Settings
from amesh_core.wire.announce import AnnounceFile
from amesh_core.wire.encoding import instant

CREDENTIAL: Final = "amesh-bootstrap-token"  # systemd: LoadCredential=amesh-bootstrap-token:...


@dataclass(frozen=True, slots=True)
class FoundToken:
    """A token that nobody has checked, and where it was, to tell the person who put it there."""

    text: str = field(repr=False)
    source: str


def find_token(settings: Settings) -> FoundToken | None:
    """The bootstrap token that this process was given, if it was.

    In order: AMESH_BOOTSTRAP_TOKEN, the file named by AMESH_BOOTSTRAP_TOKEN_FILE, the systemd
    credential. The permissions of a file are its owner's business, as with a passphrase.

    Raises:
        NoToken: the named file does not exist.
        HomeUnwritable: a file cannot be read.
    """
    if settings.bootstrap_token is not None:
        return FoundToken(settings.bootstrap_token, "AMESH_BOOTSTRAP_TOKEN")
    if settings.bootstrap_token_file is not None:
        path = settings.bootstrap_token_file
        found = _read(path)
        if found is None:
            raise NoToken(f"{path}, named by AMESH_BOOTSTRAP_TOKEN_FILE, does not exist")
        return found
    if settings.credentials_directory is not None:
        return _read(settings.credentials_directory / CREDENTIAL)
    return None


def as_text(data: bytes) -> str:
    """The token in a file, whatever is in it; what is no text is no token either."""
    return data.decode("ascii", "replace").strip()


def create_from(token: FoundToken, settings: Settings, now: float) -> Created:
    """Make the device that this token is for, with the controller of the token on its list.

    Raises:
        BadToken: it fails a check, and nothing was made.
        IdentityExists: there is one, perhaps made by another process in this moment.
        HomeError, KeyStoreError: as `Home.create`.
    """
    # Before anything is made, and before anybody waits for a lock.
    accepted = provisioning.accept(token.text, now)
    claims = accepted.claims
    # The token does not say what its controller is called; an id is a name that is true.
    controller = Peer(claims.issuer, claims.public_key, claims.issuer, Role.CONTROLLER)
    return Home.create(
        settings,
        name=claims.name,
        bootstrap=Bootstrap(controller, lambda key: _announcement(token, accepted, key)),
        now=now,
    )


def open_or_create(token: FoundToken, settings: Settings, now: float) -> Home:
    """As `create_from`; but of many processes that start together one makes the device.

    Raises:
        BadToken, HomeError, KeyStoreError: as `create_from`.
    """
    try:
        return create_from(token, settings, now).home
    except IdentityExists:
        return Home.open(settings)


def _announcement(token: FoundToken, accepted: AcceptedToken, key: DeviceKey) -> bytes:
    claims = accepted.claims
    return AnnounceFile(
        relay_url=claims.relay,
        expires_at=instant(claims.expires_at),
        controller_public_key=claims.public_key,
        frame=provisioning.announce(token.text, key, _machine_name(claims.name)).frame(),
    ).encode()


def _machine_name(otherwise: str) -> str:
    """What an operator is shown, to find the machine that took the token; recorded nowhere."""
    try:
        return check_name(socket.gethostname())
    except Malformed:
        return otherwise


def _read(path: Path) -> FoundToken | None:
    data = disk.read(path)
    return None if data is None else FoundToken(as_text(data), str(path))

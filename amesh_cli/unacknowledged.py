"""What a device made from a token still has to tell its controller, for `list` and `doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amesh_core.io.staging import ANNOUNCE_FILE

if TYPE_CHECKING:
    from amesh_core.io.home import Home
    from amesh_core.wire.announce import AnnounceFile


def announcement(home: Home) -> AnnounceFile | None:
    """What was not acknowledged yet, if anything.

    Raises:
        Malformed: announce.json is damaged.
    """
    if not (home.directory / ANNOUNCE_FILE).exists():
        return None
    from amesh_core.io import announcing  # takes 50 ms that most devices need not wait

    return announcing.read(home.directory)


def sentence(file: AnnounceFile, now: float) -> str:
    """That the controller does not know this device, and until when it is told."""
    if file.is_expired(now):
        return (
            "the controller of the bootstrap token never acknowledged this device; it was "
            f"announced until {file.expires_at}"
        )
    return (
        "the controller of the bootstrap token has not acknowledged this device yet; it is "
        f"announced at {file.relay_url} until {file.expires_at}"
    )

"""The environment, read once into one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

DEFAULT_RELAY_URL: Final = "wss://relay.authmesh.dev/ws"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says; nothing below the edges reads `os.environ`.

    `directory` is AUTH_MESH_DIR, else `~/.amesh`. Unset and empty are the same.
    """

    directory: Path
    passphrase: str | None = field(default=None, repr=False)
    passphrase_file: Path | None = None
    credentials_directory: Path | None = None
    relay_url: str | None = None
    debug_requests: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read AUTH_MESH_DIR, AUTH_MESH_PASSPHRASE, AMESH_PASSPHRASE_FILE, AMESH_RELAY_URL,
        CREDENTIALS_DIRECTORY and AMESH_DEBUG_REQUESTS.
        """
        directory = environ.get("AUTH_MESH_DIR")
        return cls(
            directory=Path(directory).expanduser() if directory else Path.home() / ".amesh",
            passphrase=environ.get("AUTH_MESH_PASSPHRASE") or None,
            passphrase_file=_path(environ.get("AMESH_PASSPHRASE_FILE")),
            credentials_directory=_path(environ.get("CREDENTIALS_DIRECTORY")),
            relay_url=environ.get("AMESH_RELAY_URL") or None,
            debug_requests=environ.get("AMESH_DEBUG_REQUESTS") not in (None, "", "0"),
        )


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None

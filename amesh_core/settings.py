"""The environment, read once into one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from amesh_core.errors import UsageError

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
    tpm_tcti: str | None = None
    bootstrap_token: str | None = field(default=None, repr=False)
    bootstrap_token_file: Path | None = None
    relay_token: str | None = field(default=None, repr=False)
    relay_token_file: Path | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read AUTH_MESH_DIR, AUTH_MESH_PASSPHRASE, AMESH_PASSPHRASE_FILE, AMESH_RELAY_URL,
        CREDENTIALS_DIRECTORY, AMESH_DEBUG_REQUESTS, AMESH_TPM_TCTI, TPM2TOOLS_TCTI,
        AMESH_BOOTSTRAP_TOKEN, AMESH_BOOTSTRAP_TOKEN_FILE, AMESH_RELAY_TOKEN and
        AMESH_RELAY_TOKEN_FILE.

        Raises:
            UsageError: a path begins in a home directory that there is not.
        """
        return cls(
            directory=_expanded(environ.get("AUTH_MESH_DIR") or "~/.amesh"),
            passphrase=environ.get("AUTH_MESH_PASSPHRASE") or None,
            passphrase_file=_path(environ.get("AMESH_PASSPHRASE_FILE")),
            credentials_directory=_path(environ.get("CREDENTIALS_DIRECTORY")),
            relay_url=environ.get("AMESH_RELAY_URL") or None,
            debug_requests=environ.get("AMESH_DEBUG_REQUESTS") not in (None, "", "0"),
            tpm_tcti=environ.get("AMESH_TPM_TCTI") or environ.get("TPM2TOOLS_TCTI") or None,
            bootstrap_token=environ.get("AMESH_BOOTSTRAP_TOKEN") or None,
            bootstrap_token_file=_path(environ.get("AMESH_BOOTSTRAP_TOKEN_FILE")),
            relay_token=environ.get("AMESH_RELAY_TOKEN") or None,
            relay_token_file=_path(environ.get("AMESH_RELAY_TOKEN_FILE")),
        )


def _path(text: str | None) -> Path | None:
    return _expanded(text) if text else None


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # an unknown name after ~, or a container's user that has no name
        raise UsageError(
            f"{text}: there is no such home directory; give the whole path (AUTH_MESH_DIR is"
            " that of this device)"
        ) from None

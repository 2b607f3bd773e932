"""A certificate that may be renewed while the relay runs."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Final

from amesh_core.errors import UsageError

log: Final = logging.getLogger("amesh.relay")


class Certificate:
    """A certificate chain and its key; what is in the files when a client comes is what it sees."""

    def __init__(self, certfile: Path, keyfile: Path | None) -> None:
        """Load both.

        Raises:
            UsageError: they cannot be read, or do not belong to each other.
        """
        self._files = (certfile, keyfile or certfile)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A WebSocket client would otherwise be free to ask for HTTP/2, which this is not.
        self.context.set_alpn_protocols(["http/1.1"])
        self._seen = self._stamp()
        try:
            self._load()
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"{certfile}: {_reason(error)}") from None

    def refresh(self) -> None:
        """Load the files again if they changed; keep what there is if they cannot be used."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        # Also when it fails: half of a renewal is not looked at again before it goes on.
        self._seen = stamp
        try:
            self._load()
        except (OSError, ssl.SSLError) as error:
            log.error("the new certificate cannot be used, the old one stays: %s", _reason(error))
        else:
            log.info("the certificate was loaded again")

    def _load(self) -> None:
        # Tried aside first: a failed load would leave the context with half of it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files)
        self.context.load_cert_chain(*self._files)

    def _stamp(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._files]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not a certificate and its key").replace("_", " ").lower()
    assert isinstance(error, OSError)  # noqa: S101 narrows the type
    return (error.strerror or "cannot be read").lower()

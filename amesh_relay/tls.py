"""A certificate that may be renewed while the relay runs."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Final, NoReturn

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
        # A client would otherwise be free to ask for HTTP/2, which this is not.
        self.context.set_alpn_protocols(["http/1.1"])
        self._seen = self._stamp()
        self._load()

    def refresh(self) -> None:
        """Load the files again if they changed; keep what there is if they cannot be used."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        # Also when it fails: half of a renewal is not looked at again before it goes on.
        self._seen = stamp
        try:
            self._load()
        except UsageError as error:
            log.error("the new certificate cannot be used, the old one stays: %s", error)
        else:
            log.info("the certificate was loaded again")

    def _load(self) -> None:
        certfile, keyfile = self._files
        try:
            for path in self._files:
                with path.open("rb"):  # OpenSSL does not say which of the two it misses
                    pass
            # Tried aside first: a failed load would leave the context with half of it.
            aside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            for context in (aside, self.context):
                context.load_cert_chain(certfile, keyfile, _no_passphrase)
        except ssl.SSLError as error:
            names = f"{certfile} and {keyfile}" if certfile != keyfile else str(certfile)
            raise UsageError(f"{names}: {_reason(error)}") from None
        except OSError as error:
            reason = (error.strerror or "cannot be read").lower()
            raise UsageError(f"{error.filename or certfile}: {reason}") from None

    def _stamp(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._files]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _no_passphrase() -> NoReturn:
    """Instead of OpenSSL's question at the terminal, which a service does not have."""
    raise UsageError("the private key is encrypted; a relay starts without a passphrase")


def _reason(error: ssl.SSLError) -> str:
    match str(error.reason):
        case "KEY_VALUES_MISMATCH":
            return "the certificate is not for this key"
        case "NO_START_LINE" | "PEM_LIB" | "None":
            return "no certificate with its private key, in PEM"
        case reason:
            return reason.replace("_", " ").lower()

"""Requests written down for `amesh explain`, where AMESH_DEBUG_REQUESTS asks for it.

The client writes to the logger `amesh.sign`, the server to `amesh.verify`, at DEBUG. Setting
the variable is all there is to do: the lines pass the level of the logger, and go to stderr
where no handler is.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

from amesh_core.errors import Malformed
from amesh_core.identity import device_id
from amesh_core.sighting import Side, Sighting
from amesh_core.verification import RequestHead
from amesh_core.wire import header
from amesh_core.wire.header import Credential

_LOGS: Final = {
    Side.SENT: logging.getLogger("amesh.sign"),
    Side.SEEN: logging.getLogger("amesh.verify"),
}


def sent(method: str, target: bytes, body: bytes, authorization: str) -> None:
    """Write down a request that was just signed."""
    credential = header.parse([authorization])
    _write(Side.SENT, credential, method, target, body, int(credential.timestamp))


def seen(head: RequestHead, body: bytes | None, now: int) -> None:
    """Write down a request as it arrived; `body` None was not read. `now` is in Unix seconds."""
    try:
        credential = header.parse(head.authorization)
    except Malformed:
        return  # nothing that could be laid beside what was signed
    _write(Side.SEEN, credential, head.method, head.target, body, now)


def _write(
    side: Side, credential: Credential, method: str, target: bytes, body: bytes | None, at: int
) -> None:
    log = _LOGS[side]
    line = Sighting.of(
        side,
        method,
        target,
        body,
        timestamp=credential.timestamp,
        nonce=credential.nonce,
        device_id=device_id(credential.public_key),
        at=at,
    ).encode()
    if log.hasHandlers():
        log.handle(log.makeRecord(log.name, logging.DEBUG, __file__, 0, line, (), None))
    else:
        sys.stderr.write(f"{line}\n")

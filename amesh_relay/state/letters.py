"""Letters between relays, as they are written and read; state/__init__.py says what is in one."""

from __future__ import annotations

import logging
from typing import Final

from amesh_relay.state import Kind, Letter

log: Final = logging.getLogger("amesh.relay")


def written(letter: Letter) -> str:
    """One line of facts, and then the text as it is."""
    head = (letter.sender, letter.guest, letter.number, letter.kind, letter.client.hex())
    return f"{' '.join(map(str, head))} {letter.code}\n{letter.text}"


def read(text: str) -> Letter | None:
    """Read a letter; what another version of a relay may write is not one."""
    head, _, said = text.partition("\n")
    try:
        sender, guest, number, kind, client, code = head.split(" ")
        return Letter(
            sender, guest, int(number), Kind(kind), said, bytes.fromhex(client), int(code)
        )
    except ValueError:
        log.warning("another relay wrote what this version does not understand")
        return None

"""Letters between relays, as they are written and read; state/__init__.py says what is in one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from amesh_relay.state import Kind, Letter

log: Final = logging.getLogger("amesh.relay")

_KINDS: Final = {str(kind): kind for kind in Kind}


def written(letter: Letter) -> str:
    """One line of facts, and then the text as it is; several letters can follow each other."""
    return (
        f"{letter.sender} {letter.guest} {letter.number} {letter.kind.value} {letter.client.hex()}"
        f" {letter.code} {len(letter.text)}\n{letter.text}"
    )


def read(text: str) -> Iterator[Letter]:
    """Read letters; what another version of a relay may write is not one."""
    at = 0
    try:
        while at < len(text):
            begin = text.index("\n", at) + 1
            sender, guest, number, kind, client, code, length = text[at : begin - 1].split(" ")
            at = begin + int(length)
            if not begin <= at <= len(text):
                raise ValueError(length)
            said = text[begin:at]
            yield Letter(
                sender, guest, int(number), _KINDS[kind], said, bytes.fromhex(client), int(code)
            )
    except (ValueError, KeyError):
        log.warning("another relay wrote what this version does not understand")

"""Pairing without a relay: a card becomes a peer once two people have compared its fingerprint."""

from __future__ import annotations

import re
from typing import Final

from amesh_core import crypto
from amesh_core.errors import Malformed, OwnKey, UsageError
from amesh_core.identity import Peer, Role, check_name, device_id
from amesh_core.wire.card import Card

_GROUP: Final = 4  # hex digits: as many as people read aloud in one breath
_GROUPS_A_LINE: Final = 4


def introduce(card: Card, role: Role, *, ours: bytes) -> Peer:
    """Who the card is of, if it can be of anybody; `role` is what it becomes to us.

    Raises:
        Malformed: a key that is not on the curve, an id of another key, no good name.
        OwnKey: it is our own card.
    """
    crypto.public_key(card.public_key)
    if card.device_id != device_id(card.public_key):
        raise Malformed("the card's id is not that of its key")
    check_name(card.friendly_name)
    if card.public_key == ours:
        raise OwnKey
    return Peer(card.device_id, card.public_key, card.friendly_name, role)


def fingerprint(public: bytes) -> tuple[str, ...]:
    """All 256 bits of SHA-256 over a public key, in lines to be read aloud.

    All of them: of a part, a patient attacker makes a key whose part is the same.
    """
    digits = crypto.sha256(public).hex()
    groups = [digits[i : i + _GROUP] for i in range(0, len(digits), _GROUP)]
    return tuple(
        " ".join(groups[i : i + _GROUPS_A_LINE]) for i in range(0, len(groups), _GROUPS_A_LINE)
    )


def is_fingerprint_of(text: str, public: bytes) -> bool:
    """Whether `text` is the fingerprint of this key; how it is spaced does not matter.

    Raises:
        UsageError: it is no fingerprint at all, or only a part of one.
    """
    digits = re.sub(r"[\s:]", "", text).lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise UsageError("a fingerprint is 64 hexadecimal digits, all that `amesh export` shows")
    return crypto.same(bytes.fromhex(digits), crypto.sha256(public))

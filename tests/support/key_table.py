"""A million key pairs made in advance, as an attacker would make them.

Made one by one they take 20 s; an attacker does not do that, and neither does a test. Points
A + B and A - B share one division, both have the same x as their negatives, and Montgomery's
trick makes one division of a thousand. What is a search needs x and a sign only; the private
scalar is looked up for the one key that was found. Not for anything but breaking things.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from amesh_core.crypto import PrivateKey

_P: Final = 2**256 - 2**224 + 2**192 + 2**96 - 1
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SMALL: Final = 1000  # scalars 1 to 1000 ...
_GIANTS: Final = 250  # ... around each of 250 multiples of 10 000


@dataclass(frozen=True)
class KeyTable:
    """500 000 x-coordinates of 32 bytes each; with either sign, a million public keys."""

    xs: bytes

    def __len__(self) -> int:
        return len(self.xs) // 32 * 2

    def each_x(self) -> Iterator[bytes]:
        """The x-coordinates, in the table's order."""
        return (self.xs[i : i + 32] for i in range(0, len(self.xs), 32))

    def private(self, public: bytes) -> PrivateKey:
        """The private key of a public key (33 bytes) of this table."""
        place = next(i for i, x in enumerate(self.each_x()) if x == public[1:])
        giant, within = divmod(place, 2 * _SMALL)
        small, is_difference = divmod(within, 2)
        scalar = _giant(giant) - (small + 1) if is_difference else _giant(giant) + (small + 1)
        key = PrivateKey.from_scalar(scalar.to_bytes(32, "big"))
        if key.public != public:
            key = PrivateKey.from_scalar((_ORDER - scalar).to_bytes(32, "big"))
        assert key.public == public
        return key


def make_key_table() -> KeyTable:
    """Make the table; about a second."""
    smalls = [_point(scalar) for scalar in range(1, _SMALL + 1)]
    table = bytearray()
    for number in range(_GIANTS):
        ax, ay = _point(_giant(number))
        for (bx, by), inverse in zip(smalls, _inverses([bx - ax for bx, _ in smalls]), strict=True):
            for y in (by, -by):
                slope = (y - ay) * inverse
                table += ((slope * slope - ax - bx) % _P).to_bytes(32, "big")
    return KeyTable(bytes(table))


def _giant(number: int) -> int:
    return 10_000 * (number + 1)


def _point(scalar: int) -> tuple[int, int]:
    numbers = ec.derive_private_key(scalar, ec.SECP256R1()).public_key().public_numbers()
    return numbers.x, numbers.y


def _inverses(values: list[int]) -> list[int]:
    """All inverses modulo p, with one inversion."""
    products = [1]
    for value in values:
        products.append(products[-1] * value % _P)
    inverse = pow(products[-1], -1, _P)
    result = []
    for value, before in zip(reversed(values), reversed(products[:-1]), strict=True):
        result.append(inverse * before % _P)
        inverse = inverse * value % _P
    return result[::-1]

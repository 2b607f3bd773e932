"""Requests, beside the one P-256 operation that each cannot do without."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from amesh_core import crypto
from amesh_core.allow_list import AllowList, Device
from amesh_core.crypto import PrivateKey
from amesh_core.identity import Role, device_id
from amesh_core.nonces import MemoryNonceStore
from amesh_core.request import canonical_string, sign
from amesh_core.verification import AuthMeshIdentity, Policy, RequestHead, check_form
from amesh_core.wire import header
from amesh_core.wire.encoding import instant
from amesh_core.wire.target import canonical_target
from bench.measuring import CALLS, Comparison, compare, one_core
from bench.report import Row

METHOD: Final = "POST"
TARGET: Final = b"/api/orders?b=2&a=1"
BODY: Final = b'{"item":"a thing","amount":100,"note":"' + b"x" * 200 + b'"}'

_SIGNED_AT: Final = 1_800_000_000
_POLICY: Final = Policy()


@dataclass(frozen=True, slots=True)
class BenchKey:
    """A device key in memory."""

    private: PrivateKey

    @property
    def public(self) -> bytes:
        return self.private.public

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message)

    def mac(self, message: bytes) -> bytes:
        return crypto.hmac_sha256(bytes(32), message)


def run() -> list[Row]:
    """The rows of this module."""
    with one_core():
        return [*_verifying(), *_signing(), *_long_list()]


def _verifying() -> list[Row]:
    traffic = Traffic()
    result = compare(traffic.verify_bare, traffic.verifier(()), before=traffic.arrive)
    return [
        Row("a bare P-256 verify", _microseconds(result.bare_seconds)),
        Row("a request verified, all steps", _microseconds(result.ours_seconds)),
        _rate("its rate, of the bare one", result, 0.85),
    ]


def _signing() -> list[Row]:
    key = BenchKey(PrivateKey.generate())
    private = ec.derive_private_key(int.from_bytes(key.private.scalar(), "big"), ec.SECP256R1())
    message = canonical_string(METHOD, canonical_target(TARGET), str(_SIGNED_AT), "n" * 22, BODY)

    def bare() -> None:
        private.sign(message, ec.ECDSA(hashes.SHA256()))

    def ours() -> None:
        sign(METHOD, TARGET, BODY, key, now=_SIGNED_AT, nonce=secrets.token_bytes(16))

    result = compare(bare, ours)
    return [
        Row("a bare P-256 sign", _microseconds(result.bare_seconds)),
        Row("a request signed", _microseconds(result.ours_seconds)),
        _rate("its rate, of the bare one", result, 0.75),
    ]


def _long_list() -> list[Row]:
    traffic = Traffic()
    # The others never call, so their keys need not be on the curve.
    others = [b"\x02" + number.to_bytes(32, "big") for number in range(9_999)]
    result = compare(traffic.verifier(()), traffic.verifier(others), before=traffic.arrive)
    cost = 1 / result.rate
    return [
        Row(
            "verified with 10 000 devices listed, times with 1",
            f"{cost:.2f}",
            "< 1.05",
            cost < 1.05,
        )
    ]


class Traffic:
    """Requests of one device, made a block at a time: on a server, too, they have just come."""

    def __init__(self) -> None:
        self._key = BenchKey(PrivateKey.generate())
        self._public = crypto.public_key(self._key.public)
        self._numbers = count()
        self._arrived: list[RequestHead] = []
        self._pairs: Iterator[tuple[bytes, bytes]] = iter(())

    def arrive(self, number: int) -> None:
        """Sign so many requests; each is good for once."""
        self._arrived = [self._signed(next(self._numbers)) for _ in range(number)]
        self._pairs = iter([_bare(request) for request in self._arrived])

    def verify_bare(self) -> None:
        """The P-256 operation of the next request."""
        signature, message = next(self._pairs)
        self._public.verify(signature, message, ec.ECDSA(hashes.SHA256()))

    def verifier(self, others: Sequence[bytes]) -> Callable[[], AuthMeshIdentity]:
        """What verifies the next request, with a store of its own and `others` on the list."""
        middle = len(others) // 2
        allow_list = _list_of([*others[:middle], self._key.public, *others[middle:]])
        nonces = MemoryNonceStore(clock=time.monotonic)
        turn = cycle(range(CALLS))

        def verify() -> AuthMeshIdentity:
            claim = check_form(self._arrived[next(turn)], _POLICY)
            return claim.admit(allow_list, _SIGNED_AT).verify(BODY, _SIGNED_AT).spend(nonces)

        return verify

    def _signed(self, number: int) -> RequestHead:
        nonce = number.to_bytes(16, "big")
        value = sign(METHOD, TARGET, BODY, self._key, now=_SIGNED_AT, nonce=nonce)
        return RequestHead(METHOD, TARGET, (value.encode("ascii"),), len(BODY))


def _rate(name: str, result: Comparison, goal: float) -> Row:
    return Row(name, f"{result.rate:.0%}", f">= {goal:.0%}", result.rate >= goal)


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us"


def _list_of(keys: list[bytes]) -> AllowList:
    now = instant(_SIGNED_AT)
    devices = (
        Device(device_id(public), public, f"device {number}", now, "handshake", Role.CONTROLLER)
        for number, public in enumerate(keys)
    )
    return AllowList(b"\x03" + bytes(32), tuple(devices), now)


def _bare(request: RequestHead) -> tuple[bytes, bytes]:
    """The same signature in DER, and the message that it covers."""
    credential = header.parse(request.authorization)
    r, s = credential.signature[:32], credential.signature[32:]
    message = canonical_string(
        METHOD, canonical_target(TARGET), credential.timestamp, credential.nonce, BODY
    )
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big")), message

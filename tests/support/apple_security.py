"""Security.framework as pyobjc shows it, for the calls that the Secure Enclave back end makes.

Written from Apple's published sources and headers, and from pyobjc's metadata; nobody has
compared it with a Mac. The cryptography is real. What a caller easily gets wrong is here:
a key asked for without its wrapped form is a new one, half of all signatures have a high s,
and errors are values.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_OS_STATUS: Final = "NSOSStatusErrorDomain"
_WRAPPED_BYTES: Final = 570  # about what a real one has
PARAM: Final = -50
MISSING_ENTITLEMENT: Final = -34018
INTERACTION_NOT_ALLOWED: Final = -25308
CORRUPTED_DATA: Final = -3


@dataclass(frozen=True)
class NSError:
    """An error that is a value."""

    _domain: str
    _code: int
    _text: str

    def domain(self) -> str:
        return self._domain

    def code(self) -> int:
        return self._code

    def localizedDescription(self) -> str:
        return self._text


@dataclass(frozen=True)
class AccessControl:
    """SecAccessControlRef"""

    protection: str
    flags: int


@dataclass(frozen=True)
class PrivateKey:
    """SecKeyRef of a key in the enclave."""

    scalar: ec.EllipticCurvePrivateKey = field(repr=False)
    wrapped: bytes


@dataclass(frozen=True)
class PublicKey:
    """SecKeyRef of a public key."""

    point: bytes


def refusal(code: int, text: str, domain: str = _OS_STATUS) -> tuple[None, NSError]:
    """What a call gives that fails."""
    return None, NSError(domain, code, text)


@dataclass
class FakeSecurity:
    """The framework of one Mac.

    `failures` are answers that calls, by name, give instead of their own. A `forgetful`
    framework makes a new key of whatever it is given. `made` is what keys were asked for with.
    """

    has_enclave: bool = True
    forgetful: bool = False
    failures: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    made: list[Mapping[str, Any]] = field(default_factory=list)
    high: int = 0
    low: int = 0
    _enclave: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    _turns: Any = field(default_factory=lambda: itertools.cycle([True, False]), repr=False)

    kSecAttrKeyType: str = "type"
    kSecAttrKeyTypeECSECPrimeRandom: str = "73"
    kSecAttrKeySizeInBits: str = "bsiz"
    kSecAttrKeyClass: str = "kcls"
    kSecAttrKeyClassPrivate: str = "1"
    kSecAttrTokenID: str = "tkid"
    kSecAttrTokenIDSecureEnclave: str = "com.apple.setoken"
    kSecPrivateKeyAttrs: str = "private"
    kSecAttrAccessControl: str = "accc"
    kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly: str = "cku"
    kSecAccessControlPrivateKeyUsage: int = 1 << 30
    kSecKeyAlgorithmECDSASignatureMessageX962SHA256: str = "algid:sign:ECDSA:message-X962:SHA256"

    def SecAccessControlCreateWithFlags(
        self, allocator: None, protection: str, flags: int, error: None, /
    ) -> tuple[Any, Any]:
        if (failure := self.failures.get("SecAccessControlCreateWithFlags")) is not None:
            return failure
        return AccessControl(protection, flags), None

    def SecKeyCreateRandomKey(
        self, parameters: Mapping[str, Any], error: None, /
    ) -> tuple[Any, Any]:
        self.made.append(parameters)
        if (failure := self.failures.get("SecKeyCreateRandomKey")) is not None:
            return failure
        private = parameters.get("private", {})
        if parameters.get("perm") or private.get("perm"):
            return refusal(MISSING_ENTITLEMENT, "A required entitlement isn't present.")
        control = private.get("accc")
        if not self._is_ours(parameters) or not self.has_enclave:
            return refusal(PARAM, "Key generation failed, error -50")
        if not isinstance(control, AccessControl) or not control.flags & 1 << 30:
            return refusal(PARAM, "Key generation failed, error -50")
        return self._new(), None

    def SecKeyCreateWithData(
        self, data: bytes, attributes: Mapping[str, Any], error: None, /
    ) -> tuple[Any, Any]:
        assert isinstance(data, bytes)  # declared non-null, though not looked at for a token
        if (failure := self.failures.get("SecKeyCreateWithData")) is not None:
            return failure
        if not self._is_ours(attributes) or attributes.get("kcls") != "1":
            return refusal(PARAM, "bad key attributes")
        if "toid" not in attributes or self.forgetful:
            return self._new(), None
        wrapped = bytes(attributes["toid"])
        try:
            scalar = AESGCM(self._enclave).decrypt(wrapped[:12], wrapped[12:60], None)
        except InvalidTag:
            return refusal(CORRUPTED_DATA, "corrupted objectID detected", "CryptoTokenKit")
        number = int.from_bytes(scalar, "big")
        return PrivateKey(ec.derive_private_key(number, ec.SECP256R1()), wrapped), None

    def SecKeyCopyAttributes(self, key: PrivateKey, /) -> Mapping[str, Any] | None:
        if "SecKeyCopyAttributes" in self.failures:
            return None  # this one has no error to give
        # "perm" is said of every key, also of one that nothing keeps.
        said = {"type": "73", "bsiz": 256, "tkid": "com.apple.setoken", "perm": True}
        return said | {"toid": memoryview(key.wrapped)}

    def SecKeyCopyPublicKey(self, key: PrivateKey, /) -> Any:
        if "SecKeyCopyPublicKey" in self.failures:
            return None
        public = key.scalar.public_key()
        return PublicKey(public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))

    def SecKeyCopyExternalRepresentation(self, key: Any, error: None, /) -> tuple[Any, Any]:
        if (failure := self.failures.get("SecKeyCopyExternalRepresentation")) is not None:
            return failure
        if not isinstance(key, PublicKey):
            return refusal(PARAM, "export not implemented for a key of this token")
        return memoryview(key.point), None

    def SecKeyCreateSignature(
        self, key: PrivateKey, algorithm: str, data: bytes, error: None, /
    ) -> tuple[Any, Any]:
        if (failure := self.failures.get("SecKeyCreateSignature")) is not None:
            return failure
        if algorithm != self.kSecKeyAlgorithmECDSASignatureMessageX962SHA256:
            return refusal(PARAM, "algorithm not supported by the key")
        r, s = decode_dss_signature(key.scalar.sign(data, ec.ECDSA(hashes.SHA256())))
        if next(self._turns) == (s <= _ORDER // 2):
            s = _ORDER - s
        if s > _ORDER // 2:
            self.high += 1
        else:
            self.low += 1
        return memoryview(encode_dss_signature(r, s)), None

    def _is_ours(self, parameters: Mapping[str, Any]) -> bool:
        wanted = {"type": "73", "bsiz": 256, "tkid": "com.apple.setoken"}
        return wanted.items() <= parameters.items()

    def _new(self) -> PrivateKey:
        private = ec.generate_private_key(ec.SECP256R1())
        scalar = private.private_numbers().private_value.to_bytes(32, "big")
        nonce = secrets.token_bytes(12)
        wrapped = nonce + AESGCM(self._enclave).encrypt(nonce, scalar, None)
        return PrivateKey(private, wrapped + bytes(_WRAPPED_BYTES - len(wrapped)))

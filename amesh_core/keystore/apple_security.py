"""What we call of Apple's Security framework; the real one comes from pyobjc, on a Mac only."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast


class Security(Protocol):
    """The calls made to Security.framework, as pyobjc spells them.

    A last argument of None stands for the error that C would write there: it comes back as
    the second of two results, an NSError, and the first is None then.
    """

    kSecAttrKeyType: str
    kSecAttrKeyTypeECSECPrimeRandom: str
    kSecAttrKeySizeInBits: str
    kSecAttrKeyClass: str
    kSecAttrKeyClassPrivate: str
    kSecAttrTokenID: str
    kSecAttrTokenIDSecureEnclave: str
    kSecPrivateKeyAttrs: str
    kSecAttrAccessControl: str
    kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly: str
    kSecAccessControlPrivateKeyUsage: int
    kSecKeyAlgorithmECDSASignatureMessageX962SHA256: str

    def SecAccessControlCreateWithFlags(
        self, allocator: None, protection: str, flags: int, error: None, /
    ) -> tuple[Any, Any]:
        """When and for what a key may be used."""

    def SecKeyCreateRandomKey(
        self, parameters: Mapping[str, Any], error: None, /
    ) -> tuple[Any, Any]:
        """A new private key."""

    def SecKeyCreateWithData(
        self, data: bytes, attributes: Mapping[str, Any], error: None, /
    ) -> tuple[Any, Any]:
        """A private key from what was kept of it; without that, silently a new one."""

    def SecKeyCopyAttributes(self, key: Any, /) -> Mapping[str, Any] | None:
        """What is known of a key."""

    def SecKeyCopyPublicKey(self, key: Any, /) -> Any:
        """The public half, or None."""

    def SecKeyCopyExternalRepresentation(self, key: Any, error: None, /) -> tuple[Any, Any]:
        """An uncompressed point."""

    def SecKeyCreateSignature(
        self, key: Any, algorithm: str, data: bytes, error: None, /
    ) -> tuple[Any, Any]:
        """A signature in DER."""


def framework() -> Security:
    """The framework of this Mac.

    Raises:
        ImportError: pyobjc is not installed (extra `macos`).
    """
    return cast(Security, import_module("Security"))

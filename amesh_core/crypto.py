"""The primitives by purpose; the only module that imports `cryptography` or `argon2`.

Nothing here is an algorithm of our own: each function names one use and calls one
primitive (docs/protocol.md sections 1, 2 and 5).
"""

from __future__ import annotations

import hashlib
import hmac as _hmac
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from amesh_core.errors import BadBox, BadSignature, Malformed

PUBLIC_KEY_BYTES: Final = 33  # SEC 1 compressed point
SIGNATURE_BYTES: Final = 64  # r || s
PRIVATE_SCALAR_BYTES: Final = 32

# The order of P-256 (FIPS 186-5, SP 800-186 section 3.2.1.3).
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_HALF_ORDER: Final = _ORDER // 2
_HALF_ORDER_BYTES: Final = _HALF_ORDER.to_bytes(32, "big")

_CURVE: Final = ec.SECP256R1()
# The message is hashed by hashlib, which has less to set up for each one.
_ECDSA: Final = ec.ECDSA(Prehashed(hashes.SHA256()))

# Keys looked up again and again are the ones on an allow list; 4 096 of them take ~4 MB.
_CACHED_KEYS: Final = 4096


class PrivateKey:
    """A P-256 private key held in memory; it never prints and has no way to be serialised.

    Back ends that keep the scalar elsewhere do not use this class.
    """

    __slots__ = ("_key", "public")

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public: bytes = key.public_key().public_bytes(
            Encoding.X962, PublicFormat.CompressedPoint
        )

    @classmethod
    def generate(cls) -> PrivateKey:
        """Make a new key pair from the operating system's randomness."""
        return cls(ec.generate_private_key(_CURVE))

    @classmethod
    def from_scalar(cls, scalar: bytes) -> PrivateKey:
        """Restore a key from its 32-byte big-endian scalar.

        Raises:
            Malformed: not 32 bytes, or not in 1..n-1.
        """
        if len(scalar) != PRIVATE_SCALAR_BYTES:
            raise Malformed("a P-256 scalar has 32 bytes")
        try:
            return cls(ec.derive_private_key(int.from_bytes(scalar, "big"), _CURVE))
        except ValueError:
            raise Malformed("not a P-256 scalar") from None

    def scalar(self) -> bytes:
        """The 32-byte big-endian scalar, for the one place that encrypts it."""
        return self._key.private_numbers().private_value.to_bytes(PRIVATE_SCALAR_BYTES, "big")

    def sign(self, message: bytes) -> bytes:
        """Sign with ECDSA over SHA-256; 64 bytes r || s with s <= n/2."""
        return low_s(self._key.sign(sha256(message), _ECDSA))

    def agree(self, theirs: bytes) -> bytes:
        """ECDH: the x-coordinate of the shared point, 32 bytes (SP 800-56A section 5.7.1.2).

        Raises:
            Malformed: `theirs` is not a compressed point on the curve.
        """
        return self._key.exchange(ec.ECDH(), public_key(theirs))

    def __repr__(self) -> str:
        return "PrivateKey(...)"

    def __reduce__(self) -> str:
        raise TypeError("a private key is not pickled")


def low_s(der: bytes) -> bytes:
    """Turn a DER signature into r || s with the smaller of the two valid s.

    (r, s) and (r, n - s) verify alike; accepting one only makes a signature unique, and
    half of what any signer produces is the other one.
    """
    return raw_low_s(*decode_dss_signature(der))


def raw_low_s(r: int, s: int) -> bytes:
    """As `low_s`, for a signer that gives the two numbers."""
    if s > _HALF_ORDER:
        s = _ORDER - s
    return (r << 256 | s).to_bytes(SIGNATURE_BYTES, "big")


@lru_cache(maxsize=_CACHED_KEYS)
def public_key(compressed: bytes) -> ec.EllipticCurvePublicKey:
    """The key object of a 33-byte compressed point; cached, as decompression costs 30 us.

    Raises:
        Malformed: another form or length, or a point not on the curve.
    """
    # The length first: the same primitive also reads uncompressed points.
    if len(compressed) != PUBLIC_KEY_BYTES or compressed[0] not in (2, 3):
        raise Malformed("not a compressed P-256 point")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, compressed)
    except ValueError:
        raise Malformed("not a point on P-256") from None


def verify(public: bytes, signature: bytes, message: bytes) -> None:
    """Check a raw r || s ECDSA P-256 SHA-256 signature with s <= n/2.

    Raises:
        BadSignature: for any reason at all; the caller learns nothing more.
    """
    # Big-endian texts of one length compare like the numbers they spell.
    if len(signature) != SIGNATURE_BYTES or signature[32:] > _HALF_ORDER_BYTES:
        raise BadSignature("signature does not verify")
    try:
        public_key(public).verify(_der(signature), sha256(message), _ECDSA)
    except (InvalidSignature, Malformed):
        raise BadSignature("signature does not verify") from None


def _der(signature: bytes) -> bytes:
    # 3 % of a verification faster than encode_dss_signature, which still has the integers
    # that need fewer bytes (1 in 128).
    r, s = signature[:32], signature[32:]
    if not (r[0] and s[0]):
        return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    # INTEGER is signed: a set top bit takes a zero byte before it. A low s has none.
    head = b"\x30\x45\x02\x21\x00" if r[0] & 0x80 else b"\x30\x44\x02\x20"
    return head + r + b"\x02\x20" + s


def sha256(data: bytes) -> bytes:
    """SHA-256 (FIPS 180-4)."""
    return hashlib.sha256(data).digest()


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104)."""
    return _hmac.digest(key, message, "sha256")


def same(a: bytes, b: bytes) -> bool:
    """Compare two secrets without saying how far they agree."""
    return _hmac.compare_digest(a, b)


def hkdf(ikm: bytes, *, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256, extract and expand, 32 bytes (RFC 5869)."""
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(ikm)


def hkdf_extract(ikm: bytes, *, salt: bytes) -> bytes:
    """HKDF-Extract with SHA-256: the 32-byte PRK (RFC 5869 section 2.2, which is an HMAC)."""
    return hmac_sha256(salt, ikm)


def hkdf_expand(prk: bytes, *, info: bytes, length: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869 section 2.3)."""
    return HKDFExpand(algorithm=hashes.SHA256(), length=length, info=info).derive(prk)


def seal_box(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """ChaCha20-Poly1305 (RFC 8439): ciphertext and 16-byte tag."""
    return ChaCha20Poly1305(key).encrypt(nonce, plaintext, aad)


def open_box(key: bytes, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes:
    """Open what `seal_box` sealed.

    Raises:
        BadBox: another key, nonce, associated data, or a changed byte.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, ciphertext, aad)
    except (InvalidTag, ValueError):
        raise BadBox from None


def aes_gcm_encrypt(key: bytes, nonce: bytes, plaintext: bytes) -> bytes:
    """AES-256-GCM without associated data: ciphertext and 16-byte tag (SP 800-38D)."""
    return AESGCM(key).encrypt(nonce, plaintext, None)


def aes_gcm_decrypt(key: bytes, nonce: bytes, ciphertext: bytes) -> bytes:
    """Open what `aes_gcm_encrypt` made.

    Raises:
        BadBox: another key or nonce, or a changed byte.
    """
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, None)
    except (InvalidTag, ValueError):
        raise BadBox from None


def argon2id(passphrase: bytes, salt: bytes, *, t: int, m: int, p: int) -> bytes:
    """Argon2id version 1.3 (RFC 9106), 32 bytes; `t` passes, `m` KiB, `p` lanes.

    Raises:
        Malformed: parameters it does not have, or more memory than there is.
    """
    # Here and not above: 50 ms of import that only the encrypted-file back end needs.
    from argon2.exceptions import HashingError
    from argon2.low_level import Type, hash_secret_raw

    try:
        return hash_secret_raw(
            passphrase, salt, time_cost=t, memory_cost=m, parallelism=p, hash_len=32, type=Type.ID
        )
    except HashingError as error:
        raise Malformed(f"Argon2 refuses: {error}") from None

"""Keys that only one TPM can use, as files: TSS2 PRIVATE KEY and what lies beside it.

The PEM is that of the "ASN.1 Specification for TPM 2.0 Key Files", so tpm2-tools and OpenSSL's
provider read it too. Structures inside are those of the TPM 2.0 Library Specification, Part 2.
docs/protocol.md section 2.2 has both files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from amesh_core.errors import Malformed
from amesh_core.wire.encoding import b64, canonical_json, unb64
from amesh_core.wire.fields import Fields, pretty
from amesh_core.wire.files import FORMAT_VERSION

# TPMA_OBJECT of all our keys: fixedTPM, fixedParent, sensitiveDataOrigin (made in the TPM and
# never to leave it), userWithAuth (with an empty password), noDA (a wrong password elsewhere
# does not lock them), sign.
_ATTRIBUTES: Final = (0x0004_0472).to_bytes(4, "big")
_SHA256: Final = b"\x00\x0b"
_NULL: Final = b"\x00\x10"
_P256: Final = b"\x00\x03"
_NO_POLICY: Final = b"\x00\x00"
_COORDINATE_BYTES: Final = 32

# TPMT_PUBLIC up to `unique`, which the TPM fills in: ECDSA over SHA-256 on P-256, and
# HMAC-SHA256.
_SIGNING: Final = (
    *(b"\x00\x23", _SHA256, _ATTRIBUTES, _NO_POLICY),
    *(_NULL, b"\x00\x18", _SHA256, _P256, _NULL),
)
_SEALING: Final = (b"\x00\x08", _SHA256, _ATTRIBUTES, _NO_POLICY, b"\x00\x05", _SHA256)
_SIGNING_HEAD: Final = b"".join(_SIGNING)
_SEALING_HEAD: Final = b"".join(_SEALING)
SIGNING_TEMPLATE: Final = _SIGNING_HEAD + bytes(4)
SEALING_TEMPLATE: Final = _SEALING_HEAD + bytes(2)

# TPMT_PUBLIC of the storage key that is made anew when there is no persistent one: the ECC
# template of the TSS2 key file specification, so others derive the same parent. As above,
# but restricted and decrypt instead of sign, AES-128-CFB, no scheme.
PARENT_TEMPLATE: Final = b"".join(
    (
        *(b"\x00\x23", _SHA256, (0x0003_0472).to_bytes(4, "big"), _NO_POLICY),
        *(b"\x00\x06\x00\x80\x00\x43", _NULL, _P256, _NULL, bytes(4)),
    )
)

OWNER: Final = 0x4000_0001  # the parent is a primary key made anew under the owner hierarchy
STORAGE_ROOT_KEY: Final = 0x8100_0001  # TCG Provisioning Guidance, 7.5.1

_OID: Final = bytes.fromhex("06066781050a0103")  # 2.23.133.10.1.3, id-loadablekey
_EMPTY_AUTH: Final = bytes.fromhex("a0030101ff")  # [0] EXPLICIT BOOLEAN TRUE
_SEQUENCE, _INTEGER, _OCTETS = 0x30, 0x02, 0x04
_BEGIN: Final = "-----BEGIN TSS2 PRIVATE KEY-----"
_END: Final = "-----END TSS2 PRIVATE KEY-----"
_PEM: Final = re.compile(rf"{_BEGIN}\n((?:[A-Za-z0-9+/=]{{1,64}}\n)+){_END}\n?")
_LINE: Final = 64

_PARTS_DOMAIN: Final = b"amesh-tpm2-parts/1\0"
# A name is two bytes of algorithm and a hash. The parent was not always made by us: with
# SHA-256, SHA-384 or SHA-512.
_NAME_BYTES: Final = (34, 50, 66)
_NV_INDICES: Final = range(0x0100_0000, 0x0200_0000)  # TPM_HT_NV_INDEX, Part 2, 7.2
_SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class LoadableKey:
    """A key wrapped by its parent, which only the TPM that has the parent can unwrap.

    `parent` is a TPM handle, `public` a TPM2B_PUBLIC and `private` a TPM2B_PRIVATE, lengths
    included.
    """

    parent: int
    public: bytes
    private: bytes = field(repr=False)

    @classmethod
    def parse(cls, pem: bytes) -> LoadableKey:
        """Read the PEM.

        Raises:
            Malformed: not exactly the DER that `encode` writes: another kind of key, one with
                a password or a policy, or anything missing or left over.
        """
        try:
            found = _PEM.fullmatch(pem.decode("ascii"))
        except UnicodeDecodeError:
            found = None
        if found is None:
            raise Malformed("not a TSS2 PRIVATE KEY")
        der = unb64(found[1].replace("\n", ""))
        # Only the three values are looked at here; everything around them is compared below.
        inside, _ = _take(der)
        parent, rest = _take(inside[len(_OID + _EMPTY_AUTH) :])
        public, rest = _take(rest)
        private, _ = _take(rest)
        key = cls(int.from_bytes(parent, "big"), public, private)
        # First, as a number of any length is not what `_der` can write.
        if key.parent not in (OWNER, STORAGE_ROOT_KEY):
            raise Malformed("a parent that amesh does not use")
        # Another kind of key, a password, a policy, anything missing or left over, and a second
        # spelling of the same all end here.
        if key._der() != der:
            raise Malformed("not a loadable key without a password")
        return key

    def encode(self) -> bytes:
        """Write the PEM."""
        text = b64(self._der())
        lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
        return "\n".join([_BEGIN, *lines, _END, ""]).encode("ascii")

    def point(self) -> bytes:
        """The 33-byte compressed public key of a signing key as we make them.

        Raises:
            Malformed: another kind of key, or one that could leave its TPM.
        """
        unique = self._unique(_SIGNING_HEAD)
        x, rest = _sized(unique)
        y, rest = _sized(rest)
        if rest or not (0 < len(x) <= _COORDINATE_BYTES and 0 < len(y) <= _COORDINATE_BYTES):
            raise Malformed("not a point")
        # A TPM may leave leading zeros away.
        return bytes([2 + (y[-1] & 1)]) + x.rjust(_COORDINATE_BYTES, b"\0")

    def check_sealing(self) -> None:
        """Check that it is an HMAC key as we make them.

        Raises:
            Malformed: as `point`.
        """
        _, rest = _sized(self._unique(_SEALING_HEAD))
        if rest:
            raise Malformed("not an HMAC key")

    def _unique(self, head: bytes) -> bytes:
        area, rest = _sized(self.public)
        if rest or not area.startswith(head):
            raise Malformed("not a key of the kind that amesh makes")
        return area[len(head) :]

    def _der(self) -> bytes:
        parent = self.parent.to_bytes(5, "big").lstrip(b"\0")
        if not parent or parent[0] & 0x80:
            parent = b"\0" + parent
        fields = _put(_INTEGER, parent) + _put(_OCTETS, self.public) + _put(_OCTETS, self.private)
        return _put(_SEQUENCE, _OID + _EMPTY_AUTH + fields)


@dataclass(frozen=True, slots=True)
class PartsFile:
    """keys/<alias>.tpm2.json: what belongs to a key in a TPM, signed with that key.

    `parent_name` is the TPM name of the parent, `nv_index` the place in the TPM that
    remembers the newest allow list; None means that a file does.
    """

    sealing: LoadableKey
    parent_name: bytes
    nv_index: int | None
    signature: bytes

    @classmethod
    def parse(cls, data: bytes) -> PartsFile:
        """Read the file; nobody has checked its signature then.

        Raises:
            Malformed: not JSON, a key missing, unknown or of another form, another version.
        """
        fields = Fields(data)
        fields.constant("version", FORMAT_VERSION)
        try:
            pem = fields.text("hmacKey").encode("ascii")
        except UnicodeEncodeError:
            raise Malformed("hmacKey is not ASCII") from None
        sealing = LoadableKey.parse(pem)
        sealing.check_sealing()
        file = cls(
            sealing=sealing,
            parent_name=unb64(fields.text("parentName")),
            nv_index=fields.positive("nvIndex", 1) if "nvIndex" in fields else None,
            signature=unb64(fields.text("signature"), length=_SIGNATURE_BYTES),
        )
        if len(file.parent_name) not in _NAME_BYTES:
            raise Malformed("parentName is no name of a key")
        if file.nv_index is not None and file.nv_index not in _NV_INDICES:
            raise Malformed("nvIndex is no place in a TPM")
        if fields.rest():
            raise Malformed("a key that no signature covers")
        return file

    def encode(self) -> bytes:
        """Write the file."""
        return pretty(
            _parts(self.sealing, self.parent_name, self.nv_index)
            | {"signature": b64(self.signature)}
        )

    def signed_bytes(self, public: bytes) -> bytes:
        """What the signature covers."""
        return parts_to_sign(public, self.sealing, self.parent_name, self.nv_index)


def parts_to_sign(
    public: bytes, sealing: LoadableKey, parent_name: bytes, nv_index: int | None
) -> bytes:
    """What the key `public` signs, to say that these are its parts.

    A request, which the same key signs, begins with `AMv1` (docs/protocol.md section 3.2).
    """
    return _PARTS_DOMAIN + public + canonical_json(_parts(sealing, parent_name, nv_index))


def _parts(sealing: LoadableKey, parent_name: bytes, nv_index: int | None) -> dict[str, object]:
    return {
        "version": FORMAT_VERSION,
        "hmacKey": sealing.encode().decode("ascii"),
        "parentName": b64(parent_name),
        **({} if nv_index is None else {"nvIndex": nv_index}),
    }


def _sized(data: bytes) -> tuple[bytes, bytes]:
    # A TPM2B: two bytes of length, and so many bytes.
    length = int.from_bytes(data[:2], "big")
    if len(data) < 2 or len(data) < 2 + length:
        raise Malformed("a TPM structure that is cut off")
    return data[2 : 2 + length], data[2 + length :]


def _take(data: bytes) -> tuple[bytes, bytes]:
    # The contents of the first value of some DER, and what comes after it.
    if len(data) < 2:
        raise Malformed("DER that is cut off")
    length, start = data[1], 2
    if length & 0x80:
        start = 2 + (length & 0x7F)
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise Malformed("DER that is cut off")
    return data[start : start + length], data[start + length :]


def _put(tag: int, value: bytes) -> bytes:
    length = len(value)
    if length < 0x80:
        return bytes([tag, length]) + value
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + value

"""TSS2 PRIVATE KEY files and what lies beside them: read as tpm2-pytss does, and nothing else."""

from __future__ import annotations

import base64
from importlib import import_module
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core.errors import Malformed
from amesh_core.wire.tss2 import (
    OWNER,
    PARENT_TEMPLATE,
    SEALING_TEMPLATE,
    SIGNING_TEMPLATE,
    STORAGE_ROOT_KEY,
    LoadableKey,
    PartsFile,
    parts_to_sign,
)

X: Final = bytes(range(32))
Y: Final = bytes(range(1, 33))


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def signing(x: bytes = X, y: bytes = Y, parent: int = OWNER, private: bytes = b"p" * 126) -> Any:
    public = sized(SIGNING_TEMPLATE[:-4] + sized(x) + sized(y))
    return LoadableKey(parent, public, sized(private))


def sealing(parent: int = OWNER) -> LoadableKey:
    return LoadableKey(parent, sized(SEALING_TEMPLATE[:-2] + sized(X)), sized(b"s" * 158))


SIGNED: Final = PartsFile(sealing(), b"\x00\x0b" + bytes(32), 0x1812345, bytes(64))


def armoured(der: bytes) -> bytes:
    body = base64.encodebytes(der).replace(b"\n", b"")
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    begin, end = b"-----BEGIN TSS2 PRIVATE KEY-----", b"-----END TSS2 PRIVATE KEY-----"
    return b"\n".join([begin, *lines, end, b""])


def der(key: LoadableKey) -> bytes:
    return base64.b64decode(b"".join(key.encode().splitlines()[1:-1]))


@pytest.mark.parametrize("parent", [OWNER, STORAGE_ROOT_KEY])
@pytest.mark.parametrize("size", [0, 40, 126, 200, 1000])
def test_tpm2_pytss_writes_and_reads_the_same(parent: int, size: int) -> None:
    """An implementation that knows nothing of ours."""
    tss = import_module("tpm2_pytss")
    files = import_module("tpm2_pytss.tsskey")
    key = signing(parent=parent, private=b"p" * size)
    public, _ = tss.TPM2B_PUBLIC.unmarshal(key.public)
    private, _ = tss.TPM2B_PRIVATE.unmarshal(key.private)
    theirs = files.TSSPrivKey(private, public, True, parent)
    assert theirs.to_pem() == key.encode()
    again = files.TSSPrivKey.from_pem(key.encode())
    assert (again.parent, again.empty_auth) == (parent, True)
    assert again.public.marshal() == key.public
    assert again.private.marshal() == key.private
    assert LoadableKey.parse(theirs.to_pem()) == key


def test_the_templates_are_what_they_are_named_after() -> None:
    """As tpm2-pytss spells them from the words that tpm2-tools has for them."""
    tss = import_module("tpm2_pytss")
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda"
    for kind, more, ours in (
        ("ecc256:ecdsa-sha256:null", "|sign", SIGNING_TEMPLATE),
        ("hmac:sha256", "|sign", SEALING_TEMPLATE),
        ("ecc256:aes128cfb", "|restricted|decrypt", PARENT_TEMPLATE),
    ):
        words = tss.TPMA_OBJECT.parse(attributes + more)
        made = tss.TPM2B_PUBLIC.parse(kind, objectAttributes=words)
        assert made.publicArea.marshal() == ours


def test_the_parent_is_the_one_of_the_specification() -> None:
    """Else tpm2-tools and OpenSSL derive another one for our files."""
    files = import_module("tpm2_pytss.tsskey")
    assert files._parent_ecc_template.marshal() == PARENT_TEMPLATE


def test_the_public_key_is_compressed() -> None:
    assert signing().point() == b"\x02" + X
    assert signing(y=bytes(31) + b"\1").point() == b"\x03" + X
    # Some TPMs leave leading zeros away.
    assert signing(x=X[1:]).point() == b"\x02" + X
    assert signing(y=b"\1").point() == b"\x03" + X


@pytest.mark.parametrize(
    "key",
    [
        sealing(),
        signing(x=b""),
        signing(y=b""),
        signing(x=bytes(33)),
        signing(y=bytes(33)),
        LoadableKey(OWNER, signing().public + b"\0", b""),
        LoadableKey(OWNER, signing().public[:-1], b""),
        LoadableKey(OWNER, sized(signing().public[2:] + b"\0"), b""),
        LoadableKey(OWNER, b"", b""),
        LoadableKey(OWNER, b"\0", b""),
    ],
)
def test_what_is_no_signing_key_of_ours(key: LoadableKey) -> None:
    with pytest.raises(Malformed):
        key.point()


@pytest.mark.parametrize("bit", [1, 4, 5, 6, 10, 18])
def test_a_key_without_one_of_its_attributes(bit: int) -> None:
    """fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, sign."""
    for key, check in ((signing(), LoadableKey.point), (sealing(), LoadableKey.check_sealing)):
        attributes = int.from_bytes(key.public[6:10], "big") ^ 1 << bit
        public = key.public[:6] + attributes.to_bytes(4, "big") + key.public[10:]
        check(key)
        with pytest.raises(Malformed):
            check(LoadableKey(key.parent, public, key.private))


def test_a_signing_key_seals_nothing() -> None:
    with pytest.raises(Malformed):
        signing().check_sealing()
    with pytest.raises(Malformed):
        LoadableKey(OWNER, sized(SEALING_TEMPLATE[:-2] + sized(X) + b"\0"), b"").check_sealing()


PARENT_FIELD: Final = bytes.fromhex("020440000001")
PASSWORD_FIELD: Final = bytes.fromhex("a0030101ff")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (PASSWORD_FIELD, bytes.fromhex("a003010100")),  # it has a password
        (PASSWORD_FIELD, bytes.fromhex("a003010101")),  # TRUE as only BER spells it
        (PARENT_FIELD, bytes.fromhex("020440000007")),  # the null hierarchy
        (PARENT_FIELD, bytes.fromhex("020481000002")),
        (bytes.fromhex("0103"), bytes.fromhex("0104")),  # id-importablekey
        (bytes.fromhex("0440000001"), bytes.fromhex("0340000001")),
    ],
)
def test_another_kind_of_key(old: bytes, new: bytes) -> None:
    good = der(signing())
    assert good.count(old) >= 1
    with pytest.raises(Malformed):
        LoadableKey.parse(armoured(good.replace(old, new, 1)))


def test_one_spelling_only() -> None:
    good = der(signing())
    assert LoadableKey.parse(armoured(good)) == signing()
    assert good[:2] == b"\x30\x81"
    longer = b"\x30\x82\0" + good[2:]
    for bad in (longer, good + b"\0", good[:-1], b"\x30\x80" + good[3:] + b"\0\0", b"", b"\x30"):
        with pytest.raises(Malformed):
            LoadableKey.parse(armoured(bad) if bad else b"")


@pytest.mark.parametrize(
    "change",
    [
        lambda pem: pem.replace(b"TSS2", b"EC"),
        lambda pem: b"\xff" + pem,
        lambda pem: pem.replace(b"\n", b"\r\n"),
        lambda pem: pem + pem,
        lambda pem: pem.replace(b"=", b""),
        lambda pem: b"",
    ],
)
def test_what_is_no_pem_of_ours(change: Any) -> None:
    pem = signing(private=b"p" * 128).encode()
    assert b"=" in pem
    with pytest.raises(Malformed):
        LoadableKey.parse(change(pem))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for text in (data, armoured(data)):
        with pytest.raises(Malformed):
            LoadableKey.parse(text)
    try:
        LoadableKey(OWNER, data, b"").point()
    except Malformed:
        return
    raise AssertionError("random bytes are no key")


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_another_key(at: int, change: int) -> None:
    data = bytearray(der(signing()))
    data[at % len(data)] ^= change
    try:
        key = LoadableKey.parse(armoured(bytes(data)))
    except Malformed:
        return
    assert key != signing()
    assert der(key) == bytes(data)


def test_the_private_part_does_not_print() -> None:
    assert "pppp" not in repr(signing())
    assert "ssss" not in repr(SIGNED)


# --- the parts --------------------------------------------------------------------------


@pytest.mark.parametrize("index", [None, 0x1800000, 0x1BFFFFF])
def test_parts_are_read_as_they_were_written(index: int | None) -> None:
    parts = PartsFile(sealing(), b"n" * 34, index, b"s" * 64)
    assert PartsFile.parse(parts.encode()) == parts


def test_what_is_signed_says_everything() -> None:
    public = b"\x02" + X
    texts = {
        parts_to_sign(public, sealing(), b"n" * 34, 1),
        parts_to_sign(b"\x03" + X, sealing(), b"n" * 34, 1),
        parts_to_sign(public, sealing(STORAGE_ROOT_KEY), b"n" * 34, 1),
        parts_to_sign(public, sealing(), b"m" * 34, 1),
        parts_to_sign(public, sealing(), b"n" * 34, 2),
        parts_to_sign(public, sealing(), b"n" * 34, None),
    }
    assert len(texts) == 6
    assert all(text.startswith(b"amesh-tpm2-parts/1\0") for text in texts)
    assert SIGNED.signed_bytes(public) == parts_to_sign(
        public, SIGNED.sealing, SIGNED.parent_name, SIGNED.nv_index
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"2.0.0"', b'"3.0.0"'),
        (b'"nvIndex": 25240389', b'"nvIndex": 0'),
        (b'"nvIndex": 25240389', b'"nvIndex": null'),
        (b'"nvIndex": 25240389', b'"nvIndex": "25240389"'),
        (b'"nvIndex"', b'"nvIndexes"'),
        (b'"hmacKey"', b'"signingKey"'),
        (b"BEGIN TSS2", b"BEGIN \\u00e4"),
        (b'"signature": "A', b'"signature": "'),
        (b'"parentName": "A', b'"parentName": "'),
        (b"{", b"["),
    ],
)
def test_what_are_no_parts(old: bytes, new: bytes) -> None:
    good = SIGNED.encode()
    assert old in good
    with pytest.raises(Malformed):
        PartsFile.parse(good.replace(old, new, 1))


@pytest.mark.parametrize("size", [34, 50, 66])
def test_a_parent_may_have_another_hash(size: int) -> None:
    """Whoever made the storage root key persistent chose it."""
    file = PartsFile(sealing(), b"\0\x0c".ljust(size, b"n"), None, bytes(64))
    assert PartsFile.parse(file.encode()) == file
    for wrong in (size - 1, size + 1, 0):
        with pytest.raises(Malformed, match="parentName"):
            PartsFile.parse(PartsFile(sealing(), bytes(wrong), None, bytes(64)).encode())


@pytest.mark.parametrize("index", [1, 0x00FF_FFFF, 0x0200_0000, STORAGE_ROOT_KEY, 1 << 80])
def test_what_is_no_place(index: int) -> None:
    """Whoever deletes a key reads it before anybody checked the signature."""
    for good in (0x0100_0000, 0x01FF_FFFF):
        PartsFile.parse(PartsFile(sealing(), bytes(34), good, bytes(64)).encode())
    with pytest.raises(Malformed, match="nvIndex"):
        PartsFile.parse(PartsFile(sealing(), bytes(34), index, bytes(64)).encode())


@pytest.mark.parametrize("size", [0, 5, 6, 9, 40])
def test_a_parent_of_any_length(size: int) -> None:
    number = bytes([2, size]) + b"\x01" * size
    inside = der(signing())[3:].replace(PARENT_FIELD, number)
    length = len(inside).to_bytes(2, "big")
    with pytest.raises(Malformed):
        LoadableKey.parse(armoured(b"\x30\x82" + length + inside))


def test_a_signing_key_is_no_part() -> None:
    wrong = PartsFile(signing(), SIGNED.parent_name, None, SIGNED.signature)
    with pytest.raises(Malformed):
        PartsFile.parse(wrong.encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_parts_or_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        PartsFile.parse(data)

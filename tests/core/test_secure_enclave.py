"""Keys in a Secure Enclave: over a fake of Security.framework, as none can be had here."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from amesh_core import crypto, disk, keystore
from amesh_core.errors import (
    BackendUnavailable,
    HomeUnwritable,
    KeychainLocked,
    KeyFileDamaged,
    KeyMissing,
    KeyStoreError,
    Malformed,
    UnsafePermissions,
)
from amesh_core.identity import device_id
from amesh_core.keystore import KeyStore, Means, secure_enclave
from amesh_core.wire.key_items import EnclaveFile
from tests.core.test_keystore import KeyStoreContract
from tests.support.apple_security import (
    INTERACTION_NOT_ALLOWED,
    AccessControl,
    FakeSecurity,
    refusal,
)
from tests.support.mac_keychain import MacKeychain

MAC = Means(bytes, platform="darwin")


@pytest.fixture
def keychain(monkeypatch: pytest.MonkeyPatch) -> MacKeychain:
    there = MacKeychain()
    there.install(monkeypatch)
    return there


@pytest.fixture
def mac(keychain: MacKeychain, monkeypatch: pytest.MonkeyPatch) -> FakeSecurity:
    return installed(FakeSecurity(), monkeypatch)


def installed(security: FakeSecurity, monkeypatch: pytest.MonkeyPatch) -> FakeSecurity:
    """Let `import Security` find it."""
    monkeypatch.setitem(sys.modules, "Security", security)
    return security


@pytest.fixture
def store(mac: FakeSecurity, tmp_path: Path) -> KeyStore:
    return keystore.open_store("secure-enclave", tmp_path, MAC)


class TestSecureEnclave(KeyStoreContract):
    """The contract, over the fake."""

    @pytest.fixture(autouse=True)
    def _mac(self, mac: FakeSecurity, tmp_path: Path) -> None:
        self.mac = mac
        self.directory = tmp_path

    def store(self) -> KeyStore:
        return keystore.open_store("secure-enclave", self.directory, MAC)

    def test_every_signature_is_low_s(self) -> None:
        super().test_every_signature_is_low_s()
        assert self.mac.high == self.mac.low == 150


# --- what is made, and what is kept -----------------------------------------------------


def test_a_key_is_made_in_the_enclave_and_kept_by_nobody(
    store: KeyStore, mac: FakeSecurity
) -> None:
    mac.made.clear()
    store.create()
    (asked,) = mac.made
    assert asked["tkid"] == "com.apple.setoken"
    assert (asked["type"], asked["bsiz"]) == ("73", 256)
    assert "perm" not in asked  # kSecAttrIsPermanent would need an entitlement
    # Usable for signing, by nobody in particular, once the Mac was unlocked after its start.
    assert asked["private"] == {"accc": AccessControl("cku", 1 << 30)}


def test_what_is_kept_is_of_use_to_this_enclave_only(
    store: KeyStore, keychain: MacKeychain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = store.create()
    alias = device_id(key.public)
    path = tmp_path / "keys" / f"{alias}.enclave.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert set(json.loads(path.read_bytes())) == {"version", "publicKey", "tokenObject"}
    assert "privateScalar" not in keychain.items["amesh", alias]
    installed(FakeSecurity(), monkeypatch)
    other = keystore.open_store("secure-enclave", tmp_path, MAC)
    with pytest.raises(KeyStoreError, match=r"another Mac: corrupted objectID .*\(-3\)"):
        other.load(alias, key.public)


def test_another_key_of_the_same_enclave_is_not_ours(store: KeyStore, tmp_path: Path) -> None:
    ours, other = store.create(), store.create()
    paths = [tmp_path / "keys" / f"{device_id(key.public)}.enclave.json" for key in (ours, other)]
    mine, theirs = (EnclaveFile.parse(path.read_bytes()) for path in paths)
    paths[0].write_bytes(EnclaveFile(mine.public_key, theirs.token_object).encode())
    with pytest.raises(KeyFileDamaged, match="another key"):
        store.load(device_id(ours.public), ours.public)
    paths[0].write_bytes(theirs.encode())
    with pytest.raises(KeyFileDamaged, match="file of another key"):
        store.load(device_id(ours.public), ours.public)


def test_a_new_key_in_the_place_of_ours_is_found_out(store: KeyStore, mac: FakeSecurity) -> None:
    """The framework makes one, silently, where it does not find what it is asked for."""
    key = store.create()
    mac.forgetful = True
    with pytest.raises(KeyFileDamaged, match="made another key"):
        store.load(device_id(key.public), key.public)


def test_deleting_takes_the_file_and_the_secret(
    store: KeyStore, keychain: MacKeychain, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = device_id(store.create().public)
    assert alias in keychain.accounts()
    synced: list[list[Path]] = []
    monkeypatch.setattr(disk, "sync_directory", lambda path: synced.append(list(path.iterdir())))
    store.delete(alias)
    assert keychain.accounts() == set()
    assert synced == [[]]  # gone, down to the disk


# --- what is in the way -----------------------------------------------------------------

CALLS = (
    "SecAccessControlCreateWithFlags",
    "SecKeyCreateRandomKey",
    "SecKeyCopyAttributes",
    "SecKeyCopyPublicKey",
    "SecKeyCopyExternalRepresentation",
)


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_leaves_nothing(
    store: KeyStore, mac: FakeSecurity, keychain: MacKeychain, tmp_path: Path, call: str
) -> None:
    mac.failures[call] = refusal(-26276, "internal error")
    with pytest.raises(KeyStoreError, match="the Secure Enclave"):
        store.create()
    assert keychain.items == {}
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(
    "call",
    ["SecKeyCreateWithData", "SecKeyCopyPublicKey", "SecKeyCopyExternalRepresentation"],
)
def test_a_key_that_cannot_be_loaded(store: KeyStore, mac: FakeSecurity, call: str) -> None:
    key = store.create()
    mac.failures[call] = refusal(-26276, "internal error")
    with pytest.raises(KeyStoreError, match="the Secure Enclave"):
        store.load(device_id(key.public), key.public)


def test_errors_are_told_in_apples_words(store: KeyStore, mac: FakeSecurity) -> None:
    key = store.create()
    mac.failures["SecKeyCreateSignature"] = refusal(-26276, "internal error")
    with pytest.raises(KeyStoreError, match=r"does not sign: internal error \(-26276\)"):
        key.sign(b"x")
    del mac.failures["SecKeyCreateSignature"]
    crypto.verify(key.public, key.sign(b"x"), b"x")


@pytest.mark.parametrize("call", ["SecKeyCreateRandomKey", "SecKeyCreateSignature"])
def test_a_mac_that_nobody_unlocked_since_its_start(
    store: KeyStore, mac: FakeSecurity, call: str
) -> None:
    key = store.create()
    mac.failures[call] = refusal(INTERACTION_NOT_ALLOWED, "User interaction is not allowed.")
    attempts: dict[str, Callable[[], Any]] = {
        "SecKeyCreateRandomKey": store.create,
        "SecKeyCreateSignature": lambda: key.sign(b"x"),
    }
    with pytest.raises(KeychainLocked) as raised:
        attempts[call]()
    assert "log in" in raised.value.remedy


def test_a_point_of_another_form(store: KeyStore, mac: FakeSecurity) -> None:
    for data in (b"", b"\x02" + bytes(32), b"\x05" + bytes(64), b"\x04" + bytes(63)):
        mac.failures["SecKeyCopyExternalRepresentation"] = (data, None)
        with pytest.raises(KeyStoreError, match="uncompressed"):
            store.create()


def test_a_disk_that_refuses_leaves_no_secret(
    store: KeyStore, keychain: MacKeychain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise HomeUnwritable(f"{path}: no space left on device")

    monkeypatch.setattr(disk, "write_new", refuse)
    with pytest.raises(HomeUnwritable):
        store.create()
    assert keychain.items == {}


def test_a_file_open_to_others_is_refused(store: KeyStore, tmp_path: Path) -> None:
    key = store.create()
    (tmp_path / "keys" / f"{device_id(key.public)}.enclave.json").chmod(0o640)
    with pytest.raises(UnsafePermissions):
        store.load(device_id(key.public), key.public)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "2"},
        {"publicKey": "AA=="},
        {"tokenObject": ""},
        {"tokenObject": None},
        {"tokenObject": "no base64!"},
    ],
    ids=str,
)
def test_a_damaged_file(store: KeyStore, tmp_path: Path, changes: dict[str, Any]) -> None:
    key = store.create()
    path = tmp_path / "keys" / f"{device_id(key.public)}.enclave.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(KeyFileDamaged):
        store.load(device_id(key.public), key.public)
    with pytest.raises(Malformed):
        EnclaveFile.parse(b"{}")


def test_a_lost_secret_is_not_replaced_by_one_in_the_directory(
    store: KeyStore, keychain: MacKeychain, tmp_path: Path
) -> None:
    key = store.create()
    alias = device_id(key.public)
    del keychain.items["amesh", alias]
    disk.write_new(tmp_path / "keys" / f"{alias}.hmac", bytes(32))
    with pytest.raises(KeyMissing):
        store.load(alias, key.public)


def test_the_secret_of_another_key_does_not_seal_our_list(
    store: KeyStore, keychain: MacKeychain
) -> None:
    ours, other = store.create(), store.create()
    one, two = device_id(ours.public), device_id(other.public)
    keychain.items["amesh", one] = keychain.items["amesh", two]
    with pytest.raises(KeyFileDamaged, match="is that of another key"):
        store.load(one, ours.public)


def test_eight_threads_sign(store: KeyStore) -> None:
    key = store.create()

    def work(number: int) -> None:
        for turn in range(20):
            message = b"%d %d" % (number, turn)
            crypto.verify(key.public, key.sign(message), message)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


# --- detection --------------------------------------------------------------------------


def test_a_mac_with_an_enclave_uses_it(mac: FakeSecurity) -> None:
    assert keystore.detect(MAC) == keystore.Choice("secure-enclave", {})


def test_a_mac_without_an_enclave_uses_its_keychain(mac: FakeSecurity) -> None:
    mac.has_enclave = False
    choice = keystore.detect(Means(bytes, tpm_tcti="device:/dev/no-such-tpm", platform="darwin"))
    assert choice.backend == "keychain"
    assert "cannot make a key" in choice.reasons["secure-enclave"]


def test_a_mac_without_pyobjc_says_what_to_install(
    keychain: MacKeychain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "Security", None)
    assert "authmesh[macos]" in (secure_enclave.why_not(MAC) or "")
    with pytest.raises(BackendUnavailable, match="macos"):
        keystore.open_store("secure-enclave", tmp_path, MAC)


def test_another_system_has_no_enclave(mac: FakeSecurity) -> None:
    assert secure_enclave.why_not(Means(bytes, platform="linux")) == "this is not a Mac"
    assert mac.made == []


def test_an_enclave_needs_the_keychain(mac: FakeSecurity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert "keychain" in (secure_enclave.why_not(MAC) or "")


def test_the_table_says_what_the_stores_say(store: KeyStore) -> None:
    assert store.hardware_bound
    assert "secure-enclave" in keystore.HARDWARE_BOUND

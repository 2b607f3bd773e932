"""Key stores: one contract for all of them, and what is particular to encrypted files."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from amesh_core import crypto, disk, keystore
from amesh_core.errors import (
    AllowListMarkBroken,
    BackendUnavailable,
    HomeUnwritable,
    KeyFileDamaged,
    KeyMissing,
    Malformed,
    UnsafePermissions,
    WrongPassphrase,
)
from amesh_core.identity import device_id
from amesh_core.keystore import KeyStore, Means, encrypted_file
from amesh_core.keystore.encrypted_file import EncryptedFileStore
from amesh_core.wire.encoding import instant
from amesh_core.wire.files import Argon2Cost, KeyFile
from tests.support import vectors
from tests.support.home import CHEAP, PASSPHRASE

CASES: Final[list[dict[str, Any]]] = vectors.load("keyfile.json")["cases"]

# Node says "ok" to these; docs/protocol.md section 2 does not (vectors/README.md).
REFUSED_HERE: Final = {
    "argon2Params edited (the Node.js implementation ignores the file values)": WrongPassphrase,
    "argon2Params missing (the Node.js implementation ignores)": KeyFileDamaged,
    "publicKey swapped (the Node.js implementation does not check it against the private key)": (
        KeyFileDamaged
    ),
}
# What exactly is wrong with those that Node refuses too.
REFUSED_BY_BOTH: Final = {
    "passphrase with trailing newline": WrongPassphrase,
    "ciphertext bit flip": WrongPassphrase,
    "salt bit flip": WrongPassphrase,
    "missing salt": KeyFileDamaged,
    "missing ciphertext": KeyFileDamaged,
    "empty file": KeyFileDamaged,
    "bad alias (path traversal)": KeyFileDamaged,
    "alias with dot": KeyFileDamaged,
}
MEANS: Final = Means(PASSPHRASE.encode)
_HALF_ORDER: Final = 0x7FFFFFFF800000007FFFFFFFFFFFFFFFDE737D56D38BCF4279DCE5617E3192A8


class KeyStoreContract:
    """What every key store promises. Subclasses say how to make one."""

    def store(self) -> KeyStore:
        """The keys of one directory; a second call is a second process."""
        raise NotImplementedError

    def test_signatures_verify_with_the_public_key(self) -> None:
        key = self.store().create()
        crypto.verify(key.public, key.sign(b"message"), b"message")

    def test_every_signature_is_low_s(self) -> None:
        """LESSONS: only half of TPM signatures verify there."""
        key = self.store().create()
        for number in range(300):
            signature = key.sign(b"%d" % number)
            assert len(signature) == 64
            assert int.from_bytes(signature[32:], "big") <= _HALF_ORDER
            crypto.verify(key.public, signature, b"%d" % number)

    def test_a_key_survives_reopening(self) -> None:
        key = self.store().create()
        again = self.store().load(device_id(key.public), key.public)
        assert again.public == key.public
        assert again.mac(b"message") == key.mac(b"message")
        crypto.verify(key.public, again.sign(b"message"), b"message")

    def test_macs_are_32_bytes_and_no_two_are_alike(self) -> None:
        one, two = self.store().create(), self.store().create()
        macs = {key.mac(message) for key in (one, two) for message in (b"", b"a", b"b")}
        assert len(macs) == 6
        assert {len(mac) for mac in macs} == {32}

    def test_a_store_holds_several_keys(self) -> None:
        one, two = self.store().create(), self.store().create()
        for key in (one, two):
            assert self.store().load(device_id(key.public), key.public).public == key.public

    def test_a_key_is_loaded_only_as_itself(self) -> None:
        one, two = self.store().create(), self.store().create()
        with pytest.raises(KeyFileDamaged):
            self.store().load(device_id(one.public), two.public)

    def test_a_missing_key(self) -> None:
        with pytest.raises(KeyMissing):
            self.store().load("am_nothing", b"\x02" + bytes(32))

    def test_a_deleted_key_is_gone(self) -> None:
        store = self.store()
        key = store.create()
        store.delete(device_id(key.public))
        store.delete(device_id(key.public))
        with pytest.raises(KeyMissing):
            self.store().load(device_id(key.public), key.public)

    def test_a_key_that_never_was_can_be_deleted(self) -> None:
        self.store().delete("am_nothing")

    @pytest.mark.parametrize("alias", ["../am_x", "a/b", "a.b", "", ".", "a\0b"])
    def test_an_alias_leads_nowhere_else(self, alias: str) -> None:
        store = self.store()
        with pytest.raises(KeyFileDamaged):
            store.load(alias, b"\x02" + bytes(32))
        with pytest.raises(KeyFileDamaged):
            store.delete(alias)

    def test_a_key_does_not_print(self) -> None:
        key = self.store().create()
        assert repr(key).count(device_id(key.public)) == 1
        assert len(repr(key)) < 60
        with pytest.raises(TypeError):
            pickle.dumps(key)

    def test_the_newest_list_is_remembered_and_never_an_older_one(self) -> None:
        key = self.store().create()
        alias = device_id(key.public)
        assert self.store().newest(key, alias) is None
        for moment, newest in ((5.0, 5.0), (4.999, 5.0), (5.0, 5.0), (5.001, 5.001), (1e9, 1e9)):
            self.store().remember(key, alias, instant(moment))
            again = self.store()
            assert again.newest(again.load(alias, key.public), alias) == instant(newest)

    def test_each_key_has_a_newest_list_of_its_own(self) -> None:
        store = self.store()
        one, two = store.create(), store.create()
        store.remember(one, device_id(one.public), instant(5))
        assert store.newest(two, device_id(two.public)) is None
        store.delete(device_id(one.public))
        with suppress(AllowListMarkBroken):  # what a back end says that knows there was one
            assert store.newest(one, device_id(one.public)) is None

    def test_it_says_whether_hardware_holds_the_key(self) -> None:
        assert self.store().hardware_bound in (True, False)


class TestEncryptedFile(KeyStoreContract):
    """The contract, for keys in files."""

    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def store(self) -> KeyStore:
        return EncryptedFileStore(self.directory, PASSPHRASE.encode, CHEAP)


# --- encrypted files --------------------------------------------------------------------


def plant(directory: Path, case: dict[str, Any]) -> EncryptedFileStore:
    """A store over the key file of a vector, at the path it would be looked for."""
    text = case.get("key_file_text", json.dumps(case.get("key_file")))
    name = case.get("file_name", f"{Path(case['alias']).name}.key.json")
    (directory / "keys").mkdir(mode=0o700)
    (directory / "keys" / name).write_text(text)
    (directory / "keys" / name).chmod(0o600)
    (directory / "x.key.json").write_text(text)  # where "../x" would lead
    return EncryptedFileStore(directory, case["passphrase"].encode, encrypted_file.COST)


VEC1: Final = bytes.fromhex(next(case for case in CASES if case["name"] == "ok1")["public_key_hex"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]).split(" (")[0])
def test_vector(case: dict[str, Any], tmp_path: Path) -> None:
    store = plant(tmp_path, case)
    refused = REFUSED_HERE | REFUSED_BY_BOTH
    if case["name"] in refused:
        with pytest.raises(refused[case["name"]]):
            store.load(case["alias"], VEC1)
        return
    assert case["expect"] == "ok"
    public = bytes.fromhex(case["public_key_hex"])
    key = store.load(case["alias"], public)
    assert key.public == public
    if "device_id" in case:
        assert device_id(key.public) == case["device_id"]
    message = bytes.fromhex(case.get("message_hex", ""))
    if message:
        crypto.verify(key.public, bytes.fromhex(case["signature_hex"]), message)
    crypto.verify(key.public, key.sign(b"x"), b"x")
    seal_key = crypto.hkdf(
        bytes.fromhex(case["hmac_material_hex"]),
        salt=b"amesh-allow-list-integrity-v1",
        info=device_id(public).encode(),
    )
    assert key.mac(b"x") == crypto.hmac_sha256(seal_key, b"x")


def test_every_deviation_from_node_is_in_the_vectors() -> None:
    verdicts = {case["name"]: case["expect"] for case in CASES}
    assert {verdicts[name] for name in REFUSED_HERE} == {"ok"}
    assert {name for name, verdict in verdicts.items() if verdict == "error"} == set(
        REFUSED_BY_BOTH
    )


def test_a_public_key_beside_the_wrong_ciphertext_is_found_out(tmp_path: Path) -> None:
    """The file may claim the public key we expect; only the private key proves it."""
    store = EncryptedFileStore(tmp_path, PASSPHRASE.encode, CHEAP)
    mine, other = store.create(), store.create()
    names = [f"{device_id(key.public)}.key.json" for key in (mine, other)]
    claimed, real = (json.loads((tmp_path / "keys" / name).read_text()) for name in names)
    real["publicKey"] = claimed["publicKey"]
    (tmp_path / "keys" / names[0]).write_text(json.dumps(real))
    with pytest.raises(KeyFileDamaged, match="another key"):
        store.load(device_id(mine.public), mine.public)


def test_new_key_files_cost_an_attacker_what_they_must(tmp_path: Path) -> None:
    store = encrypted_file.open_store(tmp_path, Means(PASSPHRASE.encode))
    key = store.create()
    path = tmp_path / "keys" / f"{device_id(key.public)}.key.json"
    assert KeyFile.parse(path.read_bytes()).cost == Argon2Cost(t=3, m=65536, p=1)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert store.load(device_id(key.public), key.public).public == key.public


def test_two_files_share_neither_salt_nor_nonce(tmp_path: Path) -> None:
    store = EncryptedFileStore(tmp_path, PASSPHRASE.encode, CHEAP)
    paths = [f"{device_id(store.create().public)}.key.json" for _ in range(2)]
    one, two = (KeyFile.parse((tmp_path / "keys" / path).read_bytes()) for path in paths)
    assert one.salt != two.salt
    assert one.nonce != two.nonce


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601])
def test_a_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    store = EncryptedFileStore(tmp_path, PASSPHRASE.encode, CHEAP)
    key = store.create()
    path = tmp_path / "keys" / f"{device_id(key.public)}.key.json"
    path.chmod(mode)
    with pytest.raises(UnsafePermissions) as raised:
        store.load(device_id(key.public), key.public)
    assert (raised.value.path, raised.value.mode, raised.value.wanted) == (str(path), mode, 0o600)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    store = EncryptedFileStore(tmp_path, PASSPHRASE.encode, CHEAP)
    key = store.create()
    path = tmp_path / "keys" / f"{device_id(key.public)}.key.json"
    path.unlink()
    make(path)
    path.chmod(0o600)
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(20)
    try:
        with pytest.raises(HomeUnwritable, match=path.name):
            store.load(device_id(key.public), key.public)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_key_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EncryptedFileStore(tmp_path, PASSPHRASE.encode, CHEAP)
    key = crypto.PrivateKey.generate()
    monkeypatch.setattr(crypto.PrivateKey, "generate", lambda: key)
    store.create()
    path = tmp_path / "keys" / f"{device_id(key.public)}.key.json"
    before = path.read_bytes()
    with pytest.raises(HomeUnwritable):
        store.create()
    assert path.read_bytes() == before


def test_a_passphrase_is_only_asked_for_once_the_file_is_known_to_be_ours(tmp_path: Path) -> None:
    key = EncryptedFileStore(tmp_path, PASSPHRASE.encode, CHEAP).create()

    def ask() -> bytes:
        raise AssertionError("asked")

    asking = EncryptedFileStore(tmp_path, ask, CHEAP)
    with pytest.raises(KeyMissing):
        asking.load("am_other", key.public)
    with pytest.raises(KeyFileDamaged):
        asking.load(device_id(key.public), b"\x02" + bytes(32))


def test_no_memory_for_argon2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may ask for a gigabyte; a machine that has none says so."""
    from argon2 import low_level
    from argon2.exceptions import HashingError

    key = EncryptedFileStore(tmp_path, PASSPHRASE.encode, CHEAP).create()

    def refuse(*args: object, **kwargs: object) -> bytes:
        raise HashingError("Memory allocation error")

    monkeypatch.setattr(low_level, "hash_secret_raw", refuse)
    store = EncryptedFileStore(tmp_path, PASSPHRASE.encode, CHEAP)
    with pytest.raises(KeyFileDamaged, match="Memory allocation"):
        store.load(device_id(key.public), key.public)
    with pytest.raises(Malformed):
        crypto.argon2id(b"", bytes(16), t=1, m=8, p=1)


def test_a_deleted_key_is_gone_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EncryptedFileStore(tmp_path, PASSPHRASE.encode, CHEAP)
    alias = device_id(store.create().public)
    synced: list[tuple[Path, list[Path]]] = []
    monkeypatch.setattr(
        disk, "sync_directory", lambda path: synced.append((path, list(path.iterdir())))
    )
    store.delete(alias)
    assert synced == [(tmp_path / "keys", [])]


def test_no_error_repeats_the_passphrase(tmp_path: Path) -> None:
    key = EncryptedFileStore(tmp_path, PASSPHRASE.encode, CHEAP).create()
    wrong = EncryptedFileStore(tmp_path, b"wrong horse".strip, CHEAP)
    with pytest.raises(WrongPassphrase) as raised:
        wrong.load(device_id(key.public), key.public)
    assert "horse" not in str(raised.value)
    assert raised.value.__cause__ is None


# --- the table --------------------------------------------------------------------------


class HardwareModule(ModuleType):
    """A back end that is there or not, as a test needs it."""

    reason: str | None = None

    def why_not(self, means: Means) -> str | None:
        return self.reason

    def open_store(self, directory: Path, means: Means) -> KeyStore:
        return EncryptedFileStore(directory, means.passphrase, CHEAP)


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch) -> HardwareModule:
    """A better back end, in front of the table."""
    module = HardwareModule("chip")
    monkeypatch.setitem(sys.modules, "tests.support.chip", module)
    files = keystore.BACKENDS["encrypted-file"]
    table = {"chip": "tests.support.chip", "encrypted-file": files}
    monkeypatch.setattr(keystore, "BACKENDS", table)
    return module


def test_without_hardware_keys_live_in_files() -> None:
    nowhere = Means(PASSPHRASE.encode, tpm_tcti="device:/dev/no-such-tpm", platform="linux")
    choice = keystore.detect(nowhere)
    assert choice.backend == "encrypted-file"
    assert [*choice.reasons, choice.backend] == list(keystore.BACKENDS)  # each, in this order
    assert all(choice.reasons.values())
    assert not encrypted_file.open_store(Path(), MEANS).hardware_bound


def test_the_best_comes_first() -> None:
    names = list(keystore.BACKENDS)
    assert set(names[: len(keystore.HARDWARE_BOUND)]) == keystore.HARDWARE_BOUND
    assert names[-1] == "encrypted-file"


def test_a_back_end_that_must_be_asked_for_is_not_even_tried(
    chip: HardwareModule, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(keystore.ONLY_WHEN_ASKED, ("chip", "linux"), "only when asked")
    tried: list[Means] = []
    monkeypatch.setattr(chip, "why_not", tried.append, raising=False)
    on_linux, on_a_mac = (Means(bytes, platform=name) for name in ("linux", "darwin"))
    choice = keystore.detect(on_linux)
    assert choice == keystore.Choice("encrypted-file", {"chip": "only when asked"})
    assert tried == []
    assert keystore.detect(on_a_mac).backend == "chip"
    keystore.open_store("chip", tmp_path, on_linux)  # asked for by name
    assert tried == [on_a_mac, on_linux]


def test_the_best_back_end_is_chosen(chip: HardwareModule) -> None:
    assert keystore.detect(MEANS) == keystore.Choice("chip", {})


def test_a_back_end_that_is_not_chosen_says_why(chip: HardwareModule) -> None:
    chip.reason = "no chip in this machine"
    choice = keystore.detect(MEANS)
    assert choice == keystore.Choice("encrypted-file", {"chip": "no chip in this machine"})


def test_a_back_end_that_is_not_installed_says_so(
    chip: HardwareModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tests.support.chip")
    assert keystore.detect(MEANS).backend == "encrypted-file"
    assert "tests.support.chip is not installed" in keystore.detect(MEANS).reasons["chip"]


def test_no_back_end_at_all(chip: HardwareModule, monkeypatch: pytest.MonkeyPatch) -> None:
    chip.reason = "no chip in this machine"
    monkeypatch.delitem(keystore.BACKENDS, "encrypted-file")
    with pytest.raises(BackendUnavailable, match="no chip in this machine"):
        keystore.detect(MEANS)


def test_nothing_falls_back(chip: HardwareModule, tmp_path: Path) -> None:
    """The identity names its back end; another one would hold another key."""
    chip.reason = "the chip was taken out"
    with pytest.raises(BackendUnavailable, match="taken out"):
        keystore.open_store("chip", tmp_path, MEANS)


def test_a_back_end_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"choose one of .*encrypted-file"):
        keystore.open_store("abacus", tmp_path, MEANS)

"""Keys in a TPM: the contract, what is made and found, a TPM that is not as it was, no TPM."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from amesh_core import crypto, disk
from amesh_core.errors import (
    AllowListMarkBroken,
    BackendUnavailable,
    HomeUnwritable,
    KeyFileDamaged,
    KeyMissing,
    KeyStoreError,
    TpmChanged,
    TpmError,
    TpmLockedOut,
    TpmOutOfMemory,
    TpmOwnerPassword,
    UnsafePermissions,
)
from amesh_core.identity import DeviceKey, device_id
from amesh_core.keystore import KeyStore, Means, open_store, tpm2
from amesh_core.keystore.tpm2.codes import Refused
from amesh_core.keystore.tpm2.connection import Connection
from amesh_core.wire.encoding import instant
from amesh_core.wire.tss2 import STORAGE_ROOT_KEY, LoadableKey, PartsFile
from tests.core.test_keystore import KeyStoreContract
from tests.support.swtpm import SoftwareTpm, software_tpm
from tests.support.tpm_device import Device, Tools, check, flip

PASSWORD: Final = "owner-password"
DEVICE: Final = tpm2.DEVICE  # before conftest.py takes it away
_THREADS: Final = 8


class TestTpm2(KeyStoreContract):
    """The contract, with a primary key made anew at each load."""

    @pytest.fixture(autouse=True)
    def _device(self, device: Device) -> None:
        self.device = device

    def store(self) -> KeyStore:
        return self.device.store()


class TestTpm2WithStorageRootKey(TestTpm2):
    """The contract, on a machine whose administrator made a storage root key."""

    @pytest.fixture(autouse=True)
    def _root(self, tpm: SoftwareTpm) -> None:
        tpm.make_storage_root_key()


# --- what is made -----------------------------------------------------------------------


def test_two_private_files_and_a_place_in_the_tpm(device: Device, tools: Tools) -> None:
    key = device.create()
    assert sorted(device.keys.iterdir()) == [device.parts(key), device.pem(key)]
    for path in device.keys.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(device.keys.stat().st_mode) == 0o700
    index = device.index(key)
    assert index is not None
    assert tools.handles("nv-index") == [f"0x{index:X}"]
    assert tools.handles("persistent") == []  # nothing of the owner's few places is used up


def test_a_key_is_on_the_disk_before_it_is_given_out(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, int]] = []
    monkeypatch.setattr(
        disk, "sync_directory", lambda path: synced.append((path, len(list(path.iterdir()))))
    )
    device.create()
    assert synced == [(device.keys, 2)]


def test_neither_key_may_leave_the_tpm(device: Device, tools: Tools) -> None:
    key = device.create()
    parts = PartsFile.parse(device.parts(key).read_bytes())
    (tools.directory / "signing.pem").write_bytes(device.pem(key).read_bytes())
    (tools.directory / "sealing.pem").write_bytes(parts.sealing.encode())
    for name in ("signing", "sealing"):
        tools("tpm2_load", "-r", f"{name}.pem", "-c", f"{name}.ctx")
        tools("tpm2_flushcontext", "-t")
        said = tools("tpm2_readpublic", "-c", f"{name}.ctx")
        assert "value: fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign" in said


def test_what_is_stored_is_of_no_use_to_another_tpm(device: Device, tmp_path: Path) -> None:
    key = device.create()
    with software_tpm() as other:
        elsewhere = Device(device.directory, other.tcti)
        with pytest.raises(TpmChanged, match="cleared since, or another"):
            elsewhere.load(key)
        with pytest.raises(AllowListMarkBroken):
            elsewhere.newest(key)
        elsewhere.chip.close()
        assert other.handles("transient") == []
    check(device.load(key))


def test_no_byte_of_a_key_is_logged_or_handed_to_a_program(
    device: Device, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_program(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess.Popen, "__init__", no_program)
    caplog.set_level(logging.DEBUG)
    key = device.create()
    again = device.load(key)
    seal = again.mac(b"list")
    check(again)
    device.remember(again, 5)
    device.newest(again)
    files = [path.read_text() for path in device.keys.iterdir()]
    device.delete(key)
    for text in files:
        assert seal.hex() not in text
        for line in text.splitlines():
            assert line in ("{", "}") or line not in caplog.text
    assert repr(again).startswith("TpmKey(am_")
    signing = repr(LoadableKey.parse(next(text for text in files if "BEGIN" in text[:20]).encode()))
    assert "private" not in signing


def test_a_signature_of_tpm2_tools_with_our_file(device: Device, tools: Tools) -> None:
    """`tpm2_load -r` reads a TSS2 PRIVATE KEY, and derives the parent that it names."""
    key = device.create()
    (tools.directory / "message").write_bytes(b"independent")
    tools("tpm2_load", "-r", str(device.pem(key)), "-c", "key.ctx")
    tools("tpm2_flushcontext", "-t")
    sign = ("tpm2_sign", "-c", "key.ctx", "-g", "sha256", "-f", "plain", "-o", "signature")
    tools(*sign, "message")
    signature = (tools.directory / "signature").read_bytes()
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key.public)
    public.verify(signature, b"independent", ec.ECDSA(hashes.SHA256()))


def test_a_seal_of_tpm2_tools_with_our_file(device: Device, tools: Tools) -> None:
    key = device.create()
    sealed = key.mac(b"list")
    parts = PartsFile.parse(device.parts(key).read_bytes())
    (tools.directory / "sealing.pem").write_bytes(parts.sealing.encode())
    (tools.directory / "digest").write_bytes(crypto.sha256(b"list"))
    tools("tpm2_load", "-r", "sealing.pem", "-c", "key.ctx")
    tools("tpm2_flushcontext", "-t")
    assert tools("tpm2_hmac", "-c", "key.ctx", "--hex", "digest").strip() == sealed.hex()


@pytest.mark.parametrize("root", [False, True], ids=["primary", "storage root key"])
def test_a_signature_of_openssl_with_our_file(device: Device, tools: Tools, root: bool) -> None:
    """The provider of tpm2-openssl (Debian: apt-get install tpm2-openssl)."""
    if root:
        tools.storage_root_key()
    key = device.create()
    assert (LoadableKey.parse(device.pem(key).read_bytes()).parent == STORAGE_ROOT_KEY) is root
    (tools.directory / "message").write_bytes(b"independent")
    providers = ("-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2")
    tools(
        *("openssl", "dgst", "-sha256", *providers, "-sign", str(device.pem(key))),
        *("-out", "signature", "message"),
    )
    signature = (tools.directory / "signature").read_bytes()
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key.public)
    public.verify(signature, b"independent", ec.ECDSA(hashes.SHA256()))


def test_a_storage_root_key_is_taken_before_a_primary(device: Device, tools: Tools) -> None:
    first = device.create()
    tools.storage_root_key()
    second = device.create()
    parents = [LoadableKey.parse(device.pem(key).read_bytes()).parent for key in (first, second)]
    assert parents == [0x40000001, STORAGE_ROOT_KEY]
    for key in (first, second):
        check(device.load(key))


def test_what_is_no_storage_key_is_no_parent(device: Device, tools: Tools) -> None:
    """Anything can be persistent at 0x81000001."""
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"
    make = ("tpm2_createprimary", "-C", "o", "-G", "ecc256:ecdsa", "-a", attributes)
    tools(*make, "-c", "signer.ctx")
    tools("tpm2_flushcontext", "-t")
    tools("tpm2_evictcontrol", "-C", "o", "-c", "signer.ctx", "0x81000001")
    tools("tpm2_flushcontext", "-t")
    key = device.create()
    assert LoadableKey.parse(device.pem(key).read_bytes()).parent == 0x40000001
    check(device.load(key))


@pytest.mark.parametrize("kind", ["rsa2048:aes128cfb", "sha384 ecc384:aes256cfb"])
def test_a_storage_root_key_of_another_kind(device: Device, tools: Tools, kind: str) -> None:
    """As firmware and other systems make it; its name may be longer than those we make."""
    *hashed, algorithm = kind.split()
    with_hash = ("-g", *hashed) if hashed else ()
    tools("tpm2_createprimary", "-C", "o", *with_hash, "-G", algorithm, "-c", "root.ctx")
    tools("tpm2_flushcontext", "-t")
    tools("tpm2_evictcontrol", "-C", "o", "-c", "root.ctx", "0x81000001")
    tools("tpm2_flushcontext", "-t")
    key = device.create()
    assert LoadableKey.parse(device.pem(key).read_bytes()).parent == STORAGE_ROOT_KEY
    check(device.load(key))
    device.remember(key, 5)
    assert device.newest(key) == instant(5)


def test_a_storage_root_key_under_a_policy_is_no_parent(device: Device, tools: Tools) -> None:
    tools.storage_root_key(
        "fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|restricted|decrypt"
    )
    key = device.create()
    assert LoadableKey.parse(device.pem(key).read_bytes()).parent == 0x40000001
    check(device.load(key))


def test_a_storage_root_key_with_a_password(device: Device, tools: Tools) -> None:
    make = ("tpm2_createprimary", "-C", "o", "-G", "ecc256:aes128cfb", "-p", PASSWORD)
    tools(*make, "-c", "root.ctx")
    tools("tpm2_flushcontext", "-t")
    tools("tpm2_evictcontrol", "-C", "o", "-c", "root.ctx", "0x81000001")
    tools("tpm2_flushcontext", "-t")
    with pytest.raises(TpmOwnerPassword, match="or that key itself has one"):
        device.create()
    assert tools.handles("transient") == tools.handles("nv-index") == []


def test_a_create_that_fails_leaves_nothing(device: Device, tools: Tools) -> None:
    device.keys.write_text("in the way")
    with pytest.raises(HomeUnwritable):
        device.create()
    assert tools.handles("nv-index") == tools.handles("transient") == []


def test_a_disk_that_fills_up_between_the_two_files(
    device: Device, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = disk.write_new

    def full(path: Path, data: bytes, *, mode: int = disk.PRIVATE_FILE) -> None:
        if path.suffix == ".json":
            raise HomeUnwritable("no space left on device")
        real(path, data, mode=mode)

    monkeypatch.setattr(disk, "write_new", full)
    with pytest.raises(HomeUnwritable):
        device.create()
    assert list(device.keys.iterdir()) == []
    assert tools.handles("nv-index") == []


def test_the_error_that_came_first_is_told(
    device: Device, tpm: SoftwareTpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        tpm.kill()
        raise HomeUnwritable("no space left on device")

    monkeypatch.setattr(disk, "write_new", full)
    with pytest.raises(HomeUnwritable, match="no space"):
        device.create()


def test_a_place_that_cannot_be_written_is_given_back(
    device: Device, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_session(*_: object) -> None:
        raise Refused(0x903, "out of memory for session contexts")

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "nv_write", no_session)
        with pytest.raises(TpmOutOfMemory):
            device.create()
    assert tools.handles("nv-index") == []
    assert not device.keys.exists()


def test_a_deleted_key_is_gone_from_the_disk(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = device.create()
    synced: list[tuple[Path, list[Path]]] = []
    monkeypatch.setattr(
        disk, "sync_directory", lambda path: synced.append((path, list(path.iterdir())))
    )
    device.delete(key)
    assert synced == [(device.keys, [])]


def test_delete_leaves_nothing(device: Device, tools: Tools) -> None:
    keys = [device.create(), device.create()]
    device.remember(keys[0], 5)
    device.delete(keys[0])
    assert len(tools.tpm.handles("transient")) == 1  # the other one
    assert len(tools.handles("nv-index")) == 1
    assert sorted(device.keys.iterdir()) == [device.parts(keys[1]), device.pem(keys[1])]
    device.delete(keys[1])
    assert tools.handles("nv-index") == []
    assert list(device.keys.iterdir()) == []


def test_delete_takes_no_place_that_is_not_its_own(device: Device, tools: Tools) -> None:
    """The file that names it can be written by who cannot write to the TPM."""
    key, other = device.create(), device.create()
    theirs = device.index(other)
    text = device.parts(key).read_text()
    device.parts(key).write_text(text.replace(str(device.index(key)), str(theirs)))
    device.delete(key)
    assert f"0x{theirs:X}" in tools.handles("nv-index")
    assert device.newest(other) is None
    device.remember(other, 5)
    assert device.newest(other) == instant(5)


# --- files that are not as they were ----------------------------------------------------


def cut(pem: Path) -> None:
    key = LoadableKey.parse(pem.read_bytes())
    pem.write_bytes(LoadableKey(key.parent, key.public, b"\0\2xx").encode())


def no_structure(pem: Path) -> None:
    key = LoadableKey.parse(pem.read_bytes())
    pem.write_bytes(LoadableKey(key.parent, key.public, b"\xff\xffxx").encode())


def other_parent(pem: Path) -> None:
    key = LoadableKey.parse(pem.read_bytes())
    pem.write_bytes(LoadableKey(STORAGE_ROOT_KEY, key.public, key.private).encode())


def garbage(pem: Path) -> None:
    pem.write_bytes(b"not a key")


@pytest.mark.parametrize("damage", [flip, cut, no_structure, other_parent, garbage])
def test_a_changed_key_file(device: Device, damage: Callable[[Path], None]) -> None:
    key = device.create()
    damage(device.pem(key))
    device.chip.close()
    with pytest.raises(KeyFileDamaged, match=r"\.(pem|json)"):
        device.load(key)


def test_the_parts_of_another_key(device: Device) -> None:
    """Else who made a key in the same TPM could seal lists of ours."""
    key, other = device.create(), device.create()
    shutil.copy(device.parts(other), device.parts(key))
    with pytest.raises(KeyFileDamaged, match="not the one of this key"):
        device.load(key)
    with pytest.raises(KeyFileDamaged):
        device.newest(key)


def test_the_key_of_another_device(device: Device) -> None:
    key, other = device.create(), device.create()
    shutil.copy(device.pem(other), device.pem(key))
    with pytest.raises(KeyFileDamaged, match="another key"):
        device.load(key)


@pytest.mark.parametrize("name", ["hmacKey", "parentName", "nvIndex", "signature", "version"])
def test_a_part_exchanged_for_another(device: Device, name: str) -> None:
    key, other = device.create(), device.create()
    ours, theirs = (device.parts(each).read_text().splitlines() for each in (key, other))
    at = next(number for number, line in enumerate(ours) if f'"{name}"' in line)
    line = theirs[at] if ours[at] != theirs[at] else ours[at].replace("A", "B").replace("2", "3")
    assert line != ours[at]
    device.parts(key).write_text("\n".join([*ours[:at], line, *ours[at + 1 :]]))
    with pytest.raises(KeyFileDamaged):
        device.load(key)


def test_the_place_cannot_be_struck_out(device: Device) -> None:
    """Without it, a file would remember, and a file can be put back."""
    key = device.create()
    lines = [line for line in device.parts(key).read_text().splitlines() if "nvIndex" not in line]
    device.parts(key).write_text("\n".join(lines))
    with pytest.raises(KeyFileDamaged):
        device.newest(key)


@pytest.mark.parametrize("kind", ["pem", "json"])
def test_a_file_that_is_gone(device: Device, kind: str) -> None:
    key = device.create()
    (device.keys / f"{device_id(key.public)}.tpm2.{kind}").unlink()
    with pytest.raises(KeyMissing, match=kind):
        device.load(key)
    with pytest.raises(KeyMissing):
        device.newest(key)
    device.delete(key)
    assert list(device.keys.iterdir()) == []


@pytest.mark.parametrize("kind", ["pem", "json"])
def test_a_file_that_others_may_read(device: Device, kind: str) -> None:
    key = device.create()
    (device.keys / f"{device_id(key.public)}.tpm2.{kind}").chmod(0o640)
    with pytest.raises(UnsafePermissions):
        device.load(key)


# --- a TPM that is not as it was --------------------------------------------------------


def test_a_cleared_tpm_says_so(device: Device, tools: Tools) -> None:
    key = device.create()
    tools("tpm2_clear")
    with pytest.raises(TpmChanged):
        device.load(key)
    with pytest.raises(TpmChanged):
        key.sign(b"loaded before")
    with pytest.raises(TpmChanged):
        key.mac(b"loaded before")
    check(device.create())
    device.delete(key)


def test_a_cleared_tpm_with_a_new_storage_root_key(device: Device, tools: Tools) -> None:
    tools.storage_root_key()
    key = device.create()
    tools("tpm2_clear")
    with pytest.raises(TpmChanged):
        device.load(key)
    tools.storage_root_key()
    with pytest.raises(TpmChanged):
        device.load(key)


def test_a_storage_root_key_that_was_evicted(device: Device, tools: Tools) -> None:
    tools.storage_root_key()
    key = device.create()
    tools("tpm2_evictcontrol", "-C", "o", "-c", "0x81000001")
    with pytest.raises(TpmChanged):
        device.load(key)
    tools.storage_root_key()  # the same template: the same key
    check(device.load(key))


def test_it_survives_a_restart(device: Device, tpm: SoftwareTpm) -> None:
    key = device.create()
    device.remember(key, 5)
    seal = key.mac(b"list")
    tpm.restart()
    check(key)
    assert key.mac(b"list") == seal
    assert device.newest(key) == instant(5)
    check(device.load(key))


def test_killed_in_the_midst_it_goes_on(device: Device, tpm: SoftwareTpm) -> None:
    """Each thread either signs or is told that nobody answers; afterwards all of them sign."""
    key = device.create()
    killed = threading.Event()
    begun = threading.Barrier(_THREADS + 1)
    outcomes: list[str] = []

    def work() -> None:
        check(key)
        begun.wait()
        while True:
            again = killed.is_set()
            try:
                check(key)
            except TpmError as error:
                outcomes.append(str(error))
                return
            if again:
                outcomes.append("signed")
                return

    with ThreadPoolExecutor(_THREADS) as threads:
        futures = [threads.submit(work) for _ in range(_THREADS)]
        begun.wait()
        tpm.kill()
        killed.set()
        for future in futures:
            future.result()
    assert len(outcomes) == _THREADS
    assert all("does not answer" in outcome for outcome in outcomes)
    tpm.start()
    with ThreadPoolExecutor(_THREADS) as threads:
        for future in [threads.submit(check, key) for _ in range(_THREADS)]:
            future.result()


def test_what_was_loaded_is_loaded_again(device: Device, tpm: SoftwareTpm, tools: Tools) -> None:
    """After a machine slept, or somebody flushed what is not theirs."""
    key = device.create()
    seal = key.mac(b"list")

    def seals(key: DeviceKey) -> None:
        assert key.mac(b"list") == seal

    for lose in (tpm.restart, lambda: tpm.run("tpm2_flushcontext", "-t")):
        for number, work in enumerate((check, seals, device.newest)):
            check(key)
            seals(key)
            lose()
            work(key)
            device.remember(key, number)
    assert len(tpm.handles("transient")) <= 2


# --- why not ----------------------------------------------------------------------------


def why_not(tcti: str | None) -> str:
    reason = tpm2.why_not(Means(bytes, tcti))
    assert reason is not None
    return reason


def test_no_tpm(tmp_path: Path) -> None:
    nowhere = f"device:{tmp_path / 'tpm'}"
    assert why_not(nowhere).startswith("this machine has no TPM 2.0")
    with pytest.raises(BackendUnavailable, match="no TPM"):
        open_store("tpm2", tmp_path, Means(bytes, nowhere))


def test_without_a_setting_it_is_the_device_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Never a probe: tpm2-tss would go on to a simulator on localhost."""
    asked: list[str] = []

    def refuse(path: str | os.PathLike[str], flags: int) -> int:
        asked.append(os.fspath(path))
        raise FileNotFoundError

    monkeypatch.setattr(os, "open", refuse)
    assert tpm2.DEVICE in why_not(None)
    assert asked == [tpm2.DEVICE]
    assert DEVICE == "/dev/tpmrm0"


def test_not_in_the_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "tpm"
    path.touch()

    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr("grp.getgrgid", lambda _: type("Group", (), {"gr_name": "tss"}))
    monkeypatch.setattr("pwd.getpwuid", lambda _: type("User", (), {"pw_name": "www"}))
    assert "run `sudo usermod -aG tss www`, then log in again" in why_not(f"device:{path}")
    monkeypatch.setattr("grp.getgrgid", lambda _: type("Group", (), {"gr_name": "root"}))
    assert "tpm-udev" in why_not(f"device:{path}")


def test_a_device_that_is_no_tpm(tmp_path: Path) -> None:
    assert "cannot be opened: Is a directory" in why_not(f"device:{tmp_path}")
    assert "does not answer" in why_not("device:/dev/null")


def test_a_file_that_is_no_device_keeps_its_contents(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    assert why_not(f"device:{path}") == f"{path} is not a device"
    assert path.read_text() == "precious"
    os.mkfifo(tmp_path / "pipe")
    assert "is not a device" in why_not(f"device:{tmp_path / 'pipe'}")


@pytest.mark.parametrize("tcti", [None, "", "device", "device:"])
def test_a_device_without_a_path_is_not_looked_for(tcti: str | None) -> None:
    assert f"there is no {tpm2.DEVICE}" in why_not(tcti)


@pytest.mark.parametrize("tcti", [":", ":conf", "swtpm:path=\udcff", "swtpm:path=\x1b[2J"])
def test_a_setting_that_names_nothing(tcti: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name, tpm2-tss tries devices and simulators."""
    monkeypatch.setattr(
        "amesh_core.keystore.tpm2.connection.import_module", lambda _: pytest.fail("asked")
    )
    reason = why_not(tcti)
    assert "does not name a TPM" in reason
    assert reason.isprintable()


def test_a_missing_plug_in() -> None:
    assert "no plug-in 'abacus'; on Debian it is libtss2-tcti-abacus0" in why_not("abacus:beads=3")


def test_nobody_answers(tmp_path: Path) -> None:
    assert "does not answer" in why_not(f"swtpm:path={tmp_path / 'nothing'}")


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch, tpm: SoftwareTpm) -> None:
    monkeypatch.setitem(sys.modules, "tpm2_pytss", None)
    assert "pip install 'authmesh[tpm]'" in why_not(tpm.tcti)
    assert "libtss2-dev" in why_not(tpm.tcti)


def test_a_missing_library(monkeypatch: pytest.MonkeyPatch, tpm: SoftwareTpm) -> None:
    def broken(_: str) -> object:
        raise ImportError("libtss2-esys.so.0: cannot open shared object file")

    monkeypatch.setattr("amesh_core.keystore.tpm2.connection.import_module", broken)
    assert "libtss2-esys.so.0" in why_not(tpm.tcti)


def test_an_owner_hierarchy_that_is_switched_off(device: Device, tools: Tools) -> None:
    key = device.create()
    tools("tpm2_hierarchycontrol", "-C", "p", "shEnable", "clear")
    with pytest.raises(TpmError, match="switched off"):
        device.load(key)


def test_nothing_is_printed_and_nothing_imported_before_it_is_needed(tmp_path: Path) -> None:
    """tpm2-tss writes to standard error unless told otherwise, and takes 150 ms to import."""
    program = (
        "import sys\n"
        "from amesh_core.keystore import Means, tpm2\n"
        "assert tpm2.why_not(Means(bytes, 'device:/dev/no-such-tpm'))\n"
        "assert 'tpm2_pytss' not in sys.modules\n"
        "assert tpm2.why_not(Means(bytes, 'swtpm:path=/nowhere'))\n"
        "assert 'tpm2_pytss' in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("rc", "lost", "full", "wrapping", "password"),
    [
        (0x000A_000A, True, False, False, False),  # TCTI: I/O
        (0x000A_0008, True, False, False, False),  # TCTI: no connection
        (0x0007_0007, True, False, False, False),  # ESYS: out of step, after a lost connection
        (0x0007_0018, True, False, False, False),  # ESYS: a handle of another connection
        (0x0008_0012, True, False, False, False),  # SYS: the end of what a dead device gives
        (0x0009_0006, False, False, True, False),  # no TPM structure
        (0x0000_018B, True, False, False, False),  # nothing at that handle
        (0x0000_0910, True, False, False, False),  # not loaded any more
        (0x000C_0910, True, False, False, False),  # the same from a resource manager
        (0x0000_0902, False, True, False, False),
        (0x000C_0902, False, True, False, False),
        (0x0000_0903, False, True, False, False),
        (0x0000_01DF, False, False, True, False),
        (0x0000_01D5, False, False, True, False),
        (0x0000_09A2, False, False, False, True),
        (0x0000_098E, False, False, False, True),
        (0x0000_012F, False, False, False, True),
        (0x000A_0015, False, False, False, False),  # no plug-in: opening again cannot help
        (0x0000_0921, False, False, False, False),  # lockout
        (0x0000_014A, False, False, False, False),
        (0x0000_0184, False, False, False, False),
    ],
)
def test_what_codes_mean(rc: int, lost: bool, full: bool, wrapping: bool, password: bool) -> None:
    refused = Refused(rc, "as tpm2-tss says it")
    found = (
        *(refused.is_lost_connection, refused.is_full),
        *(refused.is_bad_wrapping, refused.is_password),
    )
    assert found == (lost, full, wrapping, password)
    assert f"0x{rc:x}" in str(refused)


def test_every_refusal_is_one_of_ours() -> None:
    for kind in (TpmChanged, TpmOwnerPassword, TpmLockedOut, TpmOutOfMemory):
        assert issubclass(kind, TpmError)
        assert issubclass(kind, KeyStoreError)

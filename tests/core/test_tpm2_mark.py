"""The newest allow list, remembered in a TPM; directories whose keys are in one."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from amesh_core import disk
from amesh_core.errors import (
    AllowListMarkBroken,
    AllowListRolledBack,
    HomeUnwritable,
    Malformed,
    TpmChanged,
)
from amesh_core.identity import device_id
from amesh_core.io import rotating
from amesh_core.io.home import Home
from amesh_core.keystore.tpm2 import codes, mark
from amesh_core.keystore.tpm2.chip import Line, chip
from amesh_core.keystore.tpm2.codes import Refused
from amesh_core.settings import Settings
from amesh_core.wire.encoding import instant
from tests.support.home import NOW, PASSPHRASE, cheap_init, make_home, make_peer, record
from tests.support.swtpm import SoftwareTpm
from tests.support.tpm_device import Device, Tools, check

PASSWORD: Final = "owner-password"

# --- the mark ---------------------------------------------------------------------------


def test_who_cannot_use_the_key_cannot_set_the_mark_back(device: Device, tools: Tools) -> None:
    key = device.create()
    device.remember(key, 5)
    index = f"0x{device.index(key):x}"
    (tools.directory / "older").write_bytes(instant(4).encode())
    for hierarchy in (index, "o"):
        with pytest.raises(AssertionError, match="ERROR"):
            tools("tpm2_nvwrite", index, "-C", hierarchy, "-i", "older")
    assert device.newest(key) == instant(5)


def test_a_mark_that_vanished_is_not_one_that_never_was(device: Device, tools: Tools) -> None:
    key = device.create()
    for seconds in (None, 5):
        if seconds is not None:
            device.remember(key, seconds)
        index = device.index(key)
        tools("tpm2_nvundefine", "-C", "o", f"0x{index:x}")
        with pytest.raises(AllowListMarkBroken, match="gone"):
            device.newest(key)
        # After a person agreed; no file changes, as nobody took the place.
        device.remember(key, 4)
        assert device.index(key) == index
        assert device.newest(key) == instant(4)
        device.remember(key, 3)
        assert device.newest(key) == instant(4)


def test_a_place_made_anew_by_somebody_else_is_no_mark(device: Device, tools: Tools) -> None:
    key = device.create()
    device.remember(key, 5)
    index = f"0x{device.index(key):x}"
    tools("tpm2_nvundefine", "-C", "o", index)
    (tools.directory / "older").write_bytes(instant(4).encode())
    tools("tpm2_nvdefine", "-C", "o", "-s", "24", "-a", "ownerread|authread|authwrite", index)
    tools("tpm2_nvwrite", index, "-C", index, "-i", "older")
    with pytest.raises(AllowListMarkBroken):
        device.newest(key)
    device.remember(key, 6)
    assert device.newest(key) == instant(6)
    assert device.index(key) != int(index, 16)  # theirs is left alone
    assert index.upper().replace("X", "x") in tools.handles("nv-index")
    check(device.load(key))


def test_a_place_of_ours_that_was_never_written_is_no_mark(device: Device, tools: Tools) -> None:
    """The owner can make it anew with our policy, but cannot write to it."""
    key = device.create()
    device.remember(key, 5)
    index = f"0x{device.index(key):x}"
    said = tools("tpm2_nvreadpublic", index)
    policy = said.split("authorization policy: ")[1].split()[0]
    (tools.directory / "policy").write_bytes(bytes.fromhex(policy))
    tools("tpm2_nvundefine", "-C", "o", index)
    attributes = ("-a", "authread|policywrite|no_da")
    tools("tpm2_nvdefine", "-C", "o", "-s", "24", *attributes, "-L", "policy", index)
    with pytest.raises(AllowListMarkBroken):
        device.newest(key)
    device.remember(key, 6)
    assert device.newest(key) == instant(6)
    assert len(tools.handles("nv-index")) == 1


def test_a_place_that_cannot_be_made_anew_becomes_a_file(device: Device, tools: Tools) -> None:
    tools.storage_root_key()
    key = device.create()
    device.remember(key, 5)
    tools("tpm2_nvundefine", "-C", "o", f"0x{device.index(key):x}")
    tools("tpm2_changeauth", "-c", "owner", PASSWORD)
    with pytest.raises(AllowListMarkBroken):
        device.newest(key)
    device.remember(key, 6)
    assert device.index(key) is None
    assert device.newest(key) == instant(6)
    check(device.load(key))


def test_a_place_under_a_policy_of_somebody_else_is_no_mark(device: Device, tools: Tools) -> None:
    """Its attributes are ours; its policy is one that anybody can fulfil."""
    key = device.create()
    device.remember(key, 5)
    index = f"0x{device.index(key):x}"
    tools("tpm2_nvundefine", "-C", "o", index)
    tools("tpm2_startauthsession", "-S", "session")
    tools("tpm2_policycommandcode", "-S", "session", "-L", "policy", "TPM2_CC_NV_Write")
    tools("tpm2_flushcontext", "session")
    attributes = ("-a", "authread|policywrite|no_da")
    tools("tpm2_nvdefine", "-C", "o", "-s", "24", *attributes, "-L", "policy", index)
    (tools.directory / "older").write_bytes(instant(4).encode())
    tools("tpm2_startauthsession", "--policy-session", "-S", "session")
    tools("tpm2_policycommandcode", "-S", "session", "TPM2_CC_NV_Write")
    tools("tpm2_nvwrite", index, "-C", index, "-P", "session:session", "-i", "older")
    tools("tpm2_flushcontext", "session")
    assert tools("tpm2_nvread", index, "-C", index) == instant(4)
    with pytest.raises(AllowListMarkBroken):
        device.newest(key)
    device.remember(key, 6)
    assert device.newest(key) == instant(6)
    assert device.index(key) != int(index, 16)


def test_a_place_of_ours_that_is_too_small_is_left_alone(device: Device, tools: Tools) -> None:
    key = device.create()
    index = f"0x{device.index(key):x}"
    policy = tools("tpm2_nvreadpublic", index).split("authorization policy: ")[1].split()[0]
    (tools.directory / "policy").write_bytes(bytes.fromhex(policy))
    tools("tpm2_nvundefine", "-C", "o", index)
    attributes = ("-a", "authread|policywrite|no_da")
    tools("tpm2_nvdefine", "-C", "o", "-s", "8", *attributes, "-L", "policy", index)
    with pytest.raises(AllowListMarkBroken):
        device.newest(key)
    device.remember(key, 6)
    assert device.newest(key) == instant(6)
    assert device.index(key) != int(index, 16)


def test_a_place_that_no_file_can_name_is_given_back(
    device: Device, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each attempt to mend the list of a read-only disk would take 24 bytes more."""
    key = device.create()
    index = f"0x{device.index(key):x}"
    tools("tpm2_nvundefine", "-C", "o", index)
    tools("tpm2_nvdefine", "-C", "o", "-s", "24", "-a", "ownerread|authread|authwrite", index)

    def read_only(*_: object) -> None:
        raise HomeUnwritable("read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(disk, "replace", read_only)
        with pytest.raises(HomeUnwritable):
            device.remember(key, 6)
    assert len(tools.handles("nv-index")) == 1
    device.remember(key, 6)
    assert device.newest(key) == instant(6)
    assert len(tools.handles("nv-index")) == 2


def test_a_place_with_our_policy_that_others_can_write_is_no_mark(
    device: Device, tools: Tools
) -> None:
    key = device.create()
    device.remember(key, 5)
    index = f"0x{device.index(key):x}"
    policy = tools("tpm2_nvreadpublic", index).split("authorization policy: ")[1].split()[0]
    (tools.directory / "policy").write_bytes(bytes.fromhex(policy))
    (tools.directory / "older").write_bytes(instant(4).encode())
    tools("tpm2_nvundefine", "-C", "o", index)
    attributes = ("-a", "authread|authwrite|policywrite|no_da")
    tools("tpm2_nvdefine", "-C", "o", "-s", "24", *attributes, "-L", "policy", index)
    tools("tpm2_nvwrite", index, "-C", index, "-i", "older")
    with pytest.raises(AllowListMarkBroken):
        device.newest(key)
    device.remember(key, 6)
    assert device.newest(key) == instant(6)
    assert device.index(key) != int(index, 16)


def test_a_mark_of_another_kind_is_not_believed(device: Device) -> None:
    key = device.create()
    index = device.index(key)
    assert index is not None
    store = device.store()
    keys, _ = store._read(device_id(key.public), key.public)
    device.chip.use(lambda line: mark.write(line, keys, index, b"x" * mark.SIZE_BYTES))
    with pytest.raises(AllowListMarkBroken):
        device.newest(key)


@pytest.mark.parametrize("text", ["", "x" * mark.SIZE_BYTES, "\0" * mark.SIZE_BYTES])
def test_what_is_no_time_is_not_remembered(device: Device, text: str) -> None:
    key = device.create()
    device.remember(key, 5)
    with pytest.raises(Malformed):
        device.store().remember(key, device_id(key.public), text)
    assert device.newest(key) == instant(5)


def test_a_full_tpm_leaves_it_to_a_file(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    indices = itertools.count(0x0150_0000)

    def fill_up(line: Line) -> None:
        for size in (2048, 128, 1):
            with suppress(Refused):
                for index in indices:
                    line.connection.nv_define(index, size, bytes(32))
        with pytest.raises(Refused) as refused:
            line.connection.nv_define(next(indices), 1, bytes(32))
        assert refused.value.code == codes.NV_SPACE

    device.chip.use(fill_up)
    key = device.create()
    assert "memory is full" in caplog.text
    assert device.index(key) is None
    device.remember(key, 5)
    assert device.newest(key) == instant(5)


# --- a whole directory ------------------------------------------------------------------


def settings(directory: Path, tpm: SoftwareTpm) -> Settings:
    return Settings(directory=directory, tpm_tcti=tpm.tcti)


def test_a_device_whose_key_is_in_the_tpm(tmp_path: Path, tpm: SoftwareTpm, tools: Tools) -> None:
    at = settings(tmp_path / "amesh", tpm)
    created = Home.create(at, name="prod-api", backend="tpm2", now=NOW)
    assert created.hardware_bound
    assert created.passphrase_generated is False
    home = Home.open(at)
    assert home.backend == "tpm2"
    assert home.passphrase_source() is None
    peer = make_peer()
    record(home, peer, now=NOW + 1)
    assert [each.device_id for each in Home.open(at).allow_list().devices] == [peer.device_id]
    assert len(tools.handles("nv-index")) == 1
    assert not (tmp_path / "amesh" / ".passphrase").exists()


def test_it_is_the_best_of_a_machine_that_has_one(tmp_path: Path, tpm: SoftwareTpm) -> None:
    created = Home.create(settings(tmp_path / "amesh", tpm), name="prod-api", now=NOW)
    assert created.home.backend == "tpm2"


def test_an_older_list_is_refused_by_a_process_that_never_saw_the_newer(
    tmp_path: Path, tpm: SoftwareTpm
) -> None:
    at = settings(tmp_path / "amesh", tpm)
    home = Home.create(at, name="prod-api", backend="tpm2", now=NOW).home
    record(home, make_peer(), now=NOW + 1)
    older = {
        path: path.read_bytes()
        for path in sorted((tmp_path / "amesh").rglob("*"))
        if path.is_file()
    }
    with home.editing_allow_list(NOW + 2) as edit:
        (device,) = edit.allow_list.devices
        edit.allow_list = edit.allow_list.revoke(device)
    for path, data in older.items():  # everything on the disk, not the list alone
        path.write_bytes(data)
    with pytest.raises(AllowListRolledBack):
        Home.open(at).allow_list()


def test_a_list_that_another_tpm_sealed_is_not_believed(tmp_path: Path, tpm: SoftwareTpm) -> None:
    at = settings(tmp_path / "amesh", tpm)
    Home.create(at, name="prod-api", backend="tpm2", now=NOW)
    chip(tpm.tcti).close()
    tpm.exchange()
    with pytest.raises(TpmChanged):
        Home.open(at).allow_list()


def test_a_device_moves_between_files_and_the_tpm(
    tmp_path: Path, tpm: SoftwareTpm, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each new key seals the list anew; no place in the TPM outlives its key."""
    cheap_init(monkeypatch)
    directory = tmp_path / "amesh"
    at = Settings(directory=directory, tpm_tcti=tpm.tcti, passphrase=PASSPHRASE)
    peer = make_peer()
    record(make_home(directory), peer)
    for hop, (backend, places) in enumerate([("tpm2", 1), ("tpm2", 1), ("encrypted-file", 0)]):
        moment = NOW + 60 * (hop + 1)
        rotating.begin(Home.open(at), backend=backend, now=moment)
        rotating.finish(Home.open(at), force=False, now=moment + 1)
        home = Home.open(at)
        assert home.backend == backend
        assert [each.device_id for each in home.allow_list().devices] == [peer.device_id]
        assert len(tools.handles("nv-index")) == places
    assert [path.name.split(".", 1)[1] for path in sorted((directory / "keys").iterdir())] == [
        "key.json",
        "newest.json",
    ]


def test_after_a_failed_init_nothing_is_left_in_the_tpm(
    tmp_path: Path, tpm: SoftwareTpm, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise HomeUnwritable("no space left on device")

    monkeypatch.setattr("amesh_core.io.staging.commit", full)
    at = settings(tmp_path / "amesh", tpm)
    with pytest.raises(HomeUnwritable):
        Home.create(at, name="prod-api", backend="tpm2", now=NOW)
    assert tools.handles("nv-index") == tools.handles("transient") == []
    assert [path.name for path in (tmp_path / "amesh").iterdir()] == [".lock"]

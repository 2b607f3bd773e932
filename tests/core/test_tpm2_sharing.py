"""Keys in a TPM that others use, too: threads, processes, few places, an owner, lockouts."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from amesh_core.errors import (
    KeyFileDamaged,
    TpmLockedOut,
    TpmOutOfMemory,
    TpmOwnerPassword,
)
from amesh_core.identity import DeviceKey, device_id
from amesh_core.keystore import Means, tpm2
from amesh_core.wire.encoding import instant
from amesh_core.wire.tss2 import STORAGE_ROOT_KEY, LoadableKey
from tests.support.cli import environment
from tests.support.swtpm import SoftwareTpm, resource_manager
from tests.support.tpm_device import Device, Tools, check, flip

PASSWORD: Final = "owner-password"
_THREADS: Final = 8

# --- several at a time ------------------------------------------------------------------


def test_eight_threads_with_two_keys(device: Device) -> None:
    keys = [device.create(), device.create()]
    seals = [key.mac(b"list") for key in keys]

    def work(number: int) -> None:
        key, seal = keys[number % 2], seals[number % 2]
        for turn in range(10):
            check(key, b"%d" % turn)
            assert key.mac(b"list") == seal

    with ThreadPoolExecutor(_THREADS) as threads:
        for future in [threads.submit(work, number) for number in range(_THREADS)]:
            future.result()


IMPORTS: Final = """
import os, signal, sys
from pathlib import Path
from amesh_core import crypto
from amesh_core.keystore import Means, tpm2
from amesh_core.keystore.tpm2.chip import chip

directory, tcti, alias, public = sys.argv[1:]
"""

SIGNS: Final = f"""{IMPORTS}
key = tpm2.open_store(Path(directory), Means(bytes, tcti)).load(alias, bytes.fromhex(public))
crypto.verify(key.public, key.sign(b"before"), b"before")
"""

FORKS: Final = """
# As threads that sign, and look for a TPM, while another one forks.
locks = [chip(tcti)._lock, sys.modules[chip.__module__]._chips_lock]
for lock in locks:
    lock.acquire()
child = os.fork()
if child == 0:
    signal.alarm(30)
    assert not chip(tcti).is_open
    crypto.verify(key.public, key.sign(b"child"), b"child")
    key.mac(b"child")
    sys.exit(7)  # tidies up, as a worker of a server does
for lock in locks:
    lock.release()
for number in range(100):
    crypto.verify(key.public, key.sign(b"%d" % number), b"%d" % number)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
crypto.verify(key.public, key.sign(b"after"), b"after")
"""


def run(device: Device, key: DeviceKey, program: str, tcti: str, *, preamble: str = SIGNS) -> None:
    """A program in a process of its own, to its good end; with SIGNS it has the key loaded."""
    arguments = [str(device.directory), tcti, device_id(key.public), key.public.hex()]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", preamble + program, *arguments],
        env=environment(device.directory, PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_process_leaves_nothing_behind(device: Device, tpm: SoftwareTpm) -> None:
    """Nobody else would tidy up a TPM without a resource manager."""
    key = device.create()
    device.chip.close()
    run(device, key, "", tpm.tcti)
    assert tpm.handles("transient") == []


def test_a_forked_child_opens_its_own(device: Device, tpm: SoftwareTpm) -> None:
    key = device.create()
    device.chip.close()
    with resource_manager(tpm) as manager:
        run(device, key, FORKS, manager.tcti)
    assert tpm.handles("transient") == []


DEVICE_COMES_BACK: Final = """
import subprocess
from tests.support.swtpm import CharacterDevice
from amesh_core.errors import TpmError

socket, path = Path(tcti.removeprefix("swtpm:path=")), Path(directory) / "tpm"

def power_cycle():
    subprocess.run(["tpm2_flushcontext", "-t", "-T", tcti], check=True)

device = CharacterDevice(socket, path)
means = Means(bytes, f"device:{path}")
assert tpm2.why_not(means) is None
key = tpm2.open_store(Path(directory), means).load(alias, bytes.fromhex(public))
seal = key.mac(b"list")
for number in range(20):
    crypto.verify(key.public, key.sign(b"%d" % number), b"%d" % number)

def busy(*_):
    raise OSError(16, "Device or resource busy")

# A bare device can be opened only once, and is ours.
os.open, real = busy, os.open
assert tpm2.why_not(means) is None
os.open = real
device.close()
try:
    key.sign(b"gone")
except TpmError as error:
    assert "does not answer" in str(error), error
else:
    raise AssertionError("signed without a TPM")
assert "there is no" in tpm2.why_not(means)
power_cycle()
device = CharacterDevice(socket, path)
crypto.verify(key.public, key.sign(b"back"), b"back")
assert key.mac(b"list") == seal
device.close()
power_cycle()
device = CharacterDevice(socket, path)
crypto.verify(key.public, key.sign(b"at once"), b"at once")
chip(means.tpm_tcti).close()
device.close()
"""


def test_a_device_that_goes_away_and_comes_back(device: Device, tpm: SoftwareTpm) -> None:
    """Over a connection that stays open, as that to /dev/tpmrm0 does."""
    key = device.create()
    device.chip.close()
    run(device, key, DEVICE_COMES_BACK, tpm.tcti, preamble=IMPORTS)
    assert tpm.handles("transient") == []


# --- the few places of a TPM ------------------------------------------------------------


def test_a_thousand_operations_leave_no_handle(device: Device, tpm: SoftwareTpm) -> None:
    keys = [device.create(), device.create()]
    for number in range(1000):
        key = keys[number % 10 == 0]
        match number % 50:
            case 0:
                device.load(key)
            case 1:
                device.remember(key, number)
            case 2:
                device.newest(key)
            case 3:
                device.delete(device.create())
            case 4:
                with pytest.raises(KeyFileDamaged):
                    device.store().load(device_id(keys[0].public), keys[1].public)
            case 5 | 6 | 7:
                key.mac(b"message")
            case _:
                key.sign(b"message")
    assert len(tpm.handles("transient")) <= 2
    assert tpm.handles("loaded-session") == []
    assert len(tpm.handles("nv-index")) == 2
    device.chip.close()
    assert tpm.handles("transient") == []


def test_failures_leave_no_handle(device: Device, tools: Tools) -> None:
    key = device.create()
    flip(device.pem(key))
    for _ in range(10):  # three would be all there is
        with pytest.raises(KeyFileDamaged):
            device.load(key)
    assert tools.handles("transient") == []


def fill(tpm: SoftwareTpm, directory: Path, count: int) -> None:
    # Other programs' keys, which stay where they are: there is no resource manager.
    for number in range(count):
        context = str(directory / f"{number}.ctx")
        tpm.run("tpm2_createprimary", "-C", "n", "-G", "ecc256", "-c", context)


def test_out_of_places(device: Device, tpm: SoftwareTpm, tmp_path: Path) -> None:
    key = device.create()
    device.chip.close()
    fill(tpm, tmp_path, 3)
    with pytest.raises(TpmOutOfMemory):
        device.load(key)
    with pytest.raises(TpmOutOfMemory):
        key.sign(b"message")
    with pytest.raises(TpmOutOfMemory):
        device.create()
    assert len(tpm.handles("transient")) == 3
    tpm.run("tpm2_flushcontext", "-t")
    check(key)
    device.chip.close()


def test_a_third_key_takes_the_place_of_the_one_used_longest_ago(
    device: Device, tpm: SoftwareTpm
) -> None:
    """The kernel gives a process three places, and says "I/O error" to a fourth key."""
    keys = [device.create() for _ in range(3)]
    line = device.chip.use(lambda line: line)
    for key in (*keys, keys[2], keys[0], keys[2]):
        check(key)
        assert len(tpm.handles("transient")) <= 2
    assert device.chip.use(lambda line: line) is line


def test_kept_keys_make_room_for_other_keys(device: Device, tpm: SoftwareTpm) -> None:
    key, other = device.create(), device.create()
    key.mac(b"list")
    check(key)
    assert len(tpm.handles("transient")) == 2
    fill(tpm, device.directory, 1)
    # Three places are taken, two of them by us: only giving those back helps.
    check(other)
    device.chip.close()


# --- owners and lockouts ----------------------------------------------------------------


def test_an_owner_with_a_password_and_no_storage_root_key(device: Device, tools: Tools) -> None:
    key = device.create()
    tools("tpm2_changeauth", "-c", "owner", PASSWORD)
    reason = tpm2.why_not(Means(bytes, device.tcti))
    assert reason is not None
    assert "password" in reason
    assert "0x81000001" in reason
    with pytest.raises(TpmOwnerPassword):
        device.load(key)
    with pytest.raises(TpmOwnerPassword):
        device.create()
    assert tools.handles("transient") == []


def test_an_owner_with_a_password_who_made_a_storage_root_key(
    device: Device, tools: Tools, caplog: pytest.LogCaptureFixture
) -> None:
    """Keys work; what the TPM cannot remember, a sealed file does, and the log says so."""
    tools("tpm2_changeauth", "-c", "owner", PASSWORD)
    tools.storage_root_key(password=PASSWORD)
    assert tpm2.why_not(Means(bytes, device.tcti)) is None
    key = device.create()
    check(device.load(key))
    assert "owner has a password" in caplog.text
    assert device.index(key) is None
    assert device.newest(key) is None
    device.remember(key, 5)
    device.remember(key, 4)
    assert device.newest(key) == instant(5)
    assert (device.keys / f"{device_id(key.public)}.newest.json").exists()
    assert tools.handles("nv-index") == []
    device.delete(key)
    assert list(device.keys.iterdir()) == []


def test_a_password_set_later(
    device: Device, tools: Tools, caplog: pytest.LogCaptureFixture
) -> None:
    tools.storage_root_key()
    key = device.create()
    device.remember(key, 5)
    tools("tpm2_changeauth", "-c", "owner", PASSWORD)
    check(device.load(key))
    device.remember(key, 6)  # only making a place needs the owner
    assert device.newest(key) == instant(6)
    device.delete(key)
    assert list(device.keys.iterdir()) == []
    assert "24 bytes stay in the TPM" in caplog.text
    assert len(tools.handles("nv-index")) == 1


def lock_out(tools: Tools) -> None:
    """Wrong passwords until the TPM takes none any more."""
    tools("tpm2_dictionarylockout", "-s", "-n", "1", "-t", "1000", "-l", "1000")
    tools("tpm2_createprimary", "-C", "n", "-G", "ecc256:aes128cfb", "-c", "parent.ctx")
    tools("tpm2_flushcontext", "-t")
    make = ("tpm2_create", "-C", "parent.ctx", "-G", "ecc256", "-p", "right", "-c", "victim.ctx")
    tools(*make)
    tools("tpm2_flushcontext", "-t")
    with pytest.raises(AssertionError, match="authorization HMAC check failed"):
        tools("tpm2_sign", "-c", "victim.ctx", "-p", "wrong", "-o", "out", "victim.ctx")
    tools("tpm2_flushcontext", "-t")
    assert "inLockout:                 1" in tools("tpm2_getcap", "properties-variable")


def test_our_keys_sign_in_a_lockout(device: Device, tools: Tools) -> None:
    key = device.create()
    device.remember(key, 5)
    lock_out(tools)
    check(device.load(key))
    device.remember(key, 6)
    assert device.newest(key) == instant(6)
    check(device.create())


def test_a_storage_root_key_that_is_locked_out(device: Device, tools: Tools) -> None:
    tools.storage_root_key(
        "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|decrypt"
    )
    key = device.create()
    lock_out(tools)
    with pytest.raises(TpmLockedOut):
        device.load(key)
    with pytest.raises(TpmLockedOut):
        device.create()
    tools("tpm2_dictionarylockout", "--clear-lockout")
    check(device.load(key))


def test_a_storage_root_key_made_as_the_documents_say(device: Device, tools: Tools) -> None:
    """docs/keys.md and amesh-init(1): for owners with a password, and safe from lockouts."""
    root = Path(__file__).parents[2]
    text = (root / "docs/keys.md").read_text().split("<!-- example: storage-root-key -->")[1]
    manual = (root / "man/text/amesh-init.1.txt").read_text()
    commands = re.findall(r"^\$ (.+)$", text.split("```")[1], re.MULTILINE)
    assert [command.split()[0] for command in commands] == [
        "tpm2_createprimary",
        "tpm2_evictcontrol",
    ]
    tools("tpm2_changeauth", "-c", "owner", PASSWORD)
    for command in commands:
        words = shlex.split(command.replace("$PASSWORD", PASSWORD))
        tools(*words)
        for word in words:
            assert word.replace(PASSWORD, "PASSWORD") in manual
    tools("tpm2_flushcontext", "-t")
    key = device.create()
    assert LoadableKey.parse(device.pem(key).read_bytes()).parent == STORAGE_ROOT_KEY
    lock_out(tools)
    check(device.load(key))

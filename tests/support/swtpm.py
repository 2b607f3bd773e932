"""A real TPM 2.0 of one's own, in software: killed, started again, cleared, shared.

Whatever uses it shares its three places for keys, as on a bare /dev/tpm0; a `resource_manager`
in front of it gives each process its own, as /dev/tpmrm0 does.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PATIENCE_SECONDS: Final = 20
_UCRED: Final = struct.Struct("3i")  # pid, uid, gid; unix(7)
_END: Final = b"the end"
_HEADER_BYTES: Final = 10  # tag, length, code (TPM 2.0 Library Specification, Part 1, 18.3)


class SoftwareTpm:
    """`swtpm` on a unix socket, its memory in a directory."""

    def __init__(self, directory: Path) -> None:
        program = shutil.which("swtpm")
        assert program, "these tests need swtpm (Debian: apt-get install swtpm)"
        self._program = program
        self._state = directory / "state"
        self._state.mkdir()
        self.socket = directory / "tpm"
        self.control = Path(f"{self.socket}.ctrl")
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def tcti(self) -> str:
        """What AMESH_TPM_TCTI and tpm2-tools call it."""
        return f"swtpm:path={self.socket}"

    def start(self) -> None:
        """Start it with what it remembers, and return when it takes connections."""
        for path in (self.socket, self.control):
            path.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._program, "socket", "--tpm2", "--tpmstate", f"dir={self._state}"),
                    *("--server", f"type=unixio,path={self.socket}"),
                    *("--ctrl", f"type=unixio,path={self.control}"),
                    *("--flags", "not-need-init,startup-clear"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for path in (self.socket, self.control):
            _wait_for(path, self._process, self._log)

    def kill(self) -> None:
        """SIGKILL, as a chip that loses its power."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(PATIENCE_SECONDS)

    def restart(self) -> None:
        """Kill it and start it again with what it remembers."""
        self.kill()
        self.start()

    def exchange(self) -> None:
        """Put a new one in its place, which remembers nothing."""
        self.kill()
        for path in self._state.iterdir():
            path.unlink()
        self.start()

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """What a program of tpm2-tools prints, or OpenSSL with its TPM provider."""
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=cwd,
            env=os.environ | {"TPM2TOOLS_TCTI": self.tcti, "TPM2OPENSSL_TCTI": self.tcti},
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def handles(self, kind: str) -> list[str]:
        """What `tpm2_getcap handles-KIND` lists: transient, persistent, nv-index, ..."""
        return self.run("tpm2_getcap", f"handles-{kind}").replace("- ", "").split()

    def make_storage_root_key(self, attributes: str = "", password: str = "") -> None:
        """Make a key persistent at 0x81000001, as distributions and administrators do."""
        made = self.socket.with_name("srk.ctx")
        owner = ["-C", "o", *(["-P", password] if password else [])]
        kind = ["-G", "ecc256:aes128cfb", *(["-a", attributes] if attributes else [])]
        self.run("tpm2_createprimary", *owner, *kind, "-c", str(made))
        self.run("tpm2_flushcontext", "-t")
        self.run("tpm2_evictcontrol", *owner, "-c", str(made), "0x81000001")
        self.run("tpm2_flushcontext", "-t")


def _wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(path))
            return
        assert process.poll() is None, f"swtpm ended: {log.read_text()}"
        assert time.monotonic() < deadline, f"swtpm is not ready: {log.read_text()}"
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.005)


@contextmanager
def software_tpm() -> Iterator[SoftwareTpm]:
    """A running one, new; it is gone afterwards."""
    # Not in pytest's directory: the path of a unix socket has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="amesh-tpm-") as directory:
        tpm = SoftwareTpm(Path(directory))
        try:
            tpm.start()
            yield tpm
        finally:
            tpm.kill()


class CharacterDevice:
    """The TPM behind a socket as a file like /dev/tpm0, over a terminal that is none.

    For processes that lead no session: the terminal would become theirs.
    """

    def __init__(self, tpm: Path, path: Path) -> None:
        self._tpm = tpm
        self._path = path
        self._ours, self._theirs = os.openpty()
        for end in (self._ours, self._theirs):
            tty.setraw(end)
        path.symlink_to(os.ttyname(self._theirs))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take it away, from those who have it open, too."""
        self._path.unlink()
        os.write(self._theirs, _END)
        self._thread.join(PATIENCE_SECONDS)
        os.close(self._ours)
        os.close(self._theirs)

    def _serve(self) -> None:
        while True:
            command = b""
            while len(command) < _HEADER_BYTES or len(command) < int.from_bytes(command[2:6]):
                command += os.read(self._ours, 4096)
                if command == _END:
                    return
            os.write(self._ours, _exchange(self._tpm, command, _message))


class ResourceManager:
    """Gives every process places for keys of its own, as the kernel does with /dev/tpmrm0."""

    def __init__(self, tpm: SoftwareTpm, directory: Path) -> None:
        self._tpm = tpm
        self._socket = directory / "shared"
        self._turn = threading.Lock()
        self._commands = _commands(tpm)
        self._places: dict[int, _Places] = {}
        self._listeners: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        for path, serve in (
            (self._socket, self._command),
            (Path(f"{self._socket}.ctrl"), self._control),
        ):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen(64)
            self._listeners.append(listener)
            self._threads.append(threading.Thread(target=self._accept, args=(listener, serve)))
            self._threads[-1].start()

    @property
    def tcti(self) -> str:
        """What AMESH_TPM_TCTI calls it."""
        return f"swtpm:path={self._socket}"

    def close(self) -> None:
        """End it."""
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                client.settimeout(PATIENCE_SECONDS)
                with suppress(OSError, EOFError), client, self._turn:
                    serve(client)

    # tpm2-tss makes a connection for every command, so who calls is known by the process.

    def _command(self, client: socket.socket) -> None:
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        process, _, _ = _UCRED.unpack(credentials)
        places = self._places.setdefault(process, _Places(self._tpm, self._commands))
        client.sendall(places.perform(_message(client)))

    def _control(self, client: socket.socket) -> None:
        while command := client.recv(4096):
            client.sendall(_exchange(self._tpm.control, command, lambda line: line.recv(4096)))


class _Places:
    """The keys of one caller, put aside except while a command needs them.

    So little of a resource manager as our commands and those of tpm2-tools need (TPM 2.0
    Library Specification, Part 1, section 30; codes of Part 2).
    """

    def __init__(self, tpm: SoftwareTpm, commands: dict[int, _Command]) -> None:
        self._tpm = tpm
        self._commands = commands
        self._aside: dict[bytes, bytes] = {}
        self._names = (0x80FF_FFFF - number for number in itertools.count())

    def perform(self, command: bytes) -> bytes:
        code, handles = int.from_bytes(command[6:10], "big"), command[10:14]
        if code == _FLUSH_CONTEXT and self._aside.pop(handles, None) is not None:
            return _DONE
        kind = self._commands.get(code, _Command(0, False))
        parts = [command[:10]]
        loaded = []
        for start in range(10, 10 + 4 * kind.handles, 4):
            handle = command[start : start + 4]
            if handle in self._aside:
                handle = self._load(self._aside[handle])
                loaded.append(handle)
            parts.append(handle)
        answer = _ask(self._tpm, b"".join([*parts, command[10 + 4 * kind.handles :]]))
        for handle in loaded:
            self._flush(handle)
        if kind.gives_handle and answer[6:10] == bytes(4) and answer[10] == _TRANSIENT:
            answer = answer[:10] + self._put_aside(answer[10:14]) + answer[14:]
        return answer

    def _put_aside(self, handle: bytes) -> bytes:
        name = next(self._names).to_bytes(4, "big")
        saved = _ask(self._tpm, _command(_CONTEXT_SAVE, handle))
        assert saved[6:10] == bytes(4), saved.hex()
        self._aside[name] = saved[10:]
        self._flush(handle)
        return name

    def _load(self, context: bytes) -> bytes:
        answer = _ask(self._tpm, _command(_CONTEXT_LOAD, context))
        assert answer[6:10] == bytes(4), answer.hex()
        return answer[10:14]

    def _flush(self, handle: bytes) -> None:
        _ask(self._tpm, _command(_FLUSH_CONTEXT, handle))


@dataclass(frozen=True)
class _Command:
    handles: int
    gives_handle: bool


_NO_SESSIONS: Final = b"\x80\x01"
_DONE: Final = _NO_SESSIONS + (10).to_bytes(4, "big") + bytes(4)
_TRANSIENT: Final = 0x80
_CONTEXT_LOAD, _CONTEXT_SAVE, _FLUSH_CONTEXT, _GET_CAPABILITY = 0x161, 0x162, 0x165, 0x17A
_CAP_COMMANDS: Final = 2


def _commands(tpm: SoftwareTpm) -> dict[int, _Command]:
    """How many handles each command takes, and whether it gives one: TPMA_CC, Part 2, 8.9."""
    asked = [_CAP_COMMANDS, 0, 0xFFFF]
    body = b"".join(number.to_bytes(4, "big") for number in asked)
    listed = _ask(tpm, _command(_GET_CAPABILITY, body))[19:]
    words = [int.from_bytes(listed[at : at + 4], "big") for at in range(0, len(listed), 4)]
    return {word & 0xFFFF: _Command(word >> 25 & 7, bool(word >> 28 & 1)) for word in words}


def _command(code: int, body: bytes) -> bytes:
    return _NO_SESSIONS + (10 + len(body)).to_bytes(4, "big") + code.to_bytes(4, "big") + body


def _ask(tpm: SoftwareTpm, command: bytes) -> bytes:
    return _exchange(tpm.socket, command, _message)


def _exchange(path: Path, sent: bytes, receive: Callable[[socket.socket], bytes]) -> bytes:
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(PATIENCE_SECONDS)
        line.connect(str(path))
        line.sendall(sent)
        return receive(line)


def _message(line: socket.socket) -> bytes:
    head = _exactly(line, _HEADER_BYTES)
    return head + _exactly(line, int.from_bytes(head[2:6], "big") - _HEADER_BYTES)


def _exactly(line: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = line.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


@contextmanager
def resource_manager(tpm: SoftwareTpm) -> Iterator[ResourceManager]:
    """A running one."""
    with tempfile.TemporaryDirectory(prefix="amesh-tpm-") as directory:
        manager = ResourceManager(tpm, Path(directory))
        try:
            yield manager
        finally:
            manager.close()

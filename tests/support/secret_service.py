"""A real GNOME Keyring of one's own: on a bus of its own, in a directory of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Final

import secretstorage
from jeepney import MatchRule, message_bus
from jeepney.io.blocking import Proxy, open_dbus_connection

PATIENCE_SECONDS: Final = 30
BUS_VARIABLE: Final = "DBUS_SESSION_BUS_ADDRESS"
_NAME: Final = "org.freedesktop.secrets"
_PASSWORD: Final = b"correct horse\n"

# Nothing on this bus starts by itself, so nobody asks a question on some screen, and what was
# killed stays away.
_BUS: Final = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


class SecretService:
    """`gnome-keyring-daemon` and its `dbus-daemon`, each of which can be killed and started."""

    def __init__(self, directory: Path) -> None:
        for program in ("dbus-daemon", "gnome-keyring-daemon"):
            assert shutil.which(program), (
                f"these tests need {program} (Debian: apt-get install dbus gnome-keyring)"
            )
        self.directory = directory
        self.data = directory / "data"
        self.runtime = directory / "run"
        self.data.mkdir()
        self.runtime.mkdir(mode=0o700)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def bus(self) -> str:
        """What DBUS_SESSION_BUS_ADDRESS has to be; this process's must be it as well."""
        return f"unix:path={self.directory / 'bus'}"

    def start(self) -> None:
        """Start bus and keyring, the keyring unlocked."""
        self.start_bus()
        self.start_keyring()

    def start_bus(self) -> None:
        """Start the bus, and return when it takes connections."""
        configuration = self.directory / "bus.conf"
        configuration.write_text(_BUS.format(socket=self.directory / "bus"))
        command = ["dbus-daemon", f"--config-file={configuration}"]
        process = subprocess.Popen(
            [*command, "--nofork", "--nopidfile", "--print-address=1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._processes["bus"] = process
        assert _output(process).readline().startswith(b"unix:path="), "no bus"

    def start_keyring(self, password: bytes = _PASSWORD) -> None:
        """Start the keyring, unlocked by its password, and return when it answers."""
        environment = os.environ | {
            "XDG_DATA_HOME": str(self.data),
            "XDG_RUNTIME_DIR": str(self.runtime),
            BUS_VARIABLE: self.bus,
        }
        with closing(open_dbus_connection(self.bus)) as connection:
            rule = MatchRule(member="NameOwnerChanged", type="signal")
            rule.add_arg_condition(0, _NAME)
            Proxy(message_bus, connection, timeout=PATIENCE_SECONDS).AddMatch(rule)
            with connection.filter(rule) as signals:
                process = subprocess.Popen(
                    ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                )
                self._processes["keyring"] = process
                assert process.stdin is not None
                process.stdin.write(password)
                process.stdin.close()
                connection.recv_until_filtered(signals, timeout=PATIENCE_SECONDS)

    def lock(self) -> None:
        """Lock the keyring, as its owner does who leaves."""
        with closing(secretstorage.dbus_init()) as connection:
            secretstorage.get_default_collection(connection).lock()

    def forget_everything(self) -> None:
        """Delete the keyring itself, so that there is none to put anything into."""
        with closing(secretstorage.dbus_init()) as connection:
            secretstorage.get_default_collection(connection).delete()

    def secrets(self) -> dict[str, bytes]:
        """Account -> secret of everything that amesh keeps there."""
        with closing(secretstorage.dbus_init()) as connection:
            collection = secretstorage.get_default_collection(connection)
            items = collection.search_items({"service": "amesh"})
            return {item.get_attributes()["username"]: item.get_secret() for item in items}

    def put(self, account: str, secret: bytes) -> None:
        """Put bytes that are no text into the place of an item of amesh."""
        with closing(secretstorage.dbus_init()) as connection:
            collection = secretstorage.get_default_collection(connection)
            (item,) = collection.search_items({"service": "amesh", "username": account})
            item.set_secret(secret, "application/octet-stream")

    def kill_keyring(self) -> None:
        """SIGKILL."""
        self._kill("keyring")

    def kill(self) -> None:
        """SIGKILL both; without a bus, nobody finds the keyring."""
        for name in list(self._processes):
            self._kill(name)

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait(PATIENCE_SECONDS)
        if process.stdout is not None:
            process.stdout.close()


def _output(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


@contextmanager
def secret_service() -> Iterator[SecretService]:
    """A running, unlocked keyring, which programs find through DBUS_SESSION_BUS_ADDRESS."""
    # Not in pytest's directory: the path of a socket has to be short.
    with tempfile.TemporaryDirectory(prefix="amesh-") as directory:
        before = os.environ.get(BUS_VARIABLE)
        service = SecretService(Path(directory))
        os.environ[BUS_VARIABLE] = service.bus
        try:
            service.start()
            yield service
        finally:
            service.kill()
            if before is None:
                del os.environ[BUS_VARIABLE]
            else:
                os.environ[BUS_VARIABLE] = before

"""The relay's command line and environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from ipaddress import ip_network
from pathlib import Path

import pytest

from amesh_core.errors import UsageError
from amesh_relay import config
from amesh_relay.config import Config
from amesh_relay.limits import Limits
from amesh_relay.options import ON_THE_COMMAND_LINE_ONLY

LOOPBACK = ip_network("::1")


def read(argv: list[str], environ: dict[str, str] | None = None) -> Config:
    """What the relay would run with."""
    return config.load(argv, environ or {})


def test_the_defaults() -> None:
    assert read([]) == Config()
    assert (Config().host, Config().port, Config().state) == (None, 3001, "memory")


EVERYTHING = Config(
    host="127.0.0.1",
    port=0,
    certfile=Path("chain.pem"),
    keyfile=Path("key.pem"),
    metrics=("::1", 9100),
    access_token_file=Path("token"),
    trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("fd00::1")),
    proxy_protocol=True,
    state="redis://localhost",
    limits=Limits(
        max_connections=7,
        max_connections_per_address=6,
        max_sessions=5,
        max_sessions_per_address=4,
        max_watches=3,
        max_messages_per_second=2,
    ),
    drain_seconds=0,
    log_level="debug",
    log_format="json",
)
ARGV = [
    *("--host", "127.0.0.1", "--port", "0", "--certfile", "chain.pem", "--keyfile", "key.pem"),
    *("--metrics", "[::1]:9100", "--access-token-file", "token"),
    *("--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "fd00::1", "--proxy-protocol"),
    *("--state", "redis://localhost", "--max-connections", "7"),
    *("--max-connections-per-address", "6", "--max-sessions", "5"),
    *("--max-sessions-per-address", "4", "--max-watches", "3", "--max-messages-per-second", "2"),
    *("--drain-seconds", "0", "--log-level", "debug", "--log-format", "json"),
]
FILE = """
host = "127.0.0.1"
port = 0
certfile = "chain.pem"
keyfile = "key.pem"
metrics = "[::1]:9100"
access-token-file = "token"
trusted-proxy = ["10.0.0.0/8", "fd00::1"]
proxy-protocol = true
state = "redis://localhost"
max-connections = 7
max-connections-per-address = 6
max-sessions = 5
max-sessions-per-address = 4
max-watches = 3
max-messages-per-second = 2
drain-seconds = 0
log-level = "debug"
log-format = "json"
"""


def environment() -> dict[str, str]:
    """The same settings as variables, by the rule that the help text states."""
    return {
        f"AMESH_RELAY_{name.replace('-', '_').upper()}": (
            ",".join(value) if isinstance(value, list) else str(value).lower()
        )
        for name, value in tomllib.loads(FILE).items()
    }


def test_every_setting_on_the_command_line() -> None:
    assert read(ARGV) == EVERYTHING


def test_every_setting_in_the_environment() -> None:
    assert read([], environment()) == EVERYTHING


@pytest.mark.parametrize("by", ["option", "variable"])
def test_every_setting_in_a_file(tmp_path: Path, by: str) -> None:
    path = tmp_path / "relay.toml"
    path.write_text(FILE)
    if by == "option":
        assert read(["--config", str(path)]) == EVERYTHING
    else:
        assert read([], {"AMESH_RELAY_CONFIG": str(path)}) == EVERYTHING


def test_the_three_places_have_the_same_settings() -> None:
    options = {action.dest for action in config.parser()._actions} - ON_THE_COMMAND_LINE_ONLY
    # `unix` excludes `host`, so it is not among those above.
    assert {name.replace("-", "_") for name in tomllib.loads(FILE)} | {"unix"} == options


def test_the_command_line_is_over_the_environment_is_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text('port = 1\nmax-sessions = 1\nmax-watches = 1\ntrusted-proxy = "10.0.0.1"')
    environ = {
        "AMESH_RELAY_PORT": "2",
        "PORT": "9",
        "AMESH_RELAY_MAX_SESSIONS": "2",
        "AMESH_RELAY_TRUSTED_PROXY": "10.0.0.2, 10.0.0.3",
        "AMESH_RELAY_CONFIG": "not this one",
    }
    argv = ["--config", str(path), "--port", "3"]
    found = read(argv, environ)
    assert (found.port, found.limits.max_sessions, found.limits.max_watches) == (3, 2, 1)
    assert found.trusted_proxies == (ip_network("10.0.0.2"), ip_network("10.0.0.3"))
    assert read(["--trusted-proxy", "::1"], environ | {"AMESH_RELAY_CONFIG": str(path)}) == (
        Config(port=2, limits=Limits(max_sessions=2, max_watches=1), trusted_proxies=(LOOPBACK,))
    )


def test_what_platforms_set_for_every_service() -> None:
    assert read([], {"HOST": "192.0.2.1", "PORT": "8080"}) == Config(host="192.0.2.1", port=8080)
    assert read(["--port", "0"], {"HOST": "", "PORT": "8080"}) == Config(port=0)
    assert read([], {"PORT": "8080", "AMESH_RELAY_PORT": "8081"}).port == 8081


def test_a_setting_of_the_command_line_only_is_not_read_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    for name in ("config", "check-config", "stop-on-eof", "version", "help"):
        path.write_text(f"{name} = true")
        with pytest.raises(UsageError, match=f"{name} is not a setting"):
            read(["--config", str(path)])
        variable = f"AMESH_RELAY_{name.replace('-', '_').upper()}"
        if name != "config":
            assert read([], {variable: "1"}) == Config()


@pytest.mark.parametrize(
    ("argv", "environ", "said"),
    [
        (["--port", "65536"], {}, "argument --port: '65536' is not a port"),
        (["--port", "-1"], {}, "argument --port"),
        (["--port", "\u0663"], {}, "argument --port: '\u0663' is not a port"),
        ([], {"PORT": "http"}, "environment variable PORT: 'http' is not a port"),
        (["--trusted-proxy", "proxy"], {}, "argument --trusted-proxy: 'proxy' does not appear"),
        (["--trusted-proxy", "10.0.0.1/8"], {}, "10.0.0.1/8 has host bits set"),
        (["--max-connections", "0"], {}, "argument --max-connections: '0' is not a number"),
        (["--max-sessions", "many"], {}, "argument --max-sessions: 'many' is not a number"),
        (["--drain-seconds", "-1"], {}, "argument --drain-seconds"),
        (["--metrics", "9100"], {}, "argument --metrics: '9100' is not HOST:PORT"),
        (["--metrics", "localhost:x"], {}, "argument --metrics: 'x' is not a port"),
        (["--max-con", "5"], {}, "unrecognized arguments: --max-con 5"),
        (["--log-level", "trace"], {}, "argument --log-level: invalid choice: 'trace'"),
        ([], {"AMESH_RELAY_LOG_FORMAT": "xml"}, "variable AMESH_RELAY_LOG_FORMAT: invalid choice"),
        ([], {"AMESH_RELAY_PROXY_PROTOCOL": "2"}, "'2' is neither true nor false"),
        ([], {"AMESH_RELAY_CONFIG": "/nowhere"}, "/nowhere: no such file or directory"),
        (["3001"], {}, "unrecognized arguments: 3001"),
        (["--keyfile", "k"], {}, "--keyfile needs --certfile"),
        (["--host", "h", "--unix", "u"], {}, "--unix and --host exclude each other"),
        (["--proxy-protocol"], {}, "--proxy-protocol needs --trusted-proxy"),
    ],
)
def test_what_cannot_work_is_said(
    argv: list[str], environ: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        config.read(argv, environ)
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port = 65536", "port: '65536' is not a port"),
        ("port = 3.5", "port is neither text nor a whole number"),
        ("port = [1]", "port is neither text nor a whole number"),
        ("prot = 1", "prot is not a setting"),
        ("max_sessions = 1", "max_sessions is not a setting"),
        ("[limits]\nmax-sessions = 1", "limits is not a setting"),
        ("port = ", "Invalid value"),
        ("trusted-proxy = ['10.0.0.0/8', 'x']", "trusted-proxy: 'x' does not appear"),
    ],
)
def test_a_mistake_in_a_file_is_said_to_be_there(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "relay.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        read(["--config", str(path)])
    assert str(raised.value).startswith(str(path))
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("port = []", "port"),
        ('port = ["1", "2"]', "port"),
        ("proxy-protocol = []", "proxy-protocol"),
        ('proxy-protocol = ["true", "false"]', "proxy-protocol"),
    ],
)
def test_a_list_for_one_value(tmp_path: Path, text: str, name: str) -> None:
    """Of several the last would count, and of none nothing would, as if it were not there."""
    path = tmp_path / "relay.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"{name} takes one value, and no list"):
        read(["--config", str(path)])
    path.write_text('port = ["1"]\ntrusted-proxy = []')
    assert read(["--config", str(path)]) == Config(port=1)


def test_a_file_that_nobody_would_write(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text("port = " + "[" * 100_000)
    with pytest.raises(UsageError, match=r"relay\.toml: lists in lists"):
        read(["--config", str(path)])


def test_variables_that_are_no_settings() -> None:
    """Most likely mistyped, and a relay that trusts no proxy looks as if it worked."""
    others = {"AMESH_RELAY_URL": "", "AMESH_RELAY_TOKEN": "", "AMESH_RELAY_TOKEN_FILE": ""}
    environ = environment() | others | {"AMESH_RELAY_CONFIG": "", "AMESH_RELAYS": "", "PATH": ""}
    assert config.unknown_variables(environ) == []
    wrong = {"AMESH_RELAY_TRUSTED_PROXIES": "10.0.0.0/8", "AMESH_RELAY_CHECK_CONFIG": "1"}
    assert config.unknown_variables(environ | wrong) == sorted(wrong)


@pytest.mark.parametrize("check", [("--check-config",), ("--stop-on-eof", "--port", "0")])
def test_they_are_said(check: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "amesh_relay", *check],
        env={**os.environ, "AMESH_RELAY_TRUSTED_PROXIES": "192.0.2.0/24"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0
    assert "no settings, and not read: AMESH_RELAY_TRUSTED_PROXIES" in done.stderr
    assert "192.0.2.0" not in done.stderr


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_bytes(b"port = '\xff'")
    with pytest.raises(UsageError, match="utf-8"):
        read(["--config", str(path)])


def test_checking_only() -> None:
    assert config.read(["--check-config", "--port", "1"], {}).check_only
    assert not config.read(["--port", "1"], {}).check_only


def test_a_password_does_not_print() -> None:
    assert "secret" not in repr(read(["--state", "redis://:secret@host"]))


def test_help_names_every_option_and_the_exit_statuses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        config.read(["--help"], {})
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for action in config.parser()._actions:
        assert action.option_strings[-1] in shown
        assert action.help
    assert "exit status:" in shown
    assert "HOST and PORT" in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        config.read(["--version"], {"PORT": "nonsense"})
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("amesh-relay 0.")

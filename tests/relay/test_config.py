"""The relay's command line and environment."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from amesh_relay import config
from amesh_relay.config import Config
from amesh_relay.limits import Limits


def test_the_defaults() -> None:
    assert config.read([], {}) == Config(
        host=None,
        port=3001,
        limits=Limits(),
        trusted_proxies=(),
        log_level="info",
        stop_on_eof=False,
    )


def test_every_option() -> None:
    argv = ["--host", "127.0.0.1", "--port", "0", "--log-level", "debug", "--stop-on-eof"]
    argv += ["--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "fd00::1"]
    argv += ["--max-connections", "7", "--max-connections-per-address", "6", "--max-sessions", "5"]
    assert config.read(argv, {"HOST": "192.0.2.1", "PORT": "9"}) == Config(
        host="127.0.0.1",
        port=0,
        limits=Limits(max_connections=7, max_connections_per_address=6, max_sessions=5),
        trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("fd00::1")),
        log_level="debug",
        stop_on_eof=True,
    )


def test_the_environment_comes_second() -> None:
    environ = {"HOST": "192.0.2.1", "PORT": "8080"}
    read = config.read([], environ)
    assert (read.host, read.port) == ("192.0.2.1", 8080)
    read = config.read(["--port", "0"], environ)
    assert (read.host, read.port) == ("192.0.2.1", 0)
    read = config.read([], {"HOST": "", "PORT": ""})
    assert (read.host, read.port) == (None, 3001)


@pytest.mark.parametrize(
    ("argv", "environ", "said"),
    [
        (["--port", "65536"], {}, "argument --port: '65536' is not a port"),
        (["--port", "-1"], {}, "argument --port"),
        (["--port", "٣"], {}, "argument --port: '٣' is not a port"),
        ([], {"PORT": "http"}, "environment variable PORT: 'http' is not a port"),
        (["--trusted-proxy", "proxy"], {}, "argument --trusted-proxy: 'proxy' does not appear"),
        (["--trusted-proxy", "10.0.0.1/8"], {}, "10.0.0.1/8 has host bits set"),
        (["--max-connections", "0"], {}, "argument --max-connections: '0' is not a number"),
        (["--max-sessions", "many"], {}, "argument --max-sessions: 'many' is not a number"),
        (["--max-con", "5"], {}, "unrecognized arguments: --max-con 5"),
        (["--log-level", "trace"], {}, "argument --log-level: invalid choice: 'trace'"),
        (["3001"], {}, "unrecognized arguments: 3001"),
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
    assert "HOST, PORT" in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        config.read(["--version"], {"PORT": "nonsense"})
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("amesh-relay 0.")

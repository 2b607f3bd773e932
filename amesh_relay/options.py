"""The table of settings: each has a name, a form, a default and a line of help, once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from amesh_relay.addresses import Network, network

if TYPE_CHECKING:
    from amesh_relay.config import Config
    from amesh_relay.limits import Limits

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("console", "json")
ON_THE_COMMAND_LINE_ONLY: Final = frozenset(
    {"help", "config", "check_config", "stop_on_eof", "version"}
)
# What platforms set for every service; ours go over them.
ENVIRONMENT_NAMES: Final = {"host": "HOST", "port": "PORT"}

_MAX_COUNT: Final = 10_000_000


def add_options(parser: argparse.ArgumentParser, defaults: Config, limits: Limits) -> None:
    """Put every setting on a command line, with the defaults it tells of."""

    def add(option: str, metavar: str, kind: Callable[[str], object], told: str) -> None:
        parser.add_argument(option, metavar=metavar, type=kind, help=told)

    add("--config", "FILE", Path, "a TOML file with any of the settings below")
    add("--host", "ADDRESS", str, "address or host name to listen on (default: all, IPv4 and IPv6)")
    add("--port", "PORT", _port, f"TCP port; 0 takes a free one (default: {defaults.port})")
    add("--unix", "PATH", Path, "listen on this socket instead of an address")
    add("--certfile", "FILE", Path, "serve wss:// with this certificate chain, in PEM")
    add("--keyfile", "FILE", Path, "its private key (default: in the same file)")
    add("--metrics", "HOST:PORT", _address, "serve /metrics for Prometheus there, and only there")
    add("--access-token-file", "FILE", Path, "admit only who sends one of the tokens in it")
    parser.add_argument(
        "--trusted-proxy",
        metavar="CIDR",
        type=_network,
        action="append",
        help="address or network of a proxy whose X-Forwarded-For to believe; repeatable",
    )
    parser.add_argument(
        "--proxy-protocol",
        action="store_true",
        default=argparse.SUPPRESS,
        help="trusted proxies begin each connection with the PROXY protocol, version 1 or 2",
    )
    add(
        "--state",
        "WHERE",
        str,
        "what is shared or outlives a restart: memory, sqlite:FILE or redis://HOST (default: "
        f"{defaults.state})",
    )
    for name, told in _LIMITS:
        option = f"--{name.replace('_', '-')}"
        add(option, "N", _count, f"{told} (default: {getattr(limits, name)})")
    add(
        "--drain-seconds",
        "N",
        _seconds,
        f"how long a pairing may still run after SIGTERM (default: {defaults.drain_seconds})",
    )
    for option, choices, default, told in (
        ("--log-level", LOG_LEVELS, defaults.log_level, "what to log to standard error"),
        ("--log-format", LOG_FORMATS, defaults.log_format, "how to log"),
    ):
        parser.add_argument(
            option,
            metavar=option.removeprefix("--log-").upper(),
            choices=choices,
            help=f"{told}: {', '.join(choices)} (default: {default})",
        )
    for option, told in (
        ("--check-config", "read all settings, say what is wrong with them, and exit"),
        ("--stop-on-eof", "stop when standard input ends, for programs that start their own"),
        ("--version", "show the version and exit"),
    ):
        parser.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=told)


_LIMITS: Final = (
    ("max_connections", "open connections in all"),
    ("max_connections_per_address", "open connections of one IPv4 address or IPv6 /64"),
    ("max_sessions", "codes that wait or are in use"),
    ("max_sessions_per_address", "codes that one IPv4 address or IPv6 /64 waits under"),
    ("max_watches", "bootstrap tokens that one connection may watch"),
    ("max_messages_per_second", "messages that one connection may send"),
)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, a number from 0 to 65535")
    return int(text)


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and host):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), _port(port)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _MAX_COUNT):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MAX_COUNT}")
    return int(text)


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _MAX_COUNT):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return int(text)


def _network(text: str) -> Network:
    try:
        return network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None

"""The relay's command line and environment, read once into one frozen Config."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from amesh_relay.addresses import Network, network
from amesh_relay.limits import Limits

DEFAULT_PORT: Final = 3001
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_DESCRIPTION: Final = """\
Let two devices that share a six-digit code find each other, so that they can pair.

The relay hands on what devices send each other and cannot read it. It keeps everything in
memory and writes no code, payload, key, token or address to any log or disk. Devices use it
with --relay ws://HOST:PORT/ws, or wss:// behind a proxy that ends TLS. GET /health says
whether it is up.
"""

_EPILOG: Final = """\
environment:
  HOST, PORT            used when --host or --port is not given

exit status:
  0  stopped by SIGTERM or SIGINT
  1  the address cannot be listened on
  2  an option or the environment is wrong

Behind a proxy, name it with --trusted-proxy: otherwise all clients seem to come from the
proxy's own address and share one client's limits. The proxy has to append the address of its
client to X-Forwarded-For.
"""


@dataclass(frozen=True, slots=True)
class Config:
    """What an operator decided."""

    host: str | None  # None: all addresses, IPv4 and IPv6
    port: int  # 0: any free one
    limits: Limits = field(default_factory=Limits)
    trusted_proxies: tuple[Network, ...] = ()
    log_level: str = "info"
    stop_on_eof: bool = False


def read(argv: Sequence[str] | None, environ: Mapping[str, str]) -> Config:
    """The command line first, then HOST and PORT, then the defaults.

    Exits with status 2 and a usage line on standard error when a value cannot work.
    """
    command_line = parser()
    options = command_line.parse_args(argv)
    if options.version:
        # Here, as looking the version up costs as much as the rest of this module.
        from importlib.metadata import version

        sys.stdout.write(f"amesh-relay {version('authmesh')}\n")
        command_line.exit()
    port = options.port
    if port is None:
        try:
            port = _port(environ.get("PORT") or str(DEFAULT_PORT))
        except argparse.ArgumentTypeError as error:
            command_line.error(f"environment variable PORT: {error}")
    return Config(
        host=options.host or environ.get("HOST") or None,
        port=port,
        limits=Limits(
            max_connections=options.max_connections,
            max_connections_per_address=options.max_connections_per_address,
            max_sessions=options.max_sessions,
        ),
        trusted_proxies=tuple(options.trusted_proxy),
        log_level=options.log_level,
        stop_on_eof=options.stop_on_eof,
    )


def parser() -> argparse.ArgumentParser:
    """The command line of `amesh-relay`; its man page is made from this."""
    defaults = Limits()
    result = argparse.ArgumentParser(
        prog="amesh-relay",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument(
        "--host",
        metavar="ADDRESS",
        help="address or host name to listen on (default: all addresses, IPv4 and IPv6)",
    )
    result.add_argument(
        "--port",
        metavar="PORT",
        type=_port,
        help=f"TCP port to listen on; 0 takes a free one (default: {DEFAULT_PORT})",
    )
    result.add_argument(
        "--trusted-proxy",
        metavar="CIDR",
        type=_network,
        action="append",
        default=[],
        help="address or network of a proxy whose X-Forwarded-For to believe; repeatable",
    )
    result.add_argument(
        "--max-connections",
        metavar="N",
        type=_count,
        default=defaults.max_connections,
        help="open connections in all (default: %(default)s)",
    )
    result.add_argument(
        "--max-connections-per-address",
        metavar="N",
        type=_count,
        default=defaults.max_connections_per_address,
        help="open connections of one IPv4 address or IPv6 /64 (default: %(default)s)",
    )
    result.add_argument(
        "--max-sessions",
        metavar="N",
        type=_count,
        default=defaults.max_sessions,
        help="codes that wait or are in use (default: %(default)s)",
    )
    result.add_argument(
        "--log-level",
        metavar="LEVEL",
        choices=LOG_LEVELS,
        default="info",
        help=f"what to log to standard error: {', '.join(LOG_LEVELS)} (default: %(default)s)",
    )
    result.add_argument(
        "--stop-on-eof",
        action="store_true",
        help="stop when standard input ends, for programs that start a relay of their own",
    )
    result.add_argument("--version", action="store_true", help="show the version and exit")
    return result


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, a number from 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 10_000_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 10000000")
    return int(text)


def _network(text: str) -> Network:
    try:
        return network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None

"""What an operator decided, read into one frozen Config.

From a TOML file, the environment and the command line, each over the one before. The table of
settings is the command line (options.py): `--max-sessions N` is `max-sessions = N` in the
file and AMESH_RELAY_MAX_SESSIONS in the environment.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, NoReturn

from amesh_core.errors import UsageError
from amesh_relay.addresses import Network
from amesh_relay.limits import Limits
from amesh_relay.options import ENVIRONMENT_NAMES, ON_THE_COMMAND_LINE_ONLY, add_options
from amesh_relay.state import choice

DEFAULT_PORT: Final = 3001

_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off", "")
# Of the file of settings, and of devices.
_OTHER_VARIABLES: Final = frozenset(
    f"AMESH_RELAY_{name}" for name in ("CONFIG", "URL", "TOKEN", "TOKEN_FILE")
)
_LIMITS: Final = frozenset(field.name for field in fields(Limits))


@dataclass(frozen=True, slots=True)
class Config:
    """What an operator decided; the defaults are those of `amesh-relay --help`.

    `host` None is all addresses, `port` 0 any free one. With `unix`, devices reach the relay at
    that path instead. `metrics` is where /metrics is served on its own, if it is wanted.
    """

    host: str | None = None
    port: int = DEFAULT_PORT
    unix: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None
    metrics: tuple[str, int] | None = None
    access_token_file: Path | None = None
    trusted_proxies: tuple[Network, ...] = ()
    proxy_protocol: bool = False
    state: str = field(default="memory", repr=False)  # a URL may hold a password
    limits: Limits = field(default_factory=Limits)
    drain_seconds: int = 60
    log_level: str = "info"
    log_format: str = "console"
    stop_on_eof: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that exclude each other.

        Raises:
            UsageError: says which.
        """
        choice.check(self.state)
        if self.keyfile and not self.certfile:
            raise UsageError("--keyfile needs --certfile")
        if self.unix and self.host:
            raise UsageError("--unix and --host exclude each other (a host may be from HOST, too)")
        if self.proxy_protocol and not (self.trusted_proxies or self.unix):
            raise UsageError("--proxy-protocol needs --trusted-proxy: whose word to take")


@dataclass(frozen=True, slots=True)
class Reading:
    """A Config, and whether it was only to be checked."""

    config: Config
    check_only: bool


def read(argv: Sequence[str] | None, environ: Mapping[str, str]) -> Reading:
    """Read everything, or exit: 2 and a usage line for what cannot work, 0 after --help."""
    command_line = parser()
    try:
        options = command_line.parse_args(argv)
        if "version" in options:
            # Here, as looking the version up costs as much as the rest of this module.
            from importlib.metadata import version

            sys.stdout.write(f"amesh-relay {version('authmesh')}\n")
            command_line.exit()
        return Reading(load(argv, environ), "check_config" in options)
    except UsageError as error:
        command_line.print_usage(sys.stderr)
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def load(argv: Sequence[str] | None, environ: Mapping[str, str]) -> Config:
    """Read everything; a relay that runs does so again when it is told to reload.

    Raises:
        UsageError: a value that cannot work, and where it stands.
    """
    command_line = parser()
    typed = vars(command_line.parse_args(argv))
    path = typed.get("config") or environ.get("AMESH_RELAY_CONFIG")
    values: dict[str, Any] = {}
    if path:
        values |= _from_file(command_line, Path(path))
    values |= _from_environment(command_line, environ)
    values |= typed
    for name in ON_THE_COMMAND_LINE_ONLY - {"stop_on_eof"}:
        values.pop(name, None)
    if "trusted_proxy" in values:
        values["trusted_proxies"] = tuple(values.pop("trusted_proxy"))
    limits = {name: values.pop(name) for name in _LIMITS & values.keys()}
    return Config(limits=Limits(**limits), **values)


class _Parser(argparse.ArgumentParser):
    """One that raises, so that a mistake in a file can be said to be there."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse.

        Raises:
            UsageError: always.
        """
        raise UsageError(message)


def parser() -> argparse.ArgumentParser:
    """The command line of `amesh-relay`; its man page is made from this.

    What was not given is not in the result, so that sources can be laid over each other.
    """
    result = _Parser(
        prog="amesh-relay",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add_options(result, Config(), Limits())
    return result


def _from_file(command_line: argparse.ArgumentParser, path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise UsageError(f"{path}: {error}") from None
    except RecursionError:
        raise UsageError(f"{path}: lists in lists in lists") from None
    values: dict[str, Any] = {}
    for name, value in table.items():
        where = f"{path}: {name}"
        attribute = name.replace("-", "_")
        if "_" in name or attribute not in _settable(command_line):
            raise UsageError(f"{where} is not a setting")
        values |= _parsed(command_line, attribute, _texts(value, where), where)
    return values


def _texts(value: object, where: str) -> list[str]:
    """A value of the file, as the command line would have it."""
    match value:
        case bool():
            return [str(value).lower()]
        case int() | str():
            return [str(value)]
        case list() if all(isinstance(item, str) for item in value):
            return list(value)
        case _:
            raise UsageError(f"{where} is neither text nor a whole number")


def _from_environment(
    command_line: argparse.ArgumentParser, environ: Mapping[str, str]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for attribute, action in _settable(command_line).items():
        ours = f"AMESH_RELAY_{attribute.upper()}"
        for variable in (ENVIRONMENT_NAMES.get(attribute, ours), ours):
            if text := environ.get(variable):
                texts = text.replace(",", " ").split() if _takes_a_list(action) else [text]
                where = f"environment variable {variable}"
                values |= _parsed(command_line, attribute, texts, where)
    return values


def _settable(command_line: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {
        action.dest: action
        for action in command_line._actions
        if action.dest not in ON_THE_COMMAND_LINE_ONLY
    }


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Names that look like a setting and are none: mistyped, or set by something else."""
    known = {f"AMESH_RELAY_{name.upper()}" for name in _settable(parser())} | _OTHER_VARIABLES
    return sorted(name for name in environ if name.startswith("AMESH_RELAY_") and name not in known)


def _takes_a_list(action: argparse.Action) -> bool:
    return action.metavar == "CIDR"


def _parsed(
    command_line: argparse.ArgumentParser, attribute: str, texts: Sequence[str], where: str
) -> dict[str, Any]:
    """What the command line makes of these texts."""
    option = f"--{attribute.replace('_', '-')}"
    action = _settable(command_line)[attribute]
    if len(texts) != 1 and not _takes_a_list(action):
        # Of several the last would count, and of none nothing would.
        raise UsageError(f"{where} takes one value, and no list")
    if action.nargs == 0:
        (text,) = texts
        if text.lower() not in (*_TRUE, *_FALSE):
            raise UsageError(f"{where}: {text!r} is neither true nor false")
        return {attribute: text.lower() in _TRUE}
    try:
        return vars(command_line.parse_args([f"{option}={text}" for text in texts]))
    except UsageError as error:
        raise UsageError(f"{where}: {str(error).removeprefix(f'argument {option}: ')}") from None


_DESCRIPTION: Final = """\
Let two devices that share a six-digit code find each other, so that they can pair.

The relay hands on what devices send each other and cannot read it. It writes no code, payload,
key, token or whole address to any log or disk. Devices use it with --relay ws://HOST:PORT/ws,
or wss:// when it has a certificate or is behind a proxy that ends TLS.
GET /health says whether it is up, /ready whether it takes new devices.
"""

_EPILOG: Final = """\
settings:
  Every option but --config, --check-config, --stop-on-eof and --version can stand in the file
  (max-sessions = 1000) and in the environment (AMESH_RELAY_MAX_SESSIONS=1000). The command
  line wins over the environment, the environment over the file. HOST and PORT are read, too.
  SIGHUP reads all of it again, and takes over limits, log level, certificate and
  access tokens.

exit status:
  0  stopped by SIGTERM or SIGINT, or the settings are in order
  1  what the settings name cannot be used: address, certificate, token, state, an extra
  2  an option, the environment or the file is wrong

Behind a proxy, name it with --trusted-proxy: otherwise all clients seem to come from the
proxy's own address and share one client's limits. The proxy has to append the address of its
client to X-Forwarded-For.
"""

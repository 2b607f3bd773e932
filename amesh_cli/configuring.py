"""What `amesh config` shows and changes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from amesh_cli import here, terminal
from amesh_cli.options import ConfigAction
from amesh_core.errors import UsageError
from amesh_core.settings import DEFAULT_RELAY_URL

if TYPE_CHECKING:
    from amesh_core.io.home import Home

NAME, MAX_CONTROLLERS, RELAY = KEYS = ("name", "max-controllers", "relay")


def run(action: ConfigAction, key: str | None, value: str | None, *, as_json: bool) -> None:
    """Do what was typed.

    Raises:
        UsageError: words that do not go together, an unknown key, an impossible value.
        AmeshError: see `amesh_core.io.configuration`.
    """
    home = here.open_home()
    match action, key, value:
        case ConfigAction.LIST, None, None:
            _show(home, KEYS, as_json=as_json)
        case ConfigAction.GET, str(), None:
            _show(home, [_known(key)], as_json=as_json)
        case ConfigAction.SET, str(), str():
            _set(home, _known(key), value)
        case ConfigAction.UNSET, str(), None:
            _unset(home, _known(key))
        case _:
            raise UsageError(
                "amesh config list, get KEY, set KEY VALUE or unset KEY; "
                f"KEY is one of {', '.join(KEYS)}"
            )


def _known(key: str) -> str:
    if key not in KEYS:
        raise UsageError(f"there is no setting of that name, only {', '.join(KEYS)}")
    return key


def _show(home: Home, keys: tuple[str, ...] | list[str], *, as_json: bool) -> None:
    values: dict[str, str | int] = {
        NAME: home.identity.friendly_name,
        MAX_CONTROLLERS: home.max_controllers,
        RELAY: home.relay_url or DEFAULT_RELAY_URL,
    }
    if as_json:
        terminal.json_result({key: values[key] for key in keys})
    elif len(keys) == 1:
        terminal.result(_plain(values[keys[0]]))
    else:
        terminal.facts([(key, _plain(values[key])) for key in keys])
    if RELAY in keys and here.settings().relay_url:
        terminal.say("AMESH_RELAY_URL is set, and goes before this relay.")


def _plain(value: str | int) -> str:
    # A name of Node's may hold anything; a URL here is printable.
    text = str(value)
    return text if text.isprintable() else terminal.quoted(text)


def _set(home: Home, key: str, value: str) -> None:
    from amesh_core.io import configuration

    match key:
        case "max-controllers":
            if not re.fullmatch("[0-9]{1,5}", value):
                raise UsageError(
                    f"max-controllers is a number from 1 to {configuration.MAX_CONTROLLERS}"
                )
            configuration.set_max_controllers(home, int(value))
        case "name":
            configuration.set_name(home, value)
        case _:
            configuration.set_relay(home, value)
    after = here.open_home()
    _show(after, [key], as_json=False)
    if key == NAME:
        terminal.say("Devices paired before keep showing the old name.")


def _unset(home: Home, key: str) -> None:
    from amesh_core.io import configuration

    if key != RELAY:
        raise UsageError(f"{key} always has a value: set another one")
    configuration.set_relay(home, None)
    _show(home, [RELAY], as_json=False)

"""This device, as the command line finds it: environment, directory, relay."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from amesh_core.settings import DEFAULT_RELAY_URL, Settings

if TYPE_CHECKING:
    from amesh_core.io.home import Home


def settings() -> Settings:
    """What the environment of this process says."""
    return Settings.from_env(os.environ)


def open_home() -> Home:
    """The directory of this device, with an identity in it."""
    from amesh_core.io.home import Home

    return Home.open(settings())


def relay_url(home: Home | None, flag: str | None) -> str:
    """Where to meet: --relay, AMESH_RELAY_URL, config.json, else the public relay."""
    # An empty one is a variable that somebody forgot to set, and names no relay: least of all
    # the public one.
    if flag is not None:
        return flag
    return settings().relay_url or (home and home.relay_url) or DEFAULT_RELAY_URL

"""From the setting `--state` to what it names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from amesh_core.errors import UsageError
from amesh_relay.state import SharedState

if TYPE_CHECKING:
    from amesh_relay.state.sqlite import BurnedFile

MEMORY: Final = "memory"
_SQLITE: Final = "sqlite:"
_REDIS: Final = ("redis://", "rediss://", "unix://")


def check(text: str) -> None:
    """See whether there is such a state, without touching it.

    Raises:
        UsageError: there is not.
    """
    if text != MEMORY and not text.startswith((_SQLITE, *_REDIS)):
        # Not repeated: it may be a URL with a password and a mistyped scheme.
        raise UsageError("--state is memory, sqlite:FILE or redis://HOST[:PORT][/DATABASE]")
    if text == _SQLITE:
        raise UsageError("--state sqlite: needs the name of a file")


def burned_file(text: str) -> BurnedFile | None:
    """The file that remembers used tokens, if the state is one.

    Raises:
        UsageError: it cannot be used.
    """
    if not text.startswith(_SQLITE):
        return None
    # Here and not above, as in `shared_state`: `--help` needs no database.
    from amesh_relay.state.sqlite import BurnedFile

    return BurnedFile(Path(text.removeprefix(_SQLITE)))


def shared_state(text: str) -> SharedState | None:
    """What relays share, if they do.

    Raises:
        UsageError: not a URL of a Redis, or the package for it is not installed.
    """
    if not text.startswith(_REDIS):
        return None
    try:
        from amesh_relay.state.redis import RedisState
    except ImportError:
        raise UsageError("--state redis:// needs: pip install 'authmesh[redis]'") from None
    return RedisState(text)

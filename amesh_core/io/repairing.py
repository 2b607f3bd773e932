"""An allow list that was put back: what it is, and taking it on after all.

A person decides; docs/protocol.md section 2.6 has the rule. A list whose seal does not fit is
never taken on.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from amesh_core import disk
from amesh_core.allow_list import AllowList
from amesh_core.errors import AllowListMarkBroken, HomeBusy
from amesh_core.io import staging
from amesh_core.io.home import Home
from amesh_core.io.list_file import ListFile


@dataclass(frozen=True, slots=True)
class PutBack:
    """A list of ours that is older than `newest`, the newest one remembered.

    `newest` is None when what remembers it cannot be believed, so that nobody can say how
    old the list is.
    """

    allow_list: AllowList
    newest: str | None


def find(home: Home) -> PutBack | None:
    """What a person has to decide about, if the list is older than one that was here before.

    Raises:
        AllowListTampered, AllowListMissing: there is no list that could be taken on.
        KeyStoreError: neither list nor mark can be checked.
    """
    return _find(home.list_file())


def take_on(home: Home, seen: PutBack, now: float) -> None:
    """Make the list that a person was shown the newest one again.

    Raises:
        HomeBusy: it is not what is there any more.
        HomeUnwritable: it cannot be written.
    """
    list_file = home.list_file()
    with disk.locked(home.directory):
        staging.settle(home.directory)
        if _find(list_file) != seen:
            raise HomeBusy("the allow list changed while it was being looked at")
        list_file.write(later_than(seen.newest, seen.allow_list).stamped(now))


def later_than(newest: str | None, allow_list: AllowList) -> AllowList:
    """The list as if it had been written no earlier than `newest`, for `stamped` to go on from."""
    return dataclasses.replace(allow_list, updated_at=max(allow_list.updated_at, newest or ""))


def _find(list_file: ListFile) -> PutBack | None:
    # The mark first, as every reader does: a writer at work puts no older list back.
    try:
        newest = list_file.mark()
    except AllowListMarkBroken:
        return PutBack(list_file.read_of_any_age(), None)
    allow_list = list_file.read_of_any_age()
    is_older = newest is not None and allow_list.updated_at < newest
    return PutBack(allow_list, newest) if is_older else None

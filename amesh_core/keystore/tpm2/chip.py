"""The one connection of this process to a TPM: shared, kept, and opened again when it must be.

An ESAPI context is not thread-safe, so one lock makes threads take turns; a TPM does one thing
at a time anyway. A child after a fork opens its own. What was loaded stays loaded, as loading
takes several times as long as a signature.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from amesh_core.errors import KeyFileDamaged, TpmChanged
from amesh_core.keystore.tpm2.codes import Refused, explained
from amesh_core.keystore.tpm2.connection import Connection
from amesh_core.wire.tss2 import LoadableKey

_T = TypeVar("_T")

# A TPM has three places or more. One must be free for the parent while a key is loaded, and
# the kernel's resource manager gives a process no more than three either.
_KEPT_KEYS: Final = 2


@dataclass(frozen=True, slots=True)
class DeviceKeys:
    """The two keys of a device, and the name of the parent that wrapped them."""

    signing: LoadableKey
    sealing: LoadableKey
    parent_name: bytes


class Line:
    """A connection, and what is loaded over it."""

    def __init__(self, tcti: str) -> None:
        self.connection = Connection(tcti)
        self._loaded: dict[LoadableKey, int] = {}  # the one used last comes last

    def signing(self, keys: DeviceKeys) -> int:
        """The handle of the key that signs."""
        self._load(keys, keys.signing)
        return self._loaded[keys.signing]

    def sealing(self, keys: DeviceKeys) -> int:
        """The handle of the key that seals."""
        self._load(keys, keys.sealing)
        return self._loaded[keys.sealing]

    def load(self, keys: DeviceKeys) -> None:
        """Load both, which shows that this TPM made them.

        Raises:
            TpmChanged: another one did, or this one was cleared since.
            KeyFileDamaged: it did not make them so.
        """
        self._load(keys, keys.signing, keys.sealing)

    def forget(self, keys: DeviceKeys) -> None:
        """Unload both."""
        for key in (keys.signing, keys.sealing):
            if (handle := self._loaded.pop(key, None)) is not None:
                self.connection.flush(handle)

    def hang_up(self) -> None:
        """Unload everything and close the connection."""
        while self._loaded:
            self.connection.flush(self._loaded.popitem()[1])
        self.connection.close()

    def _is_loaded(self, key: LoadableKey) -> bool:
        handle = self._loaded.pop(key, None)
        if handle is None:
            return False
        self._loaded[key] = handle
        return True

    def _load(self, keys: DeviceKeys, *wanted: LoadableKey) -> None:
        missing = [key for key in wanted if not self._is_loaded(key)]
        if not missing:
            return
        while len(self._loaded) + len(missing) > _KEPT_KEYS:
            oldest = next(iter(self._loaded))
            self.connection.flush(self._loaded.pop(oldest))
        with self.connection.parent(keys.signing.parent) as parent:
            if parent is None:
                raise TpmChanged(
                    "this TPM cannot use the key: it has no storage root key at 0x81000001 any"
                    " more, as that was removed or the TPM cleared; or another TPM made the key"
                )
            # A cleared TPM derives other parents; asked first, as what cannot be unwrapped
            # may also be a file that was changed.
            if parent.name != keys.parent_name:
                raise TpmChanged(
                    "this TPM cannot use the key: it was cleared since, or another one made it"
                )
            for key in missing:
                try:
                    self._loaded[key] = self.connection.load(parent, key)
                except Refused as refused:
                    if refused.is_bad_wrapping:
                        raise KeyFileDamaged("the TPM finds that the key was changed") from None
                    raise


class Chip:
    """A TPM, for all threads of this process."""

    def __init__(self, tcti: str) -> None:
        self.tcti = tcti
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked child must.

        Its parent goes on using the connection, so nothing is sent over it, not even to
        close it; and its lock may be held by a thread that does not exist here.
        """
        self._lock = threading.Lock()
        self._line: Line | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._line is not None

    def use(self, work: Callable[[Line], _T]) -> _T:
        """Do `work`, alone; once more from the beginning over a new connection if that helps.

        Raises:
            KeyStoreError: the TPM refuses, or cannot be reached.
        """
        try:
            return self.attempt(work)
        except Refused as refused:
            raise explained(refused, self.tcti) from None

    def attempt(self, work: Callable[[Line], _T]) -> _T:
        """As `use`, for whoever can make something of the TPM's own answer.

        Raises:
            Refused: what the TPM says to it the second time.
        """
        with self._lock:
            if self._line is not None:
                try:
                    return work(self._line)
                except Refused as refused:
                    # The simulator or resource manager was started again, the machine slept,
                    # somebody flushed our keys, or needs the places that we keep.
                    if not (refused.is_lost_connection or refused.is_full):
                        raise
                    self._hang_up()
            self._line = Line(self.tcti)
            return work(self._line)

    def close(self) -> None:
        """Unload our keys and close the connection; the next use opens it again."""
        with self._lock:
            self._hang_up()

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            with suppress(Refused):
                line.hang_up()


_chips: dict[str, Chip] = {}
_chips_lock = threading.Lock()


def chip(tcti: str) -> Chip:
    """The one `Chip` of this process for a TCTI; nothing is opened yet."""
    with _chips_lock:
        return _chips.get(tcti) or _chips.setdefault(tcti, Chip(tcti))


def _after_fork() -> None:
    global _chips_lock
    _chips_lock = threading.Lock()
    for each in _chips.values():
        each.forget()


def _at_exit() -> None:
    # The kernel's resource manager would do it for us; a bare device or simulator would not.
    for each in _chips.values():
        each.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)

"""Who must not outrun whom: one rule for all ends of a session, near and far.

who does not read                    is not read from
who writes to one that does not read is not read from either, until there is room again
"""

from __future__ import annotations


class Flow:
    """Something that is written to and read from; a subclass says how reading stops."""

    __slots__ = ("_blocking", "_held_back")

    def __init__(self) -> None:
        # Why it is not read from: others with too much to send, or reasons of the house.
        # Mostly none, so mostly nothing.
        self._held_back: set[object] | None = None
        # Who must not outrun it; a set only while it has too much to send.
        self._blocking: set[Flow] | None = None

    @property
    def is_blocked(self) -> bool:
        """Whether more waits to be sent to it than may."""
        return self._blocking is not None

    def hold_back_for(self, slow: Flow) -> None:
        """Read nothing from this one until `slow` has room again."""
        if slow._blocking is not None:
            slow._blocking.add(self)
            self.hold_back(slow)

    def hold_back(self, reason: object) -> None:
        """Read nothing from this one, until every reason that was named was let go."""
        if self._held_back is None:
            self._held_back = set()
            self._stop_reading()
        self._held_back.add(reason)

    def let_go(self, reason: object) -> None:
        """This is no reason any more."""
        if self._held_back is not None:
            self._held_back.discard(reason)
            if not self._held_back:
                self._held_back = None
                self._read_on()

    def _block(self) -> None:
        """More waits to be sent than may. It is answered as it sends, so it may not send on."""
        if self._blocking is None:
            self._blocking = set()
            self.hold_back_for(self)

    def _unblock(self) -> None:
        """There is room again, or nobody to send to."""
        blocked, self._blocking = self._blocking, None
        for other in blocked or ():
            other.let_go(self)

    def _vanish(self) -> None:
        """It is gone: nobody waits for it, and it waits for nobody."""
        for reason in self._held_back or ():
            if isinstance(reason, Flow) and reason._blocking:
                reason._blocking.discard(self)
        self._held_back = None
        self._unblock()

    def _stop_reading(self) -> None:
        raise NotImplementedError

    def _read_on(self) -> None:
        raise NotImplementedError

"""Which nonces were spent, so that no request is accepted twice; docs/protocol.md section 3."""

from __future__ import annotations

import math
from collections.abc import Callable
from struct import Struct
from threading import Lock
from typing import Final, Protocol

from amesh_core.errors import NonceStoreFull, UsageError

# Held for 62 to 78 s by default: 3 200 requests a second from one device, and some 5 MB.
DEFAULT_NONCES_PER_DEVICE: Final = 250_000

_DIGEST: Final = Struct("qq").pack  # 16 bytes, as long as a nonce
_SHARDS: Final = 1024  # a power of two; a million nonces are then a few KiB in each


class NonceStore(Protocol):
    """Remembers nonces; every server that one request could reach must share it."""

    def spend(self, device_id: str, nonce: str, ttl_seconds: int) -> bool:
        """Remember the nonce for at least `ttl_seconds`; False if it was known already.

        Atomic: of any number of calls with one device and nonce, one returns True.

        Raises:
            Unavailable: the store is full, or did not say whether it knew the nonce. The
                request is not accepted; a store elsewhere may have remembered the nonce all
                the same, so what is sent again is signed again.
        """


class AsyncNonceStore(Protocol):
    """`NonceStore` for an event loop."""

    async def spend(self, device_id: str, nonce: str, ttl_seconds: int) -> bool:
        """As `NonceStore.spend`."""


class MemoryNonceStore:
    """A nonce store for one process, bounded for each device and safe for any thread.

    What it holds is 16 bytes for each nonce, packed into buffers: a set of a million Python
    objects would take 100 MB, stall while it grows, and be walked by the garbage collector.
    The buffers are cut by time of expiry into slices, so that forgetting is to drop a slice
    of some thousand buffers whole, never to walk through nonces; and each slice is cut by
    hash into shards, so that a search reads little. A nonce is held for `ttl_seconds` and at
    most half as long again.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        max_nonces_per_device: int = DEFAULT_NONCES_PER_DEVICE,
    ) -> None:
        """Make an empty store.

        `clock` counts seconds and never goes back: `time.monotonic`. `max_nonces_per_device`
        bounds what one device may have remembered at a time; 16 bytes each, and a few.

        Raises:
            UsageError: the bound is below 1.
        """
        if max_nonces_per_device < 1:
            raise UsageError("max_nonces_per_device must be at least 1")
        self._clock = clock
        self._max_nonces_per_device = max_nonces_per_device
        self._slices: dict[int, _Slice] = {}  # by the second in which they are dropped
        self._next_drop = math.inf  # the earliest of those seconds
        self._dropped: list[_Slice] = []  # freed one at a time: each has _SHARDS buffers
        self._lock = Lock()

    def spend(self, device_id: str, nonce: str, ttl_seconds: int) -> bool:
        """Remember the nonce for at least `ttl_seconds`; False if it was known already.

        Raises:
            NonceStoreFull: this device has as many nonces remembered as it may have.
        """
        # Python keys the hash of a str with a secret of the process: a device can choose
        # neither nonces that all fall into one shard nor one that looks like another's.
        first = hash(nonce)
        digest = _DIGEST(first, hash(device_id + nonce))
        shard = first % _SHARDS
        with self._lock:
            now = self._clock()
            if now >= self._next_drop:
                self._drop_expired(now)
            if self._dropped:
                self._dropped.pop()
            held = 0
            for part in self._slices.values():
                # A match across two neighbours is as unlikely as two digests alike.
                if part.shards[shard].find(digest) >= 0:
                    return False
                held += part.held.get(device_id, 0)
            if held >= self._max_nonces_per_device:
                raise NonceStoreFull(f"{device_id} has {held} nonces remembered")
            # The next multiple of a power of two between a quarter and a half of the time to
            # live: five slices are alive at a time, and times that differ share most of them.
            until = (int(now) + ttl_seconds | (1 << (ttl_seconds // 4).bit_length()) - 1) + 1
            part = self._slices.get(until) or self._new_slice(until)
            part.shards[shard] += digest
            part.held[device_id] = part.held.get(device_id, 0) + 1
        return True

    def _drop_expired(self, now: float) -> None:
        for until in [until for until in self._slices if until <= now]:
            self._dropped.append(self._slices.pop(until))
        self._next_drop = min(self._slices, default=math.inf)

    def _new_slice(self, until: int) -> _Slice:
        self._slices[until] = part = _Slice()
        self._next_drop = min(self._next_drop, until)
        return part


class _Slice:
    """The nonces that are dropped together, and how many of them are whose."""

    __slots__ = ("held", "shards")

    def __init__(self) -> None:
        self.shards = [bytearray() for _ in range(_SHARDS)]
        self.held: dict[str, int] = {}

"""The checks of docs/protocol.md section 3 in their order, for one app in one process."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, cast

from amesh_core.errors import AllowListBroken, UsageError
from amesh_core.nonces import AsyncNonceStore, MemoryNonceStore, NonceStore
from amesh_core.verification import (
    AuthMeshIdentity,
    Policy,
    RequestHead,
    Verified,
    check_form,
)
from amesh_sdk import sightings
from amesh_sdk.answers import record, warn
from amesh_sdk.opened import OpenHome
from amesh_sdk.workers import announced_workers

# SHA-256 of a MiB takes some 2 ms: as long as an event loop may be kept.
_INLINE_BODY_BYTES: Final = 1024 * 1024

# A clock is warned about from half of the allowed skew on: clocks that are kept in time differ
# by less than a second, so this one is on its way out. Once a minute for each device.
_ORDINARY_SKEW_SECONDS: Final = 2  # whole seconds on both sides, and the way here
_SKEW_NOTE_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class _InEventLoop:
    """The other spelling of a store that has both, `spend` and `aspend`."""

    spend: Callable[[str, str, int], Awaitable[bool]]


class Guard:
    """Says who sent a request, or raises; serves any number of requests at a time."""

    def __init__(
        self,
        home: OpenHome,
        policy: Policy,
        nonces: NonceStore | AsyncNonceStore | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._home = home
        self._policy = policy
        self._nonces = MemoryNonceStore(clock=time.monotonic) if nonces is None else nonces
        self._clock = clock
        # Asked once: looking into a function costs as much as parsing a header.
        self._awaits = inspect.iscoroutinefunction(self._nonces.spend)
        self._memory = self._nonces if isinstance(self._nonces, MemoryNonceStore) else None
        self._ordinary_skew_seconds = max(policy.clock_skew_seconds / 2, _ORDINARY_SKEW_SECONDS)
        self._skew_noted: dict[str, int] = {}  # device id -> when it was last warned about
        self._alone = self._memory is not None
        if (count := announced_workers(sys.argv, os.environ)) > 1:
            self.warn_if_not_shared(f"the server is told to start {count} processes")

    def warn_if_not_shared(self, why: str) -> None:
        """Warn, once, that other processes do not know the nonces that this one spends."""
        if self._alone:
            self._alone = False
            warn(
                "nonce_store_not_shared",
                f"{why}, and each remembers nonces by itself: a captured request could be "
                "replayed once to each; give them one store (nonce_store=RedisNonceStore(...))",
            )

    async def prepare(self) -> None:
        """Do what the first request would have to wait for.

        Raises:
            HomeError: there is no usable identity.
            KeyStoreError: its key cannot be used.
        """
        await self._home.akey()
        try:
            await self._home.aallow_list()
        except AllowListBroken as error:
            # Nobody is let in until it is mended, which must not need a restart.
            record(error)

    def prepare_blocking(self) -> None:
        """As `prepare`, without an event loop."""
        self._home.key()
        try:
            self._home.allow_list()
        except AllowListBroken as error:
            record(error)

    async def authenticate(
        self, head: RequestHead, read_body: Callable[[], Awaitable[bytes]]
    ) -> AuthMeshIdentity:
        """Who sent this request; `read_body` is called only when the body is worth reading.

        Raises:
            AmeshError: the request is not let in; answers.py says what the caller hears.
        """
        body = None
        try:
            claim = check_form(head, self._policy)
            allow_list = self._home.current() or await self._home.aallow_list()
            now = int(self._clock())
            admitted = claim.admit(allow_list, now)
            # Of the head, as the body may take its time.
            skew_seconds = admitted.skew_seconds
            body = await read_body()
            # Once more, as the body may have taken a while: a device revoked meanwhile is out, and
            # so is a timestamp that could outlive its nonce.
            before, allow_list = allow_list, self._home.current() or await self._home.aallow_list()
            then, now = now, int(self._clock())
            if allow_list is not before or now != then:
                admitted = claim.admit(allow_list, now)
            if len(body) <= _INLINE_BODY_BYTES:
                verified = admitted.verify(body, now)
            else:
                verified = await asyncio.to_thread(admitted.verify, body, now)
            memory = self._memory
            identity = verified.spend(memory) if memory else await self._spend(verified)
        finally:
            if self._home.debug_requests:
                sightings.seen(head, body, int(self._clock()))
        if abs(skew_seconds) > self._ordinary_skew_seconds:
            self._note_skew(identity, skew_seconds)
        return identity

    def authenticate_blocking(
        self, head: RequestHead, read_body: Callable[[], bytes]
    ) -> AuthMeshIdentity:
        """As `authenticate`, in the same order, for a thread of a server without event loop."""
        body = None
        try:
            claim = check_form(head, self._policy)
            allow_list = self._home.current() or self._home.allow_list()
            now = int(self._clock())
            admitted = claim.admit(allow_list, now)
            skew_seconds = admitted.skew_seconds
            body = read_body()
            before, allow_list = allow_list, self._home.current() or self._home.allow_list()
            then, now = now, int(self._clock())
            if allow_list is not before or now != then:
                admitted = claim.admit(allow_list, now)
            identity = admitted.verify(body, now).spend(self._memory or self._blocking_store())
        finally:
            if self._home.debug_requests:
                sightings.seen(head, body, int(self._clock()))
        if abs(skew_seconds) > self._ordinary_skew_seconds:
            self._note_skew(identity, skew_seconds)
        return identity

    def _blocking_store(self) -> NonceStore:
        if self._awaits:
            raise UsageError("this nonce store needs an event loop, and a WSGI server has none")
        return cast("NonceStore", self._nonces)

    def _note_skew(self, identity: AuthMeshIdentity, skew_seconds: int) -> None:
        """Say so in time when a clock is about to lock its device out."""
        last = self._skew_noted.get(identity.device_id)
        if last is None or identity.verified_at - last >= _SKEW_NOTE_SECONDS:
            self._skew_noted[identity.device_id] = identity.verified_at
            warn(
                "clock_skew_near_limit",
                f"{identity.device_id} is let in, but its clock is {skew_seconds:+d} s away "
                f"from ours; at more than {self._policy.clock_skew_seconds} s it will be refused",
                device_id=identity.device_id,
                skew_seconds=skew_seconds,
            )

    async def _spend(self, verified: Verified) -> AuthMeshIdentity:
        if self._awaits:
            return await verified.aspend(cast("AsyncNonceStore", self._nonces))
        if (aspend := getattr(self._nonces, "aspend", None)) is not None:
            return await verified.aspend(cast("AsyncNonceStore", _InEventLoop(aspend)))
        # A store of somebody else's that may wait for a network.
        return await asyncio.to_thread(verified.spend, cast("NonceStore", self._nonces))

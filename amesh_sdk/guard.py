"""The checks of docs/protocol.md section 3 in their order, for one app in one process."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final, cast

from amesh_core.errors import AllowListBroken
from amesh_core.nonces import AsyncNonceStore, MemoryNonceStore, NonceStore
from amesh_core.verification import (
    Admitted,
    AuthMeshIdentity,
    Policy,
    RequestHead,
    Verified,
    check_form,
)
from amesh_sdk.answers import record
from amesh_sdk.opened import OpenHome

# SHA-256 of a MiB takes some 2 ms: as long as an event loop may be kept.
_INLINE_BODY_BYTES: Final = 1024 * 1024


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

    async def authenticate(
        self, head: RequestHead, read_body: Callable[[], Awaitable[bytes]]
    ) -> AuthMeshIdentity:
        """Who sent this request; `read_body` is called only when the body is worth reading.

        Raises:
            AmeshError: the request is not let in; answers.py says what the caller hears.
        """
        claim = check_form(head, self._policy)
        claim.admit(await self._home.aallow_list(), self._now())
        body = await read_body()
        # Once more, as the body may have taken a while: a device revoked meanwhile is out, and
        # so is a timestamp that could outlive its nonce.
        allow_list = await self._home.aallow_list()
        now = self._now()
        verified = await _verify(claim.admit(allow_list, now), body, now)
        return await self._spend(verified)

    async def _spend(self, verified: Verified) -> AuthMeshIdentity:
        if inspect.iscoroutinefunction(self._nonces.spend):
            return await verified.aspend(cast("AsyncNonceStore", self._nonces))
        store = cast("NonceStore", self._nonces)
        if isinstance(store, MemoryNonceStore):
            return verified.spend(store)
        # A store of somebody else's that may wait for a network.
        return await asyncio.to_thread(verified.spend, store)

    def _now(self) -> int:
        return int(self._clock())


async def _verify(admitted: Admitted, body: bytes, now: int) -> Verified:
    if len(body) <= _INLINE_BODY_BYTES:
        return admitted.verify(body, now)
    return await asyncio.to_thread(admitted.verify, body, now)

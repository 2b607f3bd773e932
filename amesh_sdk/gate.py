"""What every adapter but the ASGI one does with a request: nothing is decided in an adapter.

An adapter says what a request looks like and how to read its body; it gets the identity, or
None where the path is left open, or `Refused` with the answer to send.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypedDict, Unpack

from amesh_core.errors import AmeshError, UsageError
from amesh_core.nonces import AsyncNonceStore, NonceStore
from amesh_core.settings import Settings
from amesh_core.verification import AuthMeshIdentity, Policy, RequestHead
from amesh_sdk.answers import Answer, answer, record
from amesh_sdk.guard import Guard
from amesh_sdk.heads import head_of
from amesh_sdk.opened import opened
from amesh_sdk.paths import Paths, target_as_sent

Headers = Iterable[tuple[bytes, bytes]]


class Options(TypedDict, total=False):
    """What can be set, and what it means: see `amesh_sdk.asgi.AuthMeshMiddleware`."""

    clock_skew_seconds: int
    nonce_window_seconds: int
    nonce_store: NonceStore | AsyncNonceStore | None
    max_body_bytes: int
    include: Iterable[str]
    exclude: Iterable[str]
    settings: Settings | None


class Refused(Exception):
    """The request is not let in; why, is in the log already."""

    def __init__(self, what: Answer) -> None:
        super().__init__(what.status)
        self.answer = what


class Gate:
    """The options of one adapter, and the guard that they make.

    Raises:
        UsageError: options that cannot work.
        BadToken, NoToken: there is no device yet, and no usable bootstrap token to make it from.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        # A Django setting is checked by nobody else, and a slip of the pen in `nonce_store` or
        # `include` would be a hole.
        if unknown := options.keys() - Options.__annotations__.keys():
            raise UsageError(
                f"there is no option {', '.join(sorted(unknown))}; "
                f"there are {', '.join(Options.__annotations__)}"
            )
        policy = {
            name: options[name]
            for name in ("clock_skew_seconds", "nonce_window_seconds", "max_body_bytes")
            if name in options
        }
        self._paths = Paths.of(options.get("include", ()), options.get("exclude", ()))
        self._policy = Policy(**policy)
        home = opened(options.get("settings") or Settings.from_env(os.environ))
        home.begin()
        self.guard = Guard(home, self._policy, options.get("nonce_store"))

    def check(
        self,
        method: str,
        scope: Mapping[str, Any],
        headers: Headers,
        read_body: Callable[[int], bytes],
    ) -> AuthMeshIdentity | None:
        """Who sent this request; None if its path is left open.

        `scope` has the keys of an ASGI scope that say where the request goes. `read_body`
        gets the limit in bytes, and returns the body, or more than the limit of it.

        Raises:
            Refused: with the answer to send.
        """
        try:
            head = self._head(method, scope, headers)
            if head is None:
                return None
            return self.guard.authenticate_blocking(
                head, lambda: read_body(self._policy.max_body_bytes)
            )
        except AmeshError as error:
            raise _refusal(error, method, scope) from None

    async def acheck(
        self,
        method: str,
        scope: Mapping[str, Any],
        headers: Headers,
        read_body: Callable[[int], Awaitable[bytes]],
    ) -> AuthMeshIdentity | None:
        """As `check`, for an event loop."""
        try:
            head = self._head(method, scope, headers)
            if head is None:
                return None
            return await self.guard.authenticate(
                head, lambda: read_body(self._policy.max_body_bytes)
            )
        except AmeshError as error:
            raise _refusal(error, method, scope) from None

    def _head(self, method: str, scope: Mapping[str, Any], headers: Headers) -> RequestHead | None:
        target = target_as_sent(scope)
        return head_of(method, target, headers) if self._paths.cover(scope, target) else None


def _refusal(error: AmeshError, method: str, scope: Mapping[str, Any]) -> Refused:
    record(error, method=method, target=scope.get("raw_path") or b"")
    return Refused(answer(error))

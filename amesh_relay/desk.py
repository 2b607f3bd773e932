"""Who may come in as a device, and what operators may ask: the relay's plain HTTP."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from websockets.http11 import Request, Response

from amesh_relay import limits, web
from amesh_relay.config import Config
from amesh_relay.limits import Attempts

if TYPE_CHECKING:
    from amesh_relay.metrics import Metrics
    from amesh_relay.server import Relay


class Desk:
    """Answers for one relay; `tokens` is None where every device may come."""

    def __init__(self, relay: Relay, config: Config) -> None:
        """Read the access tokens, if there are to be any.

        Raises:
            UsageError: their file cannot be used.
        """
        self.tokens = (
            web.AccessTokens(config.access_token_file) if config.access_token_file else None
        )
        # As for codes, but apart from them: a wrong token tells nothing of codes.
        self._refused: Attempts[bytes] = Attempts(
            limits.FAILED_ATTEMPTS, limits.ADDRESS_WINDOW_SECONDS, limits.MAX_ROWS
        )
        self._relay = relay
        self._metrics = _metrics(relay)
        self._metrics_are_elsewhere = config.metrics is not None

    @property
    def has_metrics(self) -> bool:
        """Whether what they need is installed."""
        return self._metrics is not None

    def answer(self, request: Request, client: Callable[[], bytes], now: float) -> Response | None:
        """The answer to whoever may not be a WebSocket, or does not want to; None for others.

        `client` tells whom the request counts for (addresses.client_of).
        """
        path = web.path_of(request)
        if path == "/metrics" and self._metrics_are_elsewhere:
            return web.text_answer(HTTPStatus.NOT_FOUND, "not found")
        if path != "/ws":
            return self.inspected(request)
        if self.tokens is not None and (
            refusal := self._refusal(self.tokens, request, client(), now)
        ):
            return refusal
        if self._relay.is_draining:
            return web.busy_answer("this relay is about to stop")
        if self._relay.is_alone:
            return web.busy_answer("this relay cannot reach what it shares with others")
        return None

    def _refusal(
        self, tokens: web.AccessTokens, request: Request, client: bytes, now: float
    ) -> Response | None:
        if self._refused.exhausted(client, now):
            # Before the token is looked at: who has no attempts left learns nothing.
            return web.guessing_answer(limits.ADDRESS_WINDOW_SECONDS)
        if tokens.admits(request.headers):
            return None
        if web.shown(request.headers):
            self._refused.add(client, now)
            self._relay.counts.refused_tokens += 1
        return web.unauthorized_answer()

    def inspected(self, request: Request) -> Response:
        """What operators ask: is it up, does it take devices, what has it done."""
        relay = self._relay
        match web.path_of(request):
            case "/health":
                state: dict[str, object] = {
                    "status": "ok",
                    "connections": relay.connections,
                    "sessions": relay.sessions,
                }
                return web.json_answer(HTTPStatus.OK, state)
            case "/ready" if relay.is_draining:
                return web.busy_answer("draining")
            case "/ready" if relay.is_alone:
                return web.busy_answer("the shared state is away")
            case "/ready":
                return web.text_answer(HTTPStatus.OK, "ready")
            case "/metrics" if self._metrics is not None:
                return web.answer(HTTPStatus.OK, self._metrics.content_type, self._metrics.text())
            case _:
                return web.text_answer(HTTPStatus.NOT_FOUND, "not found")


def _metrics(relay: Relay) -> Metrics | None:
    """None where prometheus-client is not installed."""
    try:
        from amesh_relay.metrics import Metrics
    except ImportError:
        return None
    return Metrics(relay.counts, relay)

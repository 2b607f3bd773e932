"""Who may come in as a device, and what operators may ask: the relay's plain HTTP."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from websockets.http11 import Request, Response

from amesh_relay import web
from amesh_relay.config import Config

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
        self._relay = relay
        self._metrics = _metrics(relay)
        self._metrics_are_elsewhere = config.metrics is not None

    @property
    def has_metrics(self) -> bool:
        """Whether what they need is installed."""
        return self._metrics is not None

    def answer(self, request: Request) -> Response | None:
        """The answer to whoever may not be a WebSocket, or does not want to; None for others."""
        path = web.path_of(request)
        if path == "/metrics" and self._metrics_are_elsewhere:
            return web.text_answer(HTTPStatus.NOT_FOUND, "not found")
        if path != "/ws":
            return self.inspected(request)
        if self.tokens is not None and not self.tokens.admits(request.headers):
            return web.unauthorized_answer()
        if self._relay.is_draining:
            return web.busy_answer("this relay is about to stop")
        if self._relay.is_alone:
            return web.busy_answer("this relay cannot reach what it shares with others")
        return None

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

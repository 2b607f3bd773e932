"""A connection to a Redis on which commands go out, and answers and letters come in.

redis-py makes it, as it knows of URLs, passwords and TLS. Then it is ours: its streams, with a
future and a time-out for each answer, cost a relay several times what Redis itself costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from amesh_relay.state.resp import Answer, BadAnswer, Push, Reader, Refusal, command

_CLOSED: Final = "closed by Redis"


class Line(asyncio.Protocol):
    """A connection; `answered` and `heard` must not raise."""

    def __init__(self, answered: Callable[[Answer], None], heard: Callable[[str], None]) -> None:
        """`answered` is told each answer in the order of the commands, `heard` each letter."""
        loop = asyncio.get_running_loop()
        self._answered = answered
        self._heard = heard
        self._reader = Reader()
        self._connection: Any = None
        self._transport: Any = None
        self._subscribed: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()

    async def open(self, client: Redis, channel: str) -> None:
        """Connect as a client would, and begin to hear what is sent to a channel.

        Raises:
            RedisError, OSError: there is no such Redis, or it does not want us.
        """
        pool: Any = client.connection_pool
        connection: Any = pool.connection_class(**pool.connection_kwargs)
        self._connection = connection
        await connection.connect()
        # All that redis-py asked is answered by now, so nothing is left in its buffers.
        self._transport = connection._writer.transport
        self._transport.set_protocol(self)
        self.write(command("SUBSCRIBE", channel))
        await self._subscribed

    def write(self, commands: str) -> None:
        """Send these in one piece."""
        self._transport.write(commands.encode(errors="replace"))

    async def until_it_ends(self) -> None:
        """Wait until it is of no use any more.

        Raises:
            OSError: always; how it ended.
        """
        await asyncio.shield(self._ended)

    async def close(self) -> None:
        """Let go of it; what was written and not sent is lost."""
        self._end(ConnectionAbortedError(_CLOSED))
        if self._transport is not None:
            self._transport.abort()
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)

    # --- what asyncio calls -------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Something came in."""
        try:
            for answer in self._reader.feed(data):
                self._take(answer)
        except (BadAnswer, IndexError) as error:
            self._end(ConnectionAbortedError(str(error)))
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self._end(exc or ConnectionResetError(_CLOSED))

    # --- inside -------------------------------------------------------------------------

    def _take(self, answer: Answer) -> None:
        match answer:
            case Push(("message", _, str(text))):
                self._heard(text)
            case Push(("subscribe", *_)):
                self._subscribed.set_result(None)
            case Push():
                pass
            case Refusal(text) if not self._subscribed.done():
                self._subscribed.set_exception(ResponseError(text))
            case _:
                self._answered(answer)

    def _end(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)
            self._ended.exception()  # perhaps nobody waits for it
        if not self._subscribed.done():
            self._subscribed.set_exception(error)
            self._subscribed.exception()

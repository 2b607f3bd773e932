"""A connection of redis-py's to a Redis, on which many commands go in one write.

Its pipeline does that, too, but for twice as much processor time (docs/decisions/0028).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError


class Line:
    """An open connection; whoever asks on it waits for its turn, and then for all answers."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    async def ask(self, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        """Send these, none of them twice; the answer to each, which may be a ResponseError.

        Without a time-out: one for each batch costs more than the batch.

        Raises:
            RedisError, OSError: there are none; of what was sent, nobody knows what was done.
        """
        async with self._turn:
            connection = self._connection
            await connection.send_packed_command(connection.pack_commands(commands))
            return [await self._answer() for _ in commands]

    async def _answer(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error


def client(url: str, connect_seconds: float) -> Redis:
    """A client that does nothing twice by itself: a code that is asked for twice is in use.

    It waits for an answer without an end.

    Raises:
        ValueError, TypeError, RedisError: it is not a URL of a Redis.
    """
    made: Redis = Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="replace",  # whatever somebody else writes is no reason to stop
        protocol=2,  # which is read quicker, and known before Redis 6
        socket_timeout=None,
        socket_connect_timeout=connect_seconds,
        retry=Retry(NoBackoff(), 0),
    )
    # What the URL has after its question mark is looked at only here.
    pool: Any = made.connection_pool
    pool.make_connection()
    return made


@asynccontextmanager
async def opened(of: Redis) -> AsyncIterator[Line]:
    """Open one as the client would, and close it in the end."""
    pool: Any = of.connection_pool
    connection = await pool.get_connection()
    try:
        yield Line(connection)
    finally:
        await connection.disconnect(nowait=True)
        await pool.release(connection)

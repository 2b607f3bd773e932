"""A connection to a Redis that says what it should not, or nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from amesh_relay.state.line import Line
from amesh_relay.state.resp import Answer, Refusal

SUBSCRIBED = b">3\r\n$9\r\nsubscribe\r\n$2\r\nto\r\n:1\r\n"


class Played:
    """Something that answers redis-py's questions as Redis does, and to SUBSCRIBE as it likes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.writers: list[asyncio.StreamWriter] = []
        self.visits: list[asyncio.Task[None]] = []
        self.heard: list[str] = []
        self.answers: list[Answer] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.visits.append(task)
        self.writers.append(writer)
        while line := await reader.readline():
            words = [await self._word(reader) for _ in range(int(line[1:]))]
            match words[0]:
                case "HELLO":
                    writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
                case "SUBSCRIBE":
                    writer.write(self.answer)
                    if not self.answer:
                        writer.write_eof()
                case "CLIENT":
                    writer.write(b"+OK\r\n")
                case _:
                    writer.write(b":1\r\n")

    async def _word(self, reader: asyncio.StreamReader) -> str:
        length = int((await reader.readline())[1:])
        return (await reader.readexactly(length + 2))[:-2].decode()

    def line(self) -> Line:
        return Line(self.answers.append, self.heard.append)


def with_line(answer: bytes, story: Callable[[Played, Line, Redis], Awaitable[None]]) -> None:
    async def told() -> None:
        played = Played(answer)
        server = await asyncio.start_server(played.serve, "127.0.0.1", 0)
        client = Redis(port=server.sockets[0].getsockname()[1], decode_responses=True, protocol=3)
        line = played.line()
        try:
            async with asyncio.timeout(20):
                await story(played, line, client)
        finally:
            await line.close()
            await client.aclose()
            server.close()
            for writer in played.writers:
                writer.close()
                await writer.wait_closed()
            await asyncio.gather(*played.visits)
            await server.wait_closed()

    asyncio.run(told())


def test_answers_and_letters_are_told_apart() -> None:
    async def story(played: Played, line: Line, client: Redis) -> None:
        await line.open(client, "to")
        played.writers[0].write(
            b">3\r\n$7\r\nmessage\r\n$2\r\nto\r\n$1\r\nx\r\n"
            b">2\r\n$10\r\ninvalidate\r\n_\r\n"
            b"-OOM no room\r\n"
            b"+end\r\n"
        )
        played.writers[0].write_eof()
        with pytest.raises(OSError):
            await line.until_it_ends()
        assert played.heard == ["x"]
        assert played.answers == [Refusal("OOM no room"), "end"]

    with_line(SUBSCRIBED, story)


def test_who_may_not_subscribe_is_told_why() -> None:
    async def story(played: Played, line: Line, client: Redis) -> None:
        with pytest.raises(ResponseError, match="NOPERM"):
            await line.open(client, "to")

    with_line(b"-NOPERM not you\r\n", story)


@pytest.mark.parametrize("answer", [b"*1\r\n:1\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_is_no_redis_is_left(answer: bytes) -> None:
    async def story(played: Played, line: Line, client: Redis) -> None:
        with pytest.raises(ConnectionAbortedError):
            await line.open(client, "to")
        with pytest.raises(ConnectionAbortedError):
            await line.until_it_ends()

    with_line(answer, story)


def test_a_redis_that_hangs_up() -> None:
    async def story(played: Played, line: Line, client: Redis) -> None:
        await line.open(client, "to")
        played.writers[0].close()
        with pytest.raises(ConnectionResetError):
            await line.until_it_ends()

    with_line(SUBSCRIBED, story)


def test_a_redis_that_hangs_up_before_all_is_said() -> None:
    async def story(played: Played, line: Line, client: Redis) -> None:
        with pytest.raises(ConnectionResetError):
            await line.open(client, "to")

    with_line(b"", story)


def test_an_answer_that_nobody_waits_for_ends_it() -> None:
    async def story(played: Played, line: Line, client: Redis) -> None:
        def nobody(answer: Answer) -> None:
            raise IndexError("an answer without a question")

        line = Line(nobody, played.heard.append)
        await line.open(client, "to")
        played.writers[0].write(b":1\r\n")
        with pytest.raises(ConnectionAbortedError):
            await line.until_it_ends()
        await line.close()

    with_line(SUBSCRIBED, story)


def test_it_can_be_closed_at_any_time() -> None:
    async def story(played: Played, line: Line, client: Redis) -> None:
        await played.line().close()  # never opened
        await line.open(client, "to")
        await line.close()
        await line.close()
        with pytest.raises(ConnectionAbortedError):
            await line.until_it_ends()

    with_line(SUBSCRIBED, story)

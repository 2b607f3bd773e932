"""A Redis that says what it should not, too little, or nothing more: what a relay makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from amesh_core.wire.relay import ErrorCode
from amesh_relay.roles import Freed
from amesh_relay.state import Denied, Granted, Kind, Letter, Unknown, letters, redis
from amesh_relay.state.line import client, opened
from amesh_relay.state.redis import RedisState
from amesh_relay.state.scripts import SCRIPTS, SHAS

PATIENCE_SECONDS = 20
CLIENT = bytes(4)
NAMES = {text: name for texts in (SHAS, SCRIPTS) for name, text in texts.items()}
UNKNOWN_SCRIPT = b"-NOSCRIPT No matching script.\r\n"


def bulk(*texts: str) -> bytes:
    return b"".join(f"${len(text.encode())}\r\n{text}\r\n".encode() for text in texts)


class Played:
    """Answers what a relay always asks as Redis does, and the rest as the test says."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | None] = {}  # to a script or command; None: hang up
        self.asked: list[str] = []
        self.commands: list[list[str]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.subscribers: list[tuple[str, asyncio.StreamWriter]] = []
        self.visits: list[asyncio.Task[None]] = []
        self.was_tried_thrice = asyncio.Event()
        self.was_asked = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.visits.append(task)
        self.writers.append(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                words = [await self._word(reader) for _ in range(int(line[1:]))]
                self.commands.append(words)
                if sum(words[0] == "SUBSCRIBE" for words in self.commands) == 3:
                    self.was_tried_thrice.set()
                answer = self._answer(words, writer)
                if answer is None:
                    writer.close()
                    return
                writer.write(answer)

    def _answer(self, words: list[str], writer: asyncio.StreamWriter) -> bytes | None:
        name = words[0]
        if name in ("EVAL", "EVALSHA"):
            name = f"{name} {NAMES[words[1]]}"
            self.asked.append(name)
            self.was_asked.set()
        if name in self.answers:
            return self.answers[name]
        match words:
            case ["SUBSCRIBE", channel]:
                self.subscribers.append((channel, writer))
                return b"*3\r\n" + bulk("subscribe", channel) + b":1\r\n"
            case ["PUBLISH", channel, text]:
                for other, listener in self.subscribers:
                    if other == channel:
                        listener.write(b"*3\r\n" + bulk("message", channel, text))
                return b":1\r\n"
            case ["CONFIG", *_]:
                return b"-ERR unknown command 'CONFIG'\r\n"
            case ["HELLO", *_]:
                return b"-ERR unknown command 'HELLO'\r\n"  # as before Redis 6
            case ["CLIENT" | "SET", *_]:
                return b"+OK\r\n"
            case _:
                return b":1\r\n"

    async def _word(self, reader: asyncio.StreamReader) -> str:
        length = int((await reader.readline())[1:])
        return (await reader.readexactly(length + 2))[:-2].decode()


class Box:
    """What a relay hears of its shared state."""

    def __init__(self) -> None:
        self.heard: list[Letter] = []
        self.was_found = asyncio.Event()
        self.was_lost = asyncio.Event()
        self.took = asyncio.Event()

    def take(self, letter: Letter) -> None:
        self.heard.append(letter)
        self.took.set()

    def found(self) -> None:
        self.was_found.set()

    def lost(self) -> None:
        self.was_lost.set()

    def died(self, node: str) -> None:
        raise AssertionError(node)

    def roomy(self) -> None:
        pass

    def correspondents(self) -> frozenset[str]:
        return frozenset()


Story = Callable[[Played, RedisState, Box], Awaitable[None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "HEARTBEAT_SECONDS", 0.05)


def with_redis(story: Story, **answers: bytes | None) -> None:
    async def told() -> None:
        played, box = Played(), Box()
        played.answers.update(answers)
        server = await asyncio.start_server(played.serve, "127.0.0.1", 0)
        state = RedisState(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        running = asyncio.create_task(state.run(box))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await story(played, state, box)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            server.close()
            for writer in played.writers:
                writer.close()
            await asyncio.gather(*played.visits)
            await server.wait_closed()

    asyncio.run(told())


def test_questions_are_answered_and_letters_heard() -> None:
    """By a Redis that knows no HELLO, too."""

    async def story(played: Played, state: RedisState, box: Box) -> None:
        await box.was_found.wait()
        played.answers["EVALSHA listen"] = bulk("@one")
        played.answers["EVALSHA connect"] = bulk("otc_not_found")
        assert await state.listen("111111", CLIENT) == Granted("one")
        assert await state.connect("222222", CLIENT) == Denied(ErrorCode.OTC_NOT_FOUND)
        letter = Letter("one", "one/1", 0, Kind.TELL, "\u20ac")
        state.send(state.node, letter)
        await box.took.wait()
        assert box.heard == [letter]
        assert not box.was_lost.is_set()

    with_redis(story)


def test_what_has_no_utf_8_harms_nothing_that_follows() -> None:
    async def story(played: Played, state: RedisState, box: Box) -> None:
        await box.was_found.wait()
        state.send(state.node, Letter("one", "one/1", 0, Kind.TELL, "a\ud800b"))
        await box.took.wait()
        _, subscriber = played.subscribers[-1]
        subscriber.write(b"*3\r\n" + bulk("message", "x") + b"$3\r\n\xff\xffx\r\n")
        state.send(state.node, Letter("one", "one/1", 1, Kind.TELL, "next"))
        box.took.clear()
        await box.took.wait()
        assert [letter.text for letter in box.heard] == ["a?b", "next"]
        assert not box.was_lost.is_set()

    with_redis(story)


def test_what_redis_has_no_script_for_is_told_before_all_that_came_later() -> None:
    async def story(played: Played, state: RedisState, box: Box) -> None:
        await box.was_found.wait()
        played.answers["EVALSHA listen"] = played.answers["EVALSHA free"] = UNKNOWN_SCRIPT
        played.answers["EVAL listen"] = bulk("@one")
        played.answers["EVALSHA connect"] = bulk("otc_not_found")
        state.tell(Freed("482916"))
        late = asyncio.create_task(state.connect("222222", CLIENT))  # when these two are gone
        assert await state.listen("111111", CLIENT) == Granted("one")
        assert await late == Denied(ErrorCode.OTC_NOT_FOUND)
        assert played.asked == [
            "EVALSHA free",
            "EVALSHA listen",
            "EVAL free",
            "EVAL listen",
            "EVALSHA connect",
        ]

    with_redis(story)


def test_a_script_that_stays_unknown_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def story(played: Played, state: RedisState, box: Box) -> None:
        await box.was_found.wait()
        played.answers["EVALSHA listen"] = played.answers["EVAL listen"] = UNKNOWN_SCRIPT
        assert await state.listen("111111", CLIENT) == Unknown()
        assert played.asked == ["EVALSHA listen", "EVAL listen"]
        assert await state.listen("222222", CLIENT) == Unknown()
        assert not box.was_lost.is_set()

    with_redis(story)
    assert caplog.text.count("refuses listen: NoScriptError") == 1


@pytest.mark.parametrize(
    "answer",
    [None, b"$400\r\n@one", b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    ids=["nothing", "half", "http"],
)
def test_a_batch_that_is_cut_short_is_never_sent_again(
    answer: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis hangs up, says half an answer and no more, or is none."""
    monkeypatch.setattr(redis, "ANSWER_SECONDS", 0.5)

    async def story(played: Played, state: RedisState, box: Box) -> None:
        await box.was_found.wait()
        old = state.node
        played.answers["EVALSHA listen"] = answer
        box.was_found.clear()
        verdicts = await asyncio.gather(
            state.listen("111111", CLIENT), state.connect("222222", CLIENT)
        )
        assert [*verdicts] == [Unknown(), Unknown()]
        await box.was_lost.wait()
        await box.was_found.wait()
        assert state.node != old
        played.answers["EVALSHA listen"] = bulk("@one")
        assert await state.listen("333333", CLIENT) == Granted("one")
        told = [words[4] for words in played.commands if words[0] in ("EVAL", "EVALSHA")]
        assert told.count("111111") == 1
        assert told.count("222222") <= 1

    with_redis(story)


def test_letters_that_cannot_come_any_more_are_as_bad_as_no_answers() -> None:
    async def story(played: Played, state: RedisState, box: Box) -> None:
        await box.was_found.wait()
        old = state.node
        box.was_found.clear()
        played.subscribers[0][1].close()
        await box.was_lost.wait()
        await box.was_found.wait()
        assert state.node != old
        state.send(state.node, Letter("one", "one/1", 0, Kind.GO))
        await box.took.wait()

    with_redis(story)


def test_a_connection_that_died_is_noticed_before_a_device_needs_it() -> None:
    async def story(played: Played, state: RedisState, box: Box) -> None:
        await box.was_found.wait()
        box.was_found.clear()
        listener = played.subscribers[0][1]
        for writer in played.writers:
            if writer is not listener:
                writer.close()
        await box.was_lost.wait()
        await box.was_found.wait()
        assert await state.listen("111111", CLIENT) == Unknown()

    with_redis(story)


def test_a_relay_that_others_count_as_dead_begins_anew() -> None:
    async def story(played: Played, state: RedisState, box: Box) -> None:
        await box.was_found.wait()
        old = state.node
        box.was_found.clear()
        played.answers["EXPIRE"] = b":0\r\n"
        await box.was_lost.wait()
        del played.answers["EXPIRE"]
        await box.was_found.wait()
        assert state.node != old

    with_redis(story)


def test_what_was_still_to_be_said_is_said_in_the_end() -> None:
    """And not what was said before. Then others need not wait until this relay counts as dead."""
    seen: list[Played] = []

    async def story(played: Played, state: RedisState, box: Box) -> None:
        seen.append(played)
        await box.was_found.wait()
        played.answers["EVALSHA listen"] = b""  # nothing, for now
        asking = asyncio.create_task(state.listen("111111", CLIENT))
        await played.was_asked.wait()
        state.tell(Freed("482916"))
        asking.cancel()

    with_redis(story)
    last = [words for words in seen[0].commands if words[0] in ("EVALSHA", "DEL")]
    assert [NAMES.get(words[1], words[0]) for words in last] == ["listen", "free", "DEL"]


def test_who_asks_meanwhile_waits_for_a_turn() -> None:
    async def story(played: Played, state: RedisState, box: Box) -> None:
        await box.was_found.wait()
        played.answers.update({"ONE": b":11\r\n", "TWO": b":22\r\n"})
        port = played.writers[0].get_extra_info("sockname")[1]
        asking = client(f"redis://127.0.0.1:{port}", PATIENCE_SECONDS)
        async with opened(asking) as line:
            ones, twos = await asyncio.gather(
                line.ask([("ONE",), ("ONE",)]), line.ask([("TWO",), ("TWO",)])
            )
        await asking.aclose()
        assert (ones, twos) == ([11, 11], [22, 22])

    with_redis(story)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"-NOPERM not you\r\n", "trying on: not you"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "trying on: "),
        (None, "trying on: "),
    ],
    ids=["noperm", "http", "nothing"],
)
def test_who_may_not_listen_is_told_why(
    answer: bytes | None, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(played: Played, state: RedisState, box: Box) -> None:
        await played.was_tried_thrice.wait()
        assert not state.is_available
        assert await state.listen("111111", CLIENT) == Unknown()
        assert not box.was_found.is_set()
        assert played.asked == []

    with_redis(story, SUBSCRIBE=answer)
    assert caplog.text.count(told) == 1  # once, however often it is tried


def test_letters_are_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when they come in pieces."""
    monkeypatch.setattr(redis, "HEARTBEAT_SECONDS", 60.0)  # none between the pieces

    async def story(played: Played, state: RedisState, box: Box) -> None:
        await box.was_found.wait()
        letter = Letter("one", "one/1", 0, Kind.TELL, "\u20ac" * 100)
        channel, subscriber = played.subscribers[0]
        said = b"*3\r\n" + bulk("message", channel, letters.written(letter))
        for byte in said:
            subscriber.write(bytes([byte]))
            await subscriber.drain()
            await asyncio.sleep(0)
        await box.took.wait()
        assert box.heard == [letter]

    with_redis(story)

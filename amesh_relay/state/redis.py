"""Relays that share one Redis: who has which code, who watches what, who guesses, what is used up.

Each decision is one script, so two relays cannot both get a code. What relays say to each other
goes over publish/subscribe: a ceremony is short, and its people start it again when a message is
lost (docs/decisions/0021). Everything in Redis has an end of its own.

    amesh:{relay}:node:<node>       there, while that relay is in touch
    amesh:{relay}:code:<otc>        "<node> waiting", "<node> used" or "<node> past"
    amesh:{relay}:fail:<client>     when a client failed, newest first; fail:all has all clients
    amesh:{relay}:guess:<otc>       when a code was guessed at, newest first; guess:all, all codes
    amesh:{relay}:watch:<jti>       the node of its watcher
    amesh:{relay}:inits:<jti>       when it was announced, newest first
    amesh:{relay}:burned            jtis that are used up, and since when
    amesh:{relay}:to:<node>         a channel: letters to that relay

The braces keep all keys in one slot of a Redis Cluster, as scripts need it.

A relay has its name only while it is in touch. When an answer takes too long, or others may have
counted it as dead, it begins anew under another name. What it claimed before under the old one is
free then, also where nobody knows whether Redis carried out what it did not answer.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from amesh_core.errors import UsageError
from amesh_relay.roles import Burned, Freed, Unwatched
from amesh_relay.state import Letter, Mailbox, Unknown, Verdict, letters
from amesh_relay.state.line import Line
from amesh_relay.state.orders import Order, Orders
from amesh_relay.state.resp import Answer, Refusal, command
from amesh_relay.state.scripts import ALIVE_SECONDS, SCRIPTS, SHAS
from amesh_relay.tasks import until_one_ends

log: Final = logging.getLogger("amesh.relay")

PREFIX: Final = "amesh:{relay}:"
HEARTBEAT_SECONDS: Final = 1.0
# An answer that takes longer is none: a device waits for it. Less than ALIVE_SECONDS together
# with a heartbeat, so that a relay notices before others do.
ANSWER_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = ANSWER_SECONDS / 4  # how late that may be noticed
_BEAT: Final = "."


class _OutOfTouch(Exception):
    """Others may have counted this relay as dead, or its letters do not arrive."""


class RedisState:
    """A `SharedState` in a Redis; see there."""

    def __init__(self, url: str) -> None:
        """Nothing is connected yet.

        Raises:
            UsageError: it is not a URL of a Redis.
        """
        self.node = ""
        self.is_available = False
        try:
            self._redis = _client(url)
        except (ValueError, TypeError, RedisError):
            # Not repeated: part of a password may be where a port should be.
            raise UsageError(
                "--state: not a URL of a Redis; special characters of a password are to be"
                " percent-encoded"
            ) from None
        # In order, and in the end all answered: questions, letters, what was freed or used up.
        self._orders = Orders()
        self._line: Line | None = None
        self._mailbox: Mailbox | None = None
        self._is_writing_soon = False
        self._since = 0.0  # when what is with Redis was written
        self._heard = 0.0  # when our own last letter came back
        self._trouble = ""  # that was told of last
        self._refused: set[str] = set()  # what it would not do, as was told
        self._looked_for_disk = False

    @property
    def is_crowded(self) -> bool:
        """Whether more waits for Redis than should."""
        return self._orders.is_crowded

    async def run(self, mailbox: Mailbox) -> None:
        """Keep in touch until cancelled; goes on trying when nobody answers."""
        self._mailbox = mailbox
        try:
            await until_one_ends(self._stay_in_touch(mailbox))
        finally:
            # Others need not wait until we count as dead; after all that was still to be said.
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    if self.is_available:
                        await self._ask("DEL", f"{PREFIX}node:{self.node}")
                    else:
                        await self._redis.delete(f"{PREFIX}node:{self.node}")
            await self._hang_up()
            await self._redis.aclose()

    async def _stay_in_touch(self, mailbox: Mailbox) -> None:
        while True:
            try:
                await self._in_touch(mailbox)
            except (RedisError, OSError, TimeoutError, _OutOfTouch) as error:
                await self._hang_up()
                self._lose(mailbox, error)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _in_touch(self, mailbox: Mailbox) -> None:
        # What was cut short may have left half an answer on its connection.
        await self._redis.connection_pool.disconnect()
        self._line = line = Line(self._answered, self._letters)
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._begin(line)
        self.is_available = True
        self._trouble = ""
        self._refused.clear()
        log.info("the shared state is there")
        mailbox.found()
        await until_one_ends(line.until_it_ends(), self._look_out(), self._keep_alive(mailbox))

    async def _begin(self, line: Line) -> None:
        old, self.node = self.node, secrets.token_hex(8)
        await line.open(self._redis, f"{PREFIX}to:{self.node}")
        if old:
            await self._redis.delete(f"{PREFIX}node:{old}")
        if not self._looked_for_disk:
            self._looked_for_disk = True
            await self._look_for_disk()
        # Last: from now on others write to us.
        await self._redis.set(f"{PREFIX}node:{self.node}", 1, ex=ALIVE_SECONDS)
        self._heard = asyncio.get_running_loop().time()

    async def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.close()

    async def _look_for_disk(self) -> None:
        """Codes and addresses are for memory only; whoever set up Redis may not know."""
        try:
            settings = await self._redis.config_get("save", "appendonly")
        except ResponseError:
            return  # CONFIG is often forbidden
        if settings.get("save") or settings.get("appendonly") == "yes":
            log.warning(
                "the Redis of --state writes to its disk, with codes and client addresses of the"
                " last minutes; turn off its settings save and appendonly"
            )

    def _lose(self, mailbox: Mailbox, error: Exception) -> None:
        was_available, self.is_available = self.is_available, False
        self._orders.give_up()
        if was_available:
            # Its kind alone: some texts have the command in them that failed.
            log.error("the shared state is away: %s", type(error).__name__)
            mailbox.lost()
            return
        # Before devices are let in, so none of their words are in it.
        trouble = str(error) or "no answer"
        if isinstance(error, AuthenticationError):
            trouble = f"user name or password: {trouble}"
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("the shared state cannot be reached, trying on: %s", trouble)

    # --- what goes over the line --------------------------------------------------------

    def _write(self) -> None:
        """Have done what waits, unless answers are awaited: then with these."""
        self._is_writing_soon = False
        if self._line is not None and (batch := self._orders.batch()):
            self._since = asyncio.get_running_loop().time()
            self._line.write("".join(map(_command, batch)))

    def _answered(self, answer: Answer) -> None:
        orders = self._orders
        order = orders.answered(answer)
        if order is not None and isinstance(answer, Refusal) and order.name not in self._refused:
            # It is full, or not ours to write to. Once: strangers can make us ask.
            self._refused.add(order.name)
            log.warning("the shared state refuses %s: %s", order.name, answer.kind)
        if not orders.are_out:
            if orders.is_roomy and self._mailbox is not None:
                self._mailbox.roomy()
            self._write_soon()

    def _letters(self, text: str) -> None:
        loop = asyncio.get_running_loop()
        if text == _BEAT:
            self._heard = loop.time()
        elif self._mailbox is not None:
            for letter in letters.read(text):
                # Soon and not here: a defect in that ends no more than a frame's would.
                loop.call_soon(self._mailbox.take, letter)

    def _write_soon(self) -> None:
        """In the next turn, together with what else this one has to say."""
        if not self._is_writing_soon:
            self._is_writing_soon = True
            asyncio.get_running_loop().call_soon(self._write)

    async def _look_out(self) -> None:
        """Notice that an answer does not come."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._orders.are_out and loop.time() - self._since > ANSWER_SECONDS:
                raise TimeoutError

    async def _keep_alive(self, mailbox: Mailbox) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            others = sorted(mailbox.correspondents())
            pipeline = self._redis.pipeline(transaction=False)
            # Not `set`: a relay that was away for too long is dead, and its codes may be others'.
            pipeline.expire(f"{PREFIX}node:{self.node}", ALIVE_SECONDS)
            pipeline.publish(f"{PREFIX}to:{self.node}", _BEAT)
            for node in others:
                pipeline.exists(f"{PREFIX}node:{node}")
            async with asyncio.timeout(ANSWER_SECONDS):
                is_alive, _, *are_alive = await pipeline.execute()
            if not is_alive or loop.time() - self._heard > ALIVE_SECONDS:
                raise _OutOfTouch
            for node, is_there in zip(others, are_alive, strict=True):
                if not is_there:
                    mailbox.died(node)

    async def listen(self, otc: str, client: bytes, *, again: bool = False) -> Verdict:
        """A target of ours wants to wait under a code; `again`, as it did before."""
        if again:
            return await self._ask("still", otc, self.node)
        return await self._ask("listen", otc, client.hex(), self.node)

    async def connect(self, otc: str, client: bytes) -> Verdict:
        """A controller of ours names a code; granted, the code is in use from now on."""
        return await self._ask("connect", otc, client.hex())

    async def watch(self, jti: str) -> Verdict:
        """A controller of ours wants to hear of a bootstrap token."""
        return await self._ask("watch", jti, self.node)

    async def announce(self, jti: str) -> Verdict:
        """A target of ours has one."""
        return await self._ask("announce", jti)

    def tell(self, news: Freed | Unwatched | Burned) -> None:
        """Something that was ours is not in use any more, or is used up."""
        match news:
            case Freed(otc):
                self._order(Order("free", (otc, self.node)))
            case Unwatched(jti):
                self._order(Order("unwatch", (jti, self.node)))
            case Burned(jti):
                self._order(Order("burn", (jti,)))

    def send(self, node: str, letter: Letter) -> None:
        """Write to another relay; in order, and perhaps in vain."""
        if self.is_available:
            self._orders.publish(f"{PREFIX}to:{node}", letters.written(letter))
            self._write_soon()

    async def _ask(self, script: str, *arguments: str) -> Verdict:
        if not self.is_available:
            return Unknown()
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._order(Order(script, arguments, answer))
        return await answer

    def _order(self, order: Order) -> None:
        # While Redis is away nobody could be told, and later it would be stale.
        if self.is_available:
            self._orders.add(order)
            self._write_soon()


def _command(order: Order) -> str:
    """What Redis is sent for it."""
    if order.name not in SCRIPTS:
        return command(order.name, *order.arguments)
    script = ("EVAL", SCRIPTS[order.name]) if order.is_told else ("EVALSHA", SHAS[order.name])
    return command(*script, "1", PREFIX, *order.arguments)


def _client(url: str) -> Redis:
    """A client that does nothing twice by itself: a code that is asked for twice is in use."""
    client: Redis = Redis.from_url(
        url,
        decode_responses=True,
        protocol=3,  # letters and answers on one connection
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    # What the URL has after its question mark is looked at only here.
    pool: Any = client.connection_pool
    pool.make_connection()
    return client

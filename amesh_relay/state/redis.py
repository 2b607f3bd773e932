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
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

from redis.asyncio.client import PubSub
from redis.exceptions import AuthenticationError, NoScriptError, RedisError, ResponseError

from amesh_core.errors import UsageError
from amesh_relay.roles import Burned, Freed, Unwatched
from amesh_relay.state import Letter, Mailbox, Unknown, Verdict, letters
from amesh_relay.state.line import Line, client, opened
from amesh_relay.state.orders import PUBLISH, Order, Orders
from amesh_relay.state.scripts import ALIVE_SECONDS, SCRIPTS, SHAS
from amesh_relay.tasks import until_one_ends

log: Final = logging.getLogger("amesh.relay")

PREFIX: Final = "amesh:{relay}:"
HEARTBEAT_SECONDS: Final = 1.0
# A heartbeat that has no answer by then shows that there will be none, to what was asked before
# it, either. Less than ALIVE_SECONDS together with the next, so that a relay notices before others.
ANSWER_SECONDS: Final = 2.0
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
            self._redis = client(url, ANSWER_SECONDS)
        except (ValueError, TypeError, RedisError):
            # Not repeated: part of a password may be where a port should be.
            raise UsageError(
                "--state: not a URL of a Redis; special characters of a password are to be"
                " percent-encoded"
            ) from None
        # In order, and in the end all answered: questions, letters, what was freed or used up.
        self._orders = Orders()
        self._to_write = asyncio.Event()
        self._heard = 0.0  # when our own last letter came back
        self._trouble = ""  # that was told of last
        self._refused: set[str] = set()  # what it would not do, as was told
        self._looked_at_settings = False

    @property
    def is_crowded(self) -> bool:
        """Whether more waits for Redis than should."""
        return self._orders.is_crowded

    async def run(self, mailbox: Mailbox) -> None:
        """Keep in touch until cancelled; goes on trying when nobody answers."""
        try:
            await until_one_ends(self._stay_in_touch(mailbox))
        finally:
            # Others need not wait until we count as dead; after all that was still to be said.
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS), opened(self._redis) as line:
                    await self._carry_out(line, mailbox)
                    await line.ask([("DEL", f"{PREFIX}node:{self.node}")])
            await self._redis.aclose()

    async def _stay_in_touch(self, mailbox: Mailbox) -> None:
        while True:
            try:
                await self._in_touch(mailbox)
            except (RedisError, OSError, TimeoutError, _OutOfTouch) as error:
                self._lose(mailbox, error)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _in_touch(self, mailbox: Mailbox) -> None:
        # What was cut short may have left half an answer on its connection.
        await self._redis.connection_pool.disconnect()
        async with self._redis.pubsub() as box, AsyncExitStack() as on:
            async with asyncio.timeout(ANSWER_SECONDS):
                line = await on.enter_async_context(opened(self._redis))
                await self._begin(box)
            self.is_available = True
            self._trouble = ""
            self._refused.clear()
            log.info("the shared state is there")
            mailbox.found()
            await until_one_ends(
                self._read(box, mailbox),
                self._write(line, mailbox),
                self._keep_alive(line, mailbox),
            )

    async def _begin(self, box: PubSub) -> None:
        old, self.node = self.node, secrets.token_hex(8)
        await box.subscribe(f"{PREFIX}to:{self.node}")
        await box.get_message(timeout=None)  # that it is
        if old:
            await self._redis.delete(f"{PREFIX}node:{old}")
        if not self._looked_at_settings:
            self._looked_at_settings = True
            await self._look_at_settings()
        # Last: from now on others write to us.
        await self._redis.set(f"{PREFIX}node:{self.node}", 1, ex=ALIVE_SECONDS)
        self._heard = asyncio.get_running_loop().time()

    async def _look_at_settings(self) -> None:
        """What it does with codes and addresses; whoever set up Redis may not know."""
        try:
            found = await self._redis.config_get(
                "save", "appendonly", "maxmemory", "maxmemory-policy"
            )
        except ResponseError:
            return  # CONFIG is often forbidden
        if found.get("save") or found.get("appendonly") == "yes":
            log.warning(
                "the Redis of --state writes to its disk, with codes and client addresses of the"
                " last minutes; turn off its settings save and appendonly"
            )
        if found.get("maxmemory", "0") != "0" and found.get("maxmemory-policy") != "noeviction":
            log.warning(
                "the Redis of --state forgets what it likes when it is full, such as which tokens"
                " are used; set its maxmemory-policy to noeviction"
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

    async def _read(self, box: PubSub, mailbox: Mailbox) -> None:
        loop = asyncio.get_running_loop()
        while True:
            message = await box.get_message(timeout=None)
            if message is None or message["type"] != "message":
                continue
            if message["data"] == _BEAT:
                self._heard = loop.time()
                continue
            for letter in letters.read(message["data"]):
                # Soon and not here: a defect in that ends no more than a frame's would.
                loop.call_soon(mailbox.take, letter)

    async def _write(self, line: Line, mailbox: Mailbox) -> None:
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            await self._carry_out(line, mailbox)

    async def _carry_out(self, line: Line, mailbox: Mailbox) -> None:
        """Do what waits, in its order."""
        orders = self._orders
        while batch := orders.take():
            answers: list[Any] = []
            try:
                answers = await self._do(line, batch)
            finally:
                # Never again: nobody knows what Redis did of it.
                orders.settle(batch, answers)
            if orders.is_roomy:
                mailbox.roomy()

    async def _do(self, line: Line, batch: list[Order]) -> list[Any]:
        answers = await line.ask([_command(order) for order in batch])
        unknown = [place for place, a in enumerate(answers) if isinstance(a, NoScriptError)]
        if unknown:
            again = await line.ask([_command(batch[place], is_told=True) for place in unknown])
            for place, answer in zip(unknown, again, strict=True):
                answers[place] = answer
        for order, answer in zip(batch, answers, strict=True):
            if isinstance(answer, ResponseError) and order.name not in self._refused:
                # It is full, or not ours to write to. Once: strangers can make us ask.
                self._refused.add(order.name)
                log.warning("the shared state refuses %s: %s", order.name, type(answer).__name__)
        return answers

    async def _keep_alive(self, line: Line, mailbox: Mailbox) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            others = sorted(mailbox.correspondents())
            commands = [
                # Not SET: a relay that was away for too long is dead, and its codes others'.
                ("EXPIRE", f"{PREFIX}node:{self.node}", str(ALIVE_SECONDS)),
                (PUBLISH, f"{PREFIX}to:{self.node}", _BEAT),
                *(("EXISTS", f"{PREFIX}node:{node}") for node in others),
            ]
            async with asyncio.timeout(ANSWER_SECONDS):
                is_alive, _, *are_alive = await line.ask(commands)
            if is_alive != 1 or loop.time() - self._heard > ALIVE_SECONDS:
                raise _OutOfTouch
            for node, is_there in zip(others, are_alive, strict=True):
                if is_there == 0:
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
            self._to_write.set()

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
            self._to_write.set()


def _command(order: Order, *, is_told: bool = False) -> tuple[str, ...]:
    """What Redis is sent for it; `is_told`, with the script itself."""
    if order.name not in SCRIPTS:
        return order.name, *order.arguments
    script = ("EVAL", SCRIPTS[order.name]) if is_told else ("EVALSHA", SHAS[order.name])
    return *script, "1", PREFIX, *order.arguments

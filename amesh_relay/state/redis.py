"""Relays that share one Redis: who has which code, who watches what, who guesses, what is used up.

Each decision is one script, so two relays cannot both get a code. What relays say to each other
goes over publish/subscribe: a ceremony is short, and its people start it again when a message is
lost (docs/decisions/0021). Everything in Redis has an end of its own.

    amesh:{relay}:node:<node>       there, while that relay is alive
    amesh:{relay}:code:<otc>        "<node> waiting" or "<node> used"
    amesh:{relay}:past:<otc>        a code that was
    amesh:{relay}:guessed:<otc>     when it was guessed at, newest first
    amesh:{relay}:fail:<client>     when a client failed, newest first
    amesh:{relay}:fails             clients that failed, by when; so that there are never too many
    amesh:{relay}:watch:<jti>       the node of its watcher
    amesh:{relay}:inits:<jti>       when it was announced, newest first
    amesh:{relay}:burned:<jti>      used up
    amesh:{relay}:to:<node>         a channel: letters to that relay

The braces keep all keys in one slot of a Redis Cluster, as scripts need it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import deque
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from amesh_core.errors import UsageError
from amesh_core.wire.relay import ErrorCode, Rejection
from amesh_relay.roles import Burned, Freed, Unwatched
from amesh_relay.state import Denied, Granted, Letter, Mailbox, Unknown, Verdict
from amesh_relay.state.scripts import SCRIPTS

log: Final = logging.getLogger("amesh.relay")

PREFIX: Final = "amesh:{relay}:"
# A relay that has not said for so long that it is there counts as dead.
ALIVE_SECONDS: Final = 5
HEARTBEAT_SECONDS: Final = 1.0
# An answer that takes longer is none: a device waits for it.
ANSWER_SECONDS: Final = 2.0
# Letters that wait to be sent; a ceremony needs a dozen.
MAX_OUTBOX: Final = 10_000
_CODES: Final[dict[str, ErrorCode]] = {str(code): code for code in ErrorCode}
_REJECTIONS: Final[dict[str, Rejection]] = {str(why): why for why in Rejection}


class RedisState:
    """A `SharedState` in a Redis; see there."""

    def __init__(self, url: str) -> None:
        """Nothing is connected yet.

        Raises:
            UsageError: it is not a URL of a Redis.
        """
        self.node = secrets.token_hex(8)
        self.is_available = False
        try:
            self._redis: Redis = Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=ANSWER_SECONDS,
                socket_connect_timeout=ANSWER_SECONDS,
            )
        except ValueError as error:
            raise UsageError(f"--state: {error}") from None
        self._scripts = {name: self._redis.register_script(text) for name, text in SCRIPTS.items()}
        # What to do at Redis, in order: letters and what was freed or used up.
        self._outbox: deque[tuple[str, tuple[str, ...]]] = deque(maxlen=MAX_OUTBOX)
        self._to_write = asyncio.Event()

    async def run(self, mailbox: Mailbox) -> None:
        """Keep in touch until cancelled; goes on trying when nobody answers."""
        try:
            while True:
                try:
                    await self._in_touch(mailbox)
                except* (RedisError, OSError, TimeoutError) as group:
                    reason = type(group.exceptions[0]).__name__
                    if self.is_available:
                        log.error("the shared state is away: %s", reason)
                        self.is_available = False
                        self._outbox.clear()
                        mailbox.lost()
                    else:
                        log.warning("the shared state cannot be reached: %s", reason)
                await asyncio.sleep(HEARTBEAT_SECONDS)
        finally:
            # Others need not wait until we count as dead.
            with suppress(RedisError, OSError, TimeoutError):
                await self._redis.delete(f"{PREFIX}node:{self.node}")
            await self._redis.aclose()

    async def _in_touch(self, mailbox: Mailbox) -> None:
        async with self._redis.pubsub(ignore_subscribe_messages=True) as letters:
            await letters.subscribe(f"{PREFIX}to:{self.node}")
            await self._beat()
            self.is_available = True
            log.info("the shared state is there")
            mailbox.found()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(letters, mailbox))
                tasks.create_task(self._write())
                tasks.create_task(self._keep_alive(mailbox))

    async def _read(self, letters: PubSub, mailbox: Mailbox) -> None:
        while True:
            message = await letters.get_message(timeout=None)
            if message is not None and (letter := _letter(message["data"])) is not None:
                mailbox.take(letter)

    async def _write(self) -> None:
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            while self._outbox:
                pipeline = self._redis.pipeline(transaction=False)
                while self._outbox:
                    command, arguments = self._outbox.popleft()
                    if command in self._scripts:
                        await self._scripts[command](keys=[PREFIX], args=arguments, client=pipeline)
                    else:
                        pipeline.execute_command(command, *arguments)
                await pipeline.execute()

    async def _keep_alive(self, mailbox: Mailbox) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self._beat()
            others = sorted(mailbox.correspondents())
            if not others:
                continue
            there = await self._redis.mget([f"{PREFIX}node:{node}" for node in others])
            for node, answer in zip(others, there, strict=True):
                if answer is None:
                    mailbox.died(node)

    async def _beat(self) -> None:
        await self._redis.set(f"{PREFIX}node:{self.node}", 1, ex=ALIVE_SECONDS)

    async def listen(self, otc: str, client: bytes, *, again: bool = False) -> Verdict:
        """A target of ours wants to wait under a code; `again`, as it did before."""
        return await self._ask("listen", otc, client.hex(), self.node, "again" if again else "")

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
                self._later("free", otc, self.node)
            case Unwatched(jti):
                self._later("unwatch", jti, self.node)
            case Burned(jti):
                self._later("burn", jti)

    def send(self, node: str, letter: Letter) -> None:
        """Write to another relay; in order, and perhaps in vain."""
        text = json.dumps(
            [
                *(letter.sender, letter.guest, letter.number, letter.kind),
                *(letter.text, letter.client.hex(), letter.code),
            ],
            ensure_ascii=False,
        )
        self._later("PUBLISH", f"{PREFIX}to:{node}", text)

    def _later(self, command: str, *arguments: str) -> None:
        # While Redis is away nobody could be told, and later it would be stale.
        if self.is_available:
            self._outbox.append((command, arguments))
            self._to_write.set()

    async def _ask(self, script: str, *arguments: str) -> Verdict:
        if not self.is_available:
            return Unknown()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer: Any = await self._scripts[script](keys=[PREFIX], args=arguments)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("the shared state does not answer: %s", type(error).__name__)
            return Unknown()
        if answer.startswith("@"):
            return Granted(answer[1:])
        return Denied(_CODES.get(answer) or _REJECTIONS[answer])


def _letter(text: str) -> Letter | None:
    """Read a letter; what another version of a relay may write is not one."""
    try:
        match json.loads(text):
            case [
                str(sender),
                str(guest),
                int(number),
                str(kind),
                str(said),
                str(client),
                int(code),
            ]:
                return Letter(sender, guest, number, kind, said, bytes.fromhex(client), code)
    except ValueError:
        pass
    log.warning("another relay wrote what this version does not understand")
    return None

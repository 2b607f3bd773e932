"""The decisions that a Redis takes for all relays, row by row, in a real one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from amesh_relay import limits
from amesh_relay.state.redis import PREFIX
from amesh_relay.state.scripts import ALIVE_SECONDS, MAX_BURNED, SCRIPTS
from tests.support.hub import JTI
from tests.support.redis import redis_server

OTC = "482916"
ANN, BOB = "01" * 4, "02" * 4


class Desk:
    """Who asks the scripts, as relays do."""

    def __init__(self, redis: Redis) -> None:
        self.redis: Any = redis
        redis.flushall()
        for node in ("one", "two"):
            self.is_alive(node)

    def is_alive(self, node: str) -> None:
        self.redis.set(f"{PREFIX}node:{node}", 1, ex=ALIVE_SECONDS + 60)

    def dies(self, node: str) -> None:
        self.redis.delete(f"{PREFIX}node:{node}")

    def ask(self, script: str, *arguments: str) -> object:
        return self.redis.eval(SCRIPTS[script], 1, PREFIX, *arguments)

    def later(self, key: str, seconds: float) -> None:
        """As if what a list or a table remembers had happened so much earlier."""
        full = PREFIX + key
        if self.redis.type(full) == "list":
            moments = self.redis.lrange(full, 0, -1)
            self.redis.delete(full)
            self.redis.rpush(full, *[f"{float(moment) - seconds:.6f}" for moment in moments])
        else:
            for name, moment in self.redis.zrange(full, 0, -1, withscores=True):
                self.redis.zadd(full, {name: moment - seconds})

    def rows(self, pattern: str) -> int:
        return sum(1 for _ in self.redis.scan_iter(PREFIX + pattern, count=10_000))


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        client = Redis(unix_socket_path=str(server.socket), decode_responses=True)
        yield client
        client.close()


@pytest.fixture
def desk(redis: Redis) -> Desk:
    return Desk(redis)


def test_a_code_has_one_owner_at_a_time(desk: Desk) -> None:
    assert desk.ask("listen", OTC, ANN, "one") == "@one"
    assert desk.ask("listen", OTC, BOB, "two") == "otc_in_use"
    assert desk.ask("listen", OTC, BOB, "one") == "otc_in_use"
    assert desk.ask("connect", OTC, BOB) == "@one"
    assert desk.ask("connect", OTC, BOB) == "peer_already_connected"
    assert desk.ask("listen", OTC, BOB, "two") == "otc_in_use"
    desk.ask("free", OTC, "two")  # not its own
    assert desk.ask("connect", OTC, BOB) == "peer_already_connected"
    desk.ask("free", OTC, "one")
    assert desk.ask("connect", OTC, ANN) == "otc_expired"
    assert desk.ask("listen", OTC, ANN, "two") == "@two"
    assert desk.ask("connect", OTC, ANN) == "@two"


def test_a_code_that_never_was(desk: Desk) -> None:
    assert desk.ask("connect", OTC, ANN) == "otc_not_found"
    assert not desk.redis.exists(f"{PREFIX}code:{OTC}")


@pytest.mark.parametrize("state", ["waiting", "used"])
def test_a_code_of_a_dead_relay_is_free(desk: Desk, state: str) -> None:
    assert desk.ask("listen", OTC, ANN, "one") == "@one"
    if state == "used":
        assert desk.ask("connect", OTC, ANN) == "@one"
    desk.dies("one")
    assert desk.ask("connect", OTC, ANN) == "otc_expired"
    assert desk.ask("listen", OTC, ANN, "two") == "@two"
    # It is there again, and frees what it had: that is not its own any more.
    desk.is_alive("one")
    desk.ask("free", OTC, "one")
    assert desk.ask("connect", OTC, ANN) == "@two"


def test_codes_end_a_little_later_than_at_their_relay(desk: Desk) -> None:
    desk.ask("listen", OTC, ANN, "one")
    assert limits.WAIT_SECONDS < desk.redis.ttl(f"{PREFIX}code:{OTC}") <= limits.WAIT_SECONDS + 10
    desk.ask("connect", OTC, ANN)
    assert limits.LIFE_SECONDS < desk.redis.ttl(f"{PREFIX}code:{OTC}") <= limits.LIFE_SECONDS + 10
    desk.ask("free", OTC, "one")
    assert desk.redis.ttl(f"{PREFIX}code:{OTC}") == limits.EXPIRED_CODE_SECONDS


@pytest.mark.parametrize(
    ("before", "answer"),
    [
        ([], "@two"),
        ([("listen", OTC, ANN, "two")], "@two"),
        ([("listen", OTC, ANN, "one")], "otc_in_use"),
        ([("listen", OTC, ANN, "one"), ("connect", OTC, ANN)], "otc_in_use"),
        ([("listen", OTC, ANN, "one"), ("free", OTC, "one")], "@two"),
        ([("connect", OTC, "0") for _ in range(5)], "otc_in_use"),
    ],
)
def test_a_code_that_still_waits_at_a_relay_that_was_away(
    desk: Desk, before: list[tuple[str, ...]], answer: str
) -> None:
    for script, *arguments in before:
        desk.ask(script, *arguments)
    fails = desk.rows("fail:*")
    assert desk.ask("still", OTC, "two") == answer
    assert desk.rows("fail:*") == fails  # it is nobody's guess


def test_a_client_has_five_failures_a_minute(desk: Desk) -> None:
    for number in range(3):
        assert desk.ask("connect", f"00000{number}", ANN) == "otc_not_found"
    desk.ask("listen", OTC, BOB, "one")
    for _ in range(2):  # to listen is a way to look for codes, too
        assert desk.ask("listen", OTC, ANN, "two") == "otc_in_use"
    assert desk.ask("connect", OTC, ANN) == "rate_limited"
    assert desk.ask("listen", "111111", ANN, "two") == "rate_limited"
    assert desk.ask("connect", OTC, BOB) == "@one"  # nobody else is
    desk.later(f"fail:{ANN}", limits.ADDRESS_WINDOW_SECONDS - 1)
    assert desk.ask("connect", "000009", ANN) == "rate_limited"
    desk.later(f"fail:{ANN}", 1)
    assert desk.ask("connect", "000009", ANN) == "otc_not_found"


def test_successes_do_not_count(desk: Desk) -> None:
    for number in range(20):
        assert desk.ask("listen", f"{number:06}", ANN, "one") == "@one"
        assert desk.ask("connect", f"{number:06}", ANN) == "@one"
    assert desk.rows("fail:*") == 0


def test_a_code_that_was_guessed_at_is_out_of_use(desk: Desk) -> None:
    for number in range(5):
        assert desk.ask("connect", OTC, f"0{number}") == "otc_not_found"
    assert desk.ask("connect", OTC, BOB) == "otc_expired"
    assert desk.ask("listen", OTC, BOB, "one") == "otc_in_use"
    desk.later(f"guess:{OTC}", limits.BURNED_CODE_SECONDS)
    assert desk.ask("listen", OTC, ANN, "one") == "@one"


def test_a_token_has_one_watcher(desk: Desk) -> None:
    assert desk.ask("announce", JTI) == "no_watcher"
    assert desk.ask("watch", JTI, "one") == "@one"
    assert desk.ask("watch", JTI, "one") == "@one"  # its hub knows by whom
    assert desk.ask("watch", JTI, "two") == "already_watched"
    assert desk.ask("announce", JTI) == "@one"
    desk.ask("unwatch", JTI, "two")  # not its own
    assert desk.ask("announce", JTI) == "@one"
    desk.dies("one")
    assert desk.ask("announce", JTI) == "no_watcher"
    assert desk.ask("watch", JTI, "two") == "@two"
    desk.ask("unwatch", JTI, "one")
    assert desk.ask("announce", JTI) == "@two"
    desk.ask("unwatch", JTI, "two")
    assert desk.ask("announce", JTI) == "no_watcher"


def test_a_used_token(desk: Desk) -> None:
    desk.ask("burn", JTI)
    assert desk.ask("announce", JTI) == "token_already_used"
    # Its controller alone can tell the same device from a second one.
    assert desk.ask("watch", JTI, "one") == "@one"
    assert desk.ask("announce", JTI) == "@one"
    desk.ask("unwatch", JTI, "one")
    desk.later("burned", limits.BURNED_JTI_SECONDS - 1)
    assert desk.ask("announce", JTI) == "token_already_used"
    desk.later("burned", 1)
    assert desk.ask("announce", JTI) == "no_watcher"


def test_ten_announcements_a_minute(desk: Desk) -> None:
    desk.ask("watch", JTI, "one")
    for _ in range(10):
        assert desk.ask("announce", JTI) == "@one"
    assert desk.ask("announce", JTI) == "relay_overloaded"
    desk.later(f"inits:{JTI}", limits.INIT_WINDOW_SECONDS)
    assert desk.ask("announce", JTI) == "@one"


def test_strangers_leave_no_row_for_each_token_they_name(desk: Desk) -> None:
    before = desk.rows("*")
    for number in range(100):
        assert desk.ask("announce", f"bt_{number:032x}") == "no_watcher"
    assert desk.rows("*") == before


def with_few_rows(script: str, name: str, rows: int) -> str:
    """The same script with a smaller table: to fill a real one takes a minute."""
    real = {"MAX_ROWS": limits.MAX_ROWS, "MAX_BURNED": MAX_BURNED}[name]
    assert f"local {name} = {real}\n" in SCRIPTS[script]
    return SCRIPTS[script].replace(f"local {name} = {real}\n", f"local {name} = {rows}\n")


@pytest.mark.parametrize("kind", ["fail", "guess"])
def test_a_table_of_failures_has_an_end(desk: Desk, kind: str) -> None:
    """However many addresses somebody has, and however many codes he tries."""
    few = with_few_rows("connect", "MAX_ROWS", 100)
    for number in range(250):
        name = f"{number:06}"
        otc, client = ("000000", name) if kind == "fail" else (name, f"{number % 90}")
        desk.redis.eval(few, 1, PREFIX, otc, client)
        desk.redis.delete(f"{PREFIX}{'guess' if kind == 'fail' else 'fail'}:{client}")
    assert desk.redis.zcard(f"{PREFIX}{kind}:all") == 100
    assert desk.rows(f"{kind}:*") == 100 + 1  # and the table itself
    # The oldest went.
    assert not desk.redis.exists(f"{PREFIX}{kind}:000149")
    assert desk.redis.exists(f"{PREFIX}{kind}:000150")


def test_the_table_of_used_tokens_has_an_end(desk: Desk) -> None:
    few = with_few_rows("burn", "MAX_BURNED", 100)
    for number in range(150):
        desk.redis.eval(few, 1, PREFIX, f"bt_{number:032x}")
    assert desk.redis.zcard(f"{PREFIX}burned") == 100
    assert desk.redis.zscore(f"{PREFIX}burned", f"bt_{149:032x}") is not None


def test_everything_has_an_end_of_its_own(desk: Desk) -> None:
    desk.ask("listen", OTC, ANN, "one")
    desk.ask("connect", "000000", ANN)
    desk.ask("watch", JTI, "one")
    desk.ask("announce", JTI)
    desk.ask("burn", JTI)
    desk.ask("free", OTC, "one")
    for key in desk.redis.scan_iter("*"):
        assert 0 < desk.redis.ttl(key) <= limits.BURNED_JTI_SECONDS, key


def test_all_keys_are_in_one_slot_of_a_redis_cluster() -> None:
    """What is between the first braces decides; scripts make all keys from KEYS[1]."""
    assert PREFIX.count("{") == PREFIX.count("}") == 1
    for text in SCRIPTS.values():
        assert "'amesh" not in text

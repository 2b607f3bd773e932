"""Relays and a Redis in trouble, or set up as others set it up: real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from amesh_core.wire import relay as wire
from tests.support.cluster import (
    PATIENCE_SECONDS,
    ask,
    device,
    say,
    session,
    sharing,
    status,
    two_relays,
    until,
)
from tests.support.ports import free_port
from tests.support.redis import RedisServer, redis_server
from tests.support.relay import RelayProcess, hear, relay_process
from tests.support.tls import make_certificate


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def two(redis: RedisServer) -> Iterator[tuple[RelayProcess, RelayProcess]]:
    with two_relays(redis) as both:
        yield both


# --- a Redis in trouble -------------------------------------------------------------------


def test_a_redis_that_hangs_is_one_that_is_away(
    redis: RedisServer, two: tuple[RelayProcess, RelayProcess]
) -> None:
    """Nobody waits for it: not who asks, nor the guests; and afterwards all is well."""
    with session(*two, "222222") as far, device(two[0]) as asking, device(two[1]) as waiting:
        assert ask(waiting, wire.Listen("333333")) == wire.Ack()
        with redis.paused():
            say(asking, wire.Listen("111111"))
            assert hear(asking) == wire.RelayErrorFrame("relay_capacity")
            for end in far:
                assert hear(end) == wire.RelayErrorFrame("peer_disconnected")
            until(lambda: status(two[0], "/ready") == status(two[1], "/ready") == 503)
        until(lambda: status(two[0], "/ready") == status(two[1], "/ready") == 200)
        # Redis may have carried out what it did not answer: nobody has that code for it.
        until(lambda: isinstance(ask(asking, wire.Listen("111111")), wire.Ack))
        with device(two[0]) as controller:
            assert ask(controller, wire.Connect("333333")) == hear(waiting) == wire.PeerFound()


def test_a_relay_that_sleeps_counts_as_dead_and_is_when_it_wakes(
    redis: RedisServer, two: tuple[RelayProcess, RelayProcess]
) -> None:
    """Its code is taken meanwhile: only the new owner is found under it."""
    sleepy, awake = two
    with ExitStack() as on:
        away = on.enter_context(session(sleepy, awake, "111111"))
        back = on.enter_context(session(awake, sleepy, "222222"))
        near = on.enter_context(session(sleepy, sleepy, "333333"))
        old = on.enter_context(device(sleepy))
        assert ask(old, wire.Listen("482916")) == wire.Ack()
        node = redis.run("get", "amesh:{relay}:code:482916").split()[0]
        sleepy.process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: not redis.run("keys", f"*node:{node}"))
            new = on.enter_context(device(awake))
            assert ask(new, wire.Listen("482916")) == wire.Ack()
            assert hear(away[1]) == hear(back[0]) == wire.RelayErrorFrame("peer_disconnected")
            # What its devices send meanwhile, it finds when it wakes.
            say(away[0], wire.Data("nobody"))
            say(back[1], wire.Data("nobody"))
        finally:
            sleepy.process.send_signal(signal.SIGCONT)
        assert hear(away[0]) == hear(back[1]) == wire.RelayErrorFrame("peer_disconnected")
        assert hear(old) == wire.RelayErrorFrame("otc_expired")
        say(near[0], wire.Data("still here"))
        assert hear(near[1]) == wire.Data("still here")
        until(lambda: status(sleepy, "/ready") == 200)
        controller = on.enter_context(device(sleepy))
        assert ask(controller, wire.Connect("482916")) == hear(new) == wire.PeerFound()


def test_a_redis_that_forgets_its_scripts(
    redis: RedisServer, two: tuple[RelayProcess, RelayProcess]
) -> None:
    for number in range(2):
        redis.run("script", "flush")
        with session(*two, f"00000{number}"):
            redis.run("script", "flush")


def test_a_redis_that_forgets_everything(
    redis: RedisServer, two: tuple[RelayProcess, RelayProcess]
) -> None:
    with device(two[0]) as waiting, device(two[1]) as controller:
        assert ask(waiting, wire.Listen("482916")) == wire.Ack()
        redis.run("flushall")
        until(lambda: "482916" in redis.run("keys", "*"))
        until(lambda: len(redis.run("keys", "*node*").split()) == len(two))
        assert ask(controller, wire.Connect("482916")) == hear(waiting) == wire.PeerFound()


def test_a_full_redis_refuses_and_what_runs_goes_on(
    redis: RedisServer, two: tuple[RelayProcess, RelayProcess]
) -> None:
    with session(*two) as (target, controller), device(two[0]) as late:
        redis.run("config", "set", "maxmemory", "1")
        assert ask(late, wire.Listen("111111")) == wire.RelayErrorFrame("relay_capacity")
        say(target, wire.Data("across"))
        assert hear(controller) == wire.Data("across")
        assert status(two[0], "/ready") == 200
        redis.run("config", "set", "maxmemory", "0")
        assert ask(late, wire.Listen("111111")) == wire.Ack()
        assert two[0].log().count("the shared state refuses listen: OutOfMemoryError") == 1


# --- a Redis as others set it up -----------------------------------------------------------


def test_a_password_is_used_and_never_shown(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "geheim/+") as redis:
        where = f"127.0.0.1:{redis.port}/3"
        with relay_process("--state", f"redis://:geheim%2F%2B@{where}") as relay:
            until(lambda: status(relay, "/ready") == 200)
            with session(relay, relay):
                pass
            assert "geheim" not in relay.log()
        with relay_process("--state", f"redis://:falsch@{where}") as relay:
            until(lambda: "user name or password" in relay.log())
            assert status(relay, "/ready") == 503
            assert "falsch" not in relay.log()
            assert "geheim" not in relay.log()


def test_a_redis_at_a_path(tmp_path: Path) -> None:
    with (
        redis_server(tmp_path) as redis,
        relay_process("--state", f"unix://{redis.socket}?db=1") as relay,
    ):
        until(lambda: status(relay, "/ready") == 200)
        with session(relay, relay):
            assert redis.run("-n", "1", "keys", "*code*")


def test_a_redis_with_tls(tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    certfile, keyfile = made.certificate, made.key
    port = free_port()
    options = ("--tls-port", str(port), "--tls-auth-clients", "no")
    files = ("--tls-cert-file", str(certfile), "--tls-key-file", str(keyfile))
    url = f"rediss://127.0.0.1:{port}"
    with redis_server(tmp_path, *options, *files, "--tls-ca-cert-file", str(certfile)):
        with relay_process("--state", f"{url}?ssl_ca_certs={certfile}") as relay:
            until(lambda: status(relay, "/ready") == 200)
            with session(relay, relay):
                pass
        with relay_process("--state", url) as relay:
            until(lambda: "certificate verify failed" in relay.log())
            assert status(relay, "/ready") == 503


def test_a_node_of_a_redis_cluster(tmp_path: Path) -> None:
    """All keys are in one slot, so whoever has that slot has all of them."""
    with redis_server(tmp_path, "--cluster-enabled", "yes") as redis:
        redis.run("cluster", "addslotsrange", "0", "16383")
        until(lambda: "cluster_state:ok" in redis.run("cluster", "info"))
        with sharing(redis) as one, sharing(redis) as other:
            with session(one, other) as (target, controller):
                say(target, wire.Data("across"))
                assert hear(controller) == wire.Data("across")
            with device(one) as clumsy:
                assert ask(clumsy, wire.Connect("000000")) == wire.RelayErrorFrame("otc_not_found")
        slots = {redis.run("cluster", "keyslot", key) for key in redis.run("keys", "*").split()}
        assert len(slots) == 1


@pytest.mark.parametrize(
    ("options", "warns"),
    [
        (("--save", "60 1"), True),
        (("--appendonly", "yes"), True),
        ((), False),
        (("--save", "60 1", "--rename-command", "CONFIG", ""), False),  # nobody can know
    ],
)
def test_a_redis_that_writes_to_its_disk_is_told_of(
    tmp_path: Path, options: tuple[str, ...], warns: bool
) -> None:
    with redis_server(tmp_path, *options) as redis, sharing(redis) as relay:
        assert ("writes to its disk" in relay.log()) == warns


@pytest.mark.parametrize(
    ("options", "warns"),
    [
        (("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"), True),
        (("--maxmemory", "64mb", "--maxmemory-policy", "volatile-ttl"), True),
        (("--maxmemory", "64mb", "--maxmemory-policy", "noeviction"), False),
        (("--maxmemory-policy", "allkeys-lru"), False),  # never full
    ],
)
def test_a_redis_that_evicts_is_told_of(
    tmp_path: Path, options: tuple[str, ...], warns: bool
) -> None:
    """A used token that is forgotten could be announced again."""
    with redis_server(tmp_path, *options) as redis, sharing(redis) as relay:
        assert ("set its maxmemory-policy to noeviction" in relay.log()) == warns


@pytest.mark.parametrize(
    "url",
    [
        "redis://:ge/heim@host",
        "redis://host?geheim=1",
        "redis://host:geheim",
        "reddis://:geheim@host",
    ],
)
def test_a_url_that_cannot_work_is_refused_and_not_repeated(url: str) -> None:
    command = [sys.executable, "-m", "amesh_relay", "--port", "0", "--state", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode in (1, 2)
    assert "--state" in done.stderr
    assert "heim" not in done.stderr
    assert "Traceback" not in done.stderr

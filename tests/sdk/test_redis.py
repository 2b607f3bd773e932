"""The nonce store in Redis, against real servers: plain, with a password, TLS, a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
import redis
import redis.asyncio

from amesh_core.errors import NonceStoreFull, NonceStoreUnreachable, UsageError
from amesh_sdk.redis import RedisNonceStore
from tests.sdk.devices import Device
from tests.sdk.recorder import Recorder, refused, signed
from tests.support.asgi import body_of, run
from tests.support.ports import free_port
from tests.support.redis import PATIENCE_SECONDS, RedisServer, redis_server
from tests.support.tls import make_certificate

DEVICE: Final = "am_0123456789abcdef"
OTHER: Final = "am_fedcba9876543210"

Spend = Callable[[RedisNonceStore, str, str, int], bool]


def in_thread(store: RedisNonceStore, device_id: str, nonce: str, ttl_seconds: int = 60) -> bool:
    """`spend`, and the connection closed."""
    try:
        return store.spend(device_id, nonce, ttl_seconds)
    finally:
        store.close()


def in_loop(store: RedisNonceStore, device_id: str, nonce: str, ttl_seconds: int = 60) -> bool:
    """`aspend` in an event loop of its own."""

    async def main() -> bool:
        try:
            return await store.aspend(device_id, nonce, ttl_seconds)
        finally:
            await store.aclose()

    return asyncio.run(main())


@pytest.fixture(params=[in_thread, in_loop])
def spend(request: pytest.FixtureRequest) -> Spend:
    chosen: Spend = request.param
    return chosen


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    shared.run("FLUSHALL")
    shared.run("CONFIG", "SET", "maxmemory-policy", "noeviction")
    return shared


@pytest.fixture
def store(server: RedisServer) -> RedisNonceStore:
    return RedisNonceStore(server.url)


# --- spent once -------------------------------------------------------------------------


def test_a_nonce_is_spent_once(server: RedisServer, store: RedisNonceStore, spend: Spend) -> None:
    """Also by way of another process, which remembers nothing itself."""
    another = RedisNonceStore(server.url)
    assert spend(store, DEVICE, "n1", 60) is True
    assert spend(store, DEVICE, "n1", 60) is False
    assert spend(another, DEVICE, "n1", 60) is False
    assert spend(another, DEVICE, "n2", 60) is True
    assert spend(store, OTHER, "n1", 60) is True


def test_what_is_in_redis(server: RedisServer, store: RedisNonceStore, spend: Spend) -> None:
    spend(store, DEVICE, "nonce", 78)
    assert server.run("KEYS", "*") == f"amesh:nonce:{DEVICE}:nonce"
    assert 70_000 < int(server.run("PTTL", f"amesh:nonce:{DEVICE}:nonce")) <= 78_000


def test_services_with_prefixes_of_their_own(server: RedisServer, spend: Spend) -> None:
    for prefix in ("orders:", "billing:"):
        assert spend(RedisNonceStore(server.url, prefix=prefix), DEVICE, "n", 60) is True
    keys = set(server.run("KEYS", "*").split())
    assert keys == {f"orders:{DEVICE}:n", f"billing:{DEVICE}:n"}


def test_a_request_is_one_command(server: RedisServer, store: RedisNonceStore) -> None:
    def commands() -> int:
        said = server.run("INFO", "stats").split("total_commands_processed:")[1]
        return int(said.split()[0])

    async def both() -> tuple[int, int]:
        store.spend(DEVICE, "warm", 60)
        await store.aspend(DEVICE, "too", 60)
        before = commands()
        for number in range(20):
            store.spend(DEVICE, f"s{number}", 60)
        between = commands()
        for number in range(20):
            await store.aspend(DEVICE, f"a{number}", 60)
        after = commands()
        await store.aclose()
        return between - before, after - between

    counts = asyncio.run(both())
    store.close()
    assert counts == (21, 21)  # and the question itself


def test_of_many_at_once_one_is_the_first(server: RedisServer) -> None:
    """Eight stores as if in eight processes, 200 times the same nonce."""
    stores = [RedisNonceStore(server.url) for _ in range(8)]
    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(lambda n: stores[n % 8].spend(DEVICE, "n", 60), range(200)))
    for store in stores:
        store.close()
    assert sorted(results) == [False] * 199 + [True]

    async def main() -> list[bool]:
        results = await asyncio.gather(*(stores[n % 8].aspend(DEVICE, "m", 60) for n in range(200)))
        for store in stores:
            await store.aclose()
        return list(results)

    assert sorted(asyncio.run(main())) == [False] * 199 + [True]


@pytest.mark.alone
def test_many_different_ones_at_once(server: RedisServer, store: RedisNonceStore) -> None:
    """More than there are connections."""

    async def main() -> list[bool]:
        results = await asyncio.gather(*(store.aspend(DEVICE, str(n), 60) for n in range(500)))
        await store.aclose()
        return list(results)

    assert asyncio.run(main()) == [True] * 500
    assert server.run("DBSIZE") == "500"


# --- the URL is really used -------------------------------------------------------------


def test_the_url_is_really_used(server: RedisServer, tmp_path: Path, spend: Spend) -> None:
    """One was ignored once, and localhost:6379 asked."""
    with redis_server(tmp_path) as another:
        assert spend(RedisNonceStore(another.url), DEVICE, "n", 60) is True
        assert (another.run("DBSIZE"), server.run("DBSIZE")) == ("1", "0")
        assert spend(RedisNonceStore(f"{another.url}/3"), DEVICE, "n", 60) is True
        assert another.run("-n", "3", "DBSIZE") == "1"
        assert spend(RedisNonceStore(f"unix://{server.socket}"), DEVICE, "n", 60) is True
        assert server.run("DBSIZE") == "1"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "redis://",
        "http://host",
        "REDIS://host",
        "redis://:hun/ter2@host:6379/0",
        "redis://:hunter2@host:99999",
        "redis://:hunter2@host:6379/orders",
        "redis://:hunter2@host:6379/0/1",
        "redis+cluster://:hunter2@host:6379/3",
        "redis://:hunter2@host?socket_timeout=soon",
        "redis://:hunter2@host?sockettimeout=1",
        "redis://:hunter2@[::1",
        "unix://",
        "unix+cluster://host",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_at_once(url: str) -> None:
    with pytest.raises(UsageError, match="the Redis URL cannot be used") as caught:
        RedisNonceStore(url)
    assert "hun" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_cluster_is_named_by_the_scheme_alone(server: RedisServer, spend: Spend) -> None:
    server.run("CONFIG", "SET", "requirepass", "a+cluster")
    try:
        url = server.url.replace("//", "//:a+cluster@")
        assert spend(RedisNonceStore(url), DEVICE, "n", 60) is True
    finally:
        server.run("-a", "a+cluster", "CONFIG", "SET", "requirepass", "")


def test_a_url_or_a_client_and_nothing_else(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        with pytest.raises(UsageError, match="one of them"):
            RedisNonceStore()
        with pytest.raises(UsageError, match="one of them"):
            RedisNonceStore(server.url, client=client)
    with pytest.raises(UsageError, match="redis-py"):
        RedisNonceStore(client="redis://localhost")  # type: ignore[arg-type] # as a script would


# --- kinds of servers -------------------------------------------------------------------


def test_with_a_user_and_a_password(
    tmp_path: Path, spend: Spend, caplog: pytest.LogCaptureFixture
) -> None:
    """A user may have the one command and nothing else; then the policy stays unknown."""
    caplog.set_level(logging.DEBUG)
    with redis_server(tmp_path) as server:
        server.run("ACL", "SETUSER", "shop", "on", ">p@ss/word", "~amesh:nonce:*", "+set")
        url = server.url.replace("//", "//shop:p%40ss%2Fword@")
        store = RedisNonceStore(url)
        assert [spend(store, DEVICE, "n", 60), spend(store, DEVICE, "n", 60)] == [True, False]
        assert spend(RedisNonceStore(url), DEVICE, "n", 60) is False
    assert caplog.text.count("nonce_store_policy_unknown") == 2
    assert "p@ss" not in caplog.text
    assert "p%40ss" not in caplog.text
    assert "p@ss" not in repr(store)


@pytest.mark.parametrize("user", ["", ":wrong-secret@", "shop:wrong-secret@"])
def test_a_wrong_password_is_no_permission(tmp_path: Path, spend: Spend, user: str) -> None:
    with redis_server(tmp_path, "--requirepass", "right-secret") as server:
        with pytest.raises(NonceStoreUnreachable) as caught:
            spend(RedisNonceStore(server.url.replace("//", f"//{user}")), DEVICE, "n", 60)
        said = str(caught.value)
        assert said.startswith(f"Redis at 127.0.0.1:{server.port}: ")
        assert ("password" if user else "Authentication required") in said
        assert "secret" not in said
        assert server.run("-a", "right-secret", "DBSIZE") == "0"


def test_over_tls(tmp_path: Path, spend: Spend) -> None:
    made = make_certificate(tmp_path)
    options = [
        *("--tls-cert-file", str(made.certificate), "--tls-key-file", str(made.key)),
        *("--tls-ca-cert-file", str(made.certificate), "--tls-auth-clients", "no"),
    ]
    with redis_server(tmp_path, *options) as server:
        port = free_port()
        server.run("CONFIG", "SET", "tls-port", str(port))
        url = f"rediss://localhost:{port}?ssl_ca_certs={made.certificate}"
        assert spend(RedisNonceStore(url), DEVICE, "n", 60) is True
        # Whose certificate nobody vouches for is not talked to.
        with pytest.raises(NonceStoreUnreachable, match="certificate"):
            spend(RedisNonceStore(f"rediss://localhost:{port}"), DEVICE, "m", 60)
        assert server.run("DBSIZE") == "1"


def test_a_cluster(tmp_path: Path, spend: Spend, caplog: pytest.LogCaptureFixture) -> None:
    with redis_server(tmp_path, "--cluster-enabled", "yes") as server:
        url = server.url.replace("redis", "redis+cluster")
        store = RedisNonceStore(url, timeout_seconds=5)
        with pytest.raises(NonceStoreUnreachable):  # no slot is served yet
            spend(store, DEVICE, "n", 60)
        server.run("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        _wait_until(lambda: "cluster_state:ok" in server.run("CLUSTER", "INFO"))
        for number in range(10):
            assert spend(store, DEVICE, f"n{number}", 60) is True
            assert spend(RedisNonceStore(url), DEVICE, f"n{number}", 60) is False
        server.run("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        assert spend(RedisNonceStore(url), DEVICE, "m", 60) is True
        assert server.run("DBSIZE") == "11"
    assert "maxmemory-policy allkeys-lru" in caplog.text


def _wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < until


# --- clients of one's own ---------------------------------------------------------------


def test_a_client_of_ones_own(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        store = RedisNonceStore(client=client)
        assert [in_thread(store, DEVICE, "n"), in_thread(store, DEVICE, "n")] == [True, False]
        assert [in_loop(store, DEVICE, "m"), in_loop(store, DEVICE, "m")] == [True, False]
        assert client.dbsize() == 2  # it is still open


def test_an_asyncio_client_of_ones_own(server: RedisServer) -> None:
    async def main() -> list[bool]:
        async with redis.asyncio.Redis.from_url(server.url) as client:
            stores = [RedisNonceStore(client=client) for _ in range(2)]
            results = [await store.aspend(DEVICE, "n", 60) for store in stores]
            await stores[0].aclose()
            assert await client.dbsize() == 1  # it is still open
            with pytest.raises(UsageError, match="asyncio"):
                stores[0].spend(DEVICE, "m", 60)
        return results

    assert asyncio.run(main()) == [True, False]


# --- when it cannot answer --------------------------------------------------------------


def test_where_nobody_listens(spend: Spend) -> None:
    server = RedisServer(Path())
    with pytest.raises(NonceStoreUnreachable, match=f"127.0.0.1:{server.port}"):
        spend(RedisNonceStore(server.url), DEVICE, "n", 60)


@contextmanager
def answering(reply: Callable[[bytes], bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers each piece of input; its URL, and what came."""
    came: list[bytes] = []
    connections: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                with connection, contextlib.suppress(OSError):
                    while data := connection.recv(65536):
                        came.append(data)
                        if not (said := reply(data)):
                            break
                        connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}", came
        finally:
            for each in (listener, *connections):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()


@pytest.fixture
def silence() -> Iterator[str]:
    """Takes connections into its backlog, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.alone
def test_a_server_that_says_nothing_is_waited_for_so_long(silence: str, spend: Spend) -> None:
    """It took 8 to 31 s until a 500 once."""
    before = time.monotonic()
    with pytest.raises(NonceStoreUnreachable, match=r"[Tt]imeout"):
        spend(RedisNonceStore(silence, timeout_seconds=0.2), DEVICE, "n", 60)
    assert 0.2 <= time.monotonic() - before < 2


def test_waiting_does_not_keep_the_event_loop(silence: str) -> None:
    async def main() -> int:
        store = RedisNonceStore(silence, timeout_seconds=0.2)
        waiting = asyncio.create_task(store.aspend(DEVICE, "n", 60))
        turns = 0
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0.001)
        with pytest.raises(NonceStoreUnreachable):
            await waiting
        await store.aclose()
        return turns

    assert asyncio.run(main()) > 20


def test_a_lost_answer_is_not_asked_for_again(spend: Spend) -> None:
    """The second SET would find the key of the first, and call an honest request a replay."""

    def reply(data: bytes) -> bytes:
        if b"SET\r\n" in data and b"SETINFO" not in data:
            return b""
        if b"INFO\r\n" in data and b"SETINFO" not in data:
            text = b"maxmemory_policy:noeviction\r\n"
            return b"$%d\r\n%b\r\n" % (len(text), text)
        return b"+OK\r\n" * data.count(b"CLIENT") or b"+OK\r\n"

    with answering(reply) as (url, came):
        with pytest.raises(NonceStoreUnreachable):
            spend(RedisNonceStore(url), DEVICE, "n", 60)
        asked = b"".join(came).count(b"$3\r\nSET\r\n")
    assert asked == 1


def test_a_strange_answer_is_no_permission(spend: Spend) -> None:
    def reply(data: bytes) -> bytes:
        if b"NX" in data:
            return b"+QUEUED\r\n"
        if b"INFO\r\n" in data and b"SETINFO" not in data:
            return b"-NOPERM no\r\n"
        return b"+OK\r\n" * data.count(b"CLIENT") or b"+OK\r\n"

    with answering(reply) as (url, _):
        assert spend(RedisNonceStore(url), DEVICE, "n", 60) is False


def test_killed_and_started_again(tmp_path: Path, spend: Spend) -> None:
    """The same store works on, without a restart of its process."""
    with redis_server(tmp_path) as server:
        store = RedisNonceStore(server.url)
        assert spend(store, DEVICE, "n1", 60) is True
        server.kill()
        for number in range(3):
            with pytest.raises(NonceStoreUnreachable):
                spend(store, DEVICE, f"down{number}", 60)
        server.start()
        assert spend(store, DEVICE, "n2", 60) is True
        # Redis came back empty, but this process knows what it accepted.
        assert spend(store, DEVICE, "n1", 60) is False
        # Another one does not: docs/redis.md says what to do.
        assert spend(RedisNonceStore(server.url), DEVICE, "n1", 60) is True


def test_connections_that_were_kept_over_a_restart(tmp_path: Path) -> None:
    async def main(server: RedisServer) -> list[bool]:
        store = RedisNonceStore(server.url)
        results = [await store.aspend(DEVICE, "n1", 60), store.spend(DEVICE, "n2", 60)]
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        results += [await store.aspend(DEVICE, "n3", 60), store.spend(DEVICE, "n4", 60)]
        await store.aclose()
        store.close()
        return results

    with redis_server(tmp_path) as server:
        assert asyncio.run(main(server)) == [True] * 4


def test_a_redis_without_memory_is_full(
    server: RedisServer, store: RedisNonceStore, spend: Spend
) -> None:
    server.run("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(NonceStoreFull, match="no memory"):
            spend(store, DEVICE, "n", 60)
    finally:
        server.run("CONFIG", "SET", "maxmemory", "0")


def test_a_replica_that_only_reads_is_no_store(
    server: RedisServer, tmp_path: Path, spend: Spend
) -> None:
    with (
        redis_server(tmp_path, "--replicaof", f"127.0.0.1 {server.port}") as replica,
        pytest.raises(NonceStoreUnreachable),
    ):
        spend(RedisNonceStore(replica.url), DEVICE, "n", 60)


# --- shares and policies ----------------------------------------------------------------


def test_no_device_uses_up_the_share_of_another(server: RedisServer, spend: Spend) -> None:
    store = RedisNonceStore(server.url, max_nonces_per_device=3)
    for number in range(3):
        assert spend(store, DEVICE, f"n{number}", 60) is True
    assert spend(store, DEVICE, "n0", 60) is False
    for number in range(3, 10):
        with pytest.raises(NonceStoreFull):
            spend(store, DEVICE, f"n{number}", 60)
    assert spend(store, OTHER, "n", 60) is True
    assert server.run("DBSIZE") == "4"


def test_a_replay_uses_up_nothing(server: RedisServer, spend: Spend) -> None:
    store = RedisNonceStore(server.url, max_nonces_per_device=2)
    assert spend(store, DEVICE, "n0", 60) is True
    for _ in range(20):
        assert spend(store, DEVICE, "n0", 60) is False
    assert spend(store, DEVICE, "n1", 60) is True


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "noeviction"])
def test_a_redis_that_forgets_nonces_is_warned_of_once(
    server: RedisServer,
    store: RedisNonceStore,
    spend: Spend,
    policy: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.run("CONFIG", "SET", "maxmemory-policy", policy)
    for number in range(3):
        assert spend(store, DEVICE, f"n{number}", 60) is True
    said = [record for record in caplog.records if record.name == "amesh.verify"]
    assert [f"maxmemory-policy {policy}" in record.getMessage() for record in said] == (
        [] if policy == "noeviction" else [True]
    )


def test_the_policy_is_seen_when_redis_is_there(
    tmp_path: Path, spend: Spend, caplog: pytest.LogCaptureFixture
) -> None:
    """Not before, and then still once."""
    server = RedisServer(tmp_path, "--maxmemory-policy", "allkeys-lru")
    store = RedisNonceStore(server.url)
    with pytest.raises(NonceStoreUnreachable):
        spend(store, DEVICE, "n0", 60)
    assert caplog.records == []
    try:
        server.start()
        assert spend(store, DEVICE, "n1", 60) is True
    finally:
        server.kill()
    assert caplog.text.count("allkeys-lru") == 1


# --- in its place -----------------------------------------------------------------------


def test_event_loops_one_after_the_other(store: RedisNonceStore) -> None:
    assert [in_loop(store, DEVICE, f"n{number}") for number in range(3)] == [True] * 3


FORKING = """
import os, sys
from amesh_sdk.redis import RedisNonceStore

store = RedisNonceStore(sys.argv[1])
assert store.spend("am_x", "before", 60)
children = []
for number in range(4):
    if not (child := os.fork()):
        results = [store.spend("am_x", f"{number}.{n}", 60) for n in range(50)]
        os._exit(0 if results == [True] * 50 and not store.spend("am_x", "before", 60) else 1)
    children.append(child)
assert all(store.spend("am_x", f"parent.{n}", 60) for n in range(50))
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
"""


def test_after_a_fork(server: RedisServer) -> None:
    """gunicorn --preload: connections are not shared with the parent."""
    subprocess.run([sys.executable, "-c", FORKING, server.url], check=True)
    assert server.run("DBSIZE") == "251"


def test_behind_the_middleware(target: Device, controller: Device, server: RedisServer) -> None:
    """Two processes that share a Redis, and a store that is out of reach."""

    def accepted(store: RedisNonceStore) -> tuple[int, bytes]:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await recorder(scope, receive, send)
            await store.aclose()

        return refused(target.protect(app, nonce_store=store), scope)

    recorder = Recorder()
    scope = signed(controller, "GET", "/orders")
    assert accepted(RedisNonceStore(server.url))[0] == 200
    replayed = RedisNonceStore(client=redis.Redis.from_url(server.url))
    assert accepted(replayed) == (401, b'{"error":"unauthorized"}')
    scope = signed(controller, "GET", "/orders")
    away = RedisNonceStore(RedisServer(Path()).url)
    assert accepted(away) == (503, b'{"error":"unavailable"}')
    assert len(recorder.scopes) == 1
    assert server.run("DBSIZE") == "1"


class BothSpellings:
    """A store of somebody else's that has them too."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def spend(self, device_id: str, nonce: str, ttl_seconds: int) -> bool:
        raise AssertionError("this one would keep the event loop, or a thread")

    async def aspend(self, device_id: str, nonce: str, ttl_seconds: int) -> bool:
        self.threads.append(threading.current_thread().name)
        return len(self.threads) == 1


def test_in_an_event_loop_the_asynchronous_spelling_is_used(
    target: Device, controller: Device
) -> None:
    store = BothSpellings()
    app = target.protect(Recorder(), nonce_store=store)
    scopes = [signed(controller, "GET", "/") for _ in range(2)]
    assert [run(app, scope, body_of()).status for scope in scopes] == [200, 401]
    assert store.threads == [threading.current_thread().name] * 2


def test_a_missing_redis_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "amesh_sdk.redis")
    with pytest.raises(ImportError, match=r"redis is not installed: .*'authmesh\[redis\]'"):
        import_module("amesh_sdk.redis")

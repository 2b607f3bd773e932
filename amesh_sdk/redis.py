"""A nonce store that many processes and machines share; docs/redis.md.

One command for each request, `SET key 1 NX EX ttl`: of any number that arrive with one nonce,
Redis answers one of them that it was new. No answer is never "new".
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from amesh_core.errors import NonceStoreFull, NonceStoreUnreachable, UsageError
from amesh_core.nonces import DEFAULT_NONCES_PER_DEVICE, MemoryNonceStore
from amesh_sdk.answers import warn
from amesh_sdk.extras import missing

try:
    import redis
    import redis.asyncio
    from redis.backoff import NoBackoff
    from redis.exceptions import (
        OutOfMemoryError,
        RedisClusterException,
        RedisError,
        ResponseError,
    )
    from redis.retry import Retry
except ImportError as error:
    raise missing("redis", error) from None

_SCHEMES: Final = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
_CLUSTER: Final = "+cluster"
_PATH: Final = re.compile(r"/?|/[0-9]+")
_CLUSTER_PATH: Final = re.compile(r"/?|/0")
# Each is busy for a fraction of a millisecond: more would only wait in Redis instead of here.
_MAX_CONNECTIONS: Final = 32
_DEFAULT_PORT: Final = 6379

SyncClient = redis.Redis | redis.RedisCluster
AsyncClient = redis.asyncio.Redis | redis.asyncio.RedisCluster


class RedisNonceStore:
    """Nonces in a Redis that all servers share, in both spellings: `spend` and `aspend`.

    `RedisNonceStore(os.environ["REDIS_URL"])`, or `RedisNonceStore(client=...)` with a client of
    redis-py, sync or asyncio. Nothing is sent before the first request.

    What this process accepted it also remembers itself, up to `max_nonces_per_device`: so no
    device can fill Redis, and a Redis that lost its memory has not lost all of it.

    Args:
        url: redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, unix:///PATH, or
            redis+cluster:// and rediss+cluster:// for a cluster.
        client: a client of your own, instead; let it not retry by itself.
        prefix: before every key, for several services in one Redis.
        timeout_seconds: how long to wait for a connection, and for an answer.
        max_nonces_per_device: what one device may have remembered by way of this process.

    Raises:
        UsageError: a URL that cannot be used, not exactly one of `url` and `client`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: SyncClient | AsyncClient | None = None,
        prefix: str = "amesh:nonce:",
        timeout_seconds: float = 1.0,
        max_nonces_per_device: int = DEFAULT_NONCES_PER_DEVICE,
    ) -> None:
        if (url is None) == (client is None):
            raise UsageError("RedisNonceStore needs a URL or a client=, one of them")
        if client is not None and not isinstance(client, SyncClient | AsyncClient):
            raise UsageError("client= must be a client of redis-py: redis.Redis(...)")
        self._where = "Redis" if url is None else f"Redis at {_address(url)}"
        self._url = url or ""
        self._prefix = prefix
        self._timeout_seconds = timeout_seconds
        self._own = MemoryNonceStore(
            clock=time.monotonic, max_nonces_per_device=max_nonces_per_device
        )
        self._policy_seen = False
        self._given = client
        self._client: SyncClient | None = None
        self._lock = Lock()
        # Connections belong to the event loop in which they were made.
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient]
        self._clients = WeakKeyDictionary()

    def spend(self, device_id: str, nonce: str, ttl_seconds: int) -> bool:
        """Remember the nonce for at least `ttl_seconds`; False if it was known already.

        Raises:
            NonceStoreFull: this device's share is used up, or Redis has no memory left.
            NonceStoreUnreachable: Redis did not answer in time, or refused.
            UsageError: the client given is one of asyncio.
        """
        if not self._own.spend(device_id, nonce, ttl_seconds):
            return False
        with self._translated():
            client = self._sync_client()
            if not self._policy_seen:
                with self._seeing_policy():
                    _warn_of_eviction(client.info("memory", **_everywhere(client)))
            # Redis never says anything but "OK" to what it did not know.
            return client.set(self._key(device_id, nonce), 1, nx=True, ex=ttl_seconds) is True

    async def aspend(self, device_id: str, nonce: str, ttl_seconds: int) -> bool:
        """As `spend`, for an event loop."""
        if isinstance(self._given, SyncClient):
            return await asyncio.to_thread(self.spend, device_id, nonce, ttl_seconds)
        if not self._own.spend(device_id, nonce, ttl_seconds):
            return False
        with self._translated():
            client = self._async_client()
            if not self._policy_seen:
                with self._seeing_policy():
                    _warn_of_eviction(await client.info("memory", **_everywhere(client)))
            key = self._key(device_id, nonce)
            return await client.set(key, 1, nx=True, ex=ttl_seconds) is True

    def close(self) -> None:
        """Close what `spend` opened; not a client that was given."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close what `aspend` opened in this event loop; not a client that was given."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _key(self, device_id: str, nonce: str) -> str:
        return f"{self._prefix}{device_id}:{nonce}"

    def _sync_client(self) -> SyncClient:
        if isinstance(self._given, SyncClient):
            return self._given
        if self._given is not None:
            raise UsageError("this nonce store has a client of asyncio: give it redis.Redis(...)")
        with self._lock:
            if self._client is None:
                self._client = _connect(self._url, self._timeout_seconds)
            return self._client

    def _async_client(self) -> AsyncClient:
        if isinstance(self._given, AsyncClient):
            return self._given
        loop = asyncio.get_running_loop()
        if (client := self._clients.get(loop)) is None:
            client = self._clients[loop] = _aconnect(self._url, self._timeout_seconds)
        return client

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """From what redis-py raises to what a nonce store does."""
        try:
            yield
        except OutOfMemoryError:
            raise NonceStoreFull(f"{self._where} has no memory left") from None
        except (RedisError, RedisClusterException, OSError) as error:
            raise NonceStoreUnreachable(f"{self._where}: {error}") from None

    @contextmanager
    def _seeing_policy(self) -> Iterator[None]:
        """Once in a process; not at the start, which must not need Redis."""
        self._policy_seen = True
        try:
            yield
        except ResponseError as error:
            warn(
                "nonce_store_policy_unknown",
                f"cannot see whether {self._where} evicts nonces: {error}",
            )
        except (RedisError, RedisClusterException, OSError):
            self._policy_seen = False
            raise


def _warn_of_eviction(info: Mapping[str, Any]) -> None:
    """Warn if a Redis would rather forget nonces than refuse new ones."""
    servers = [info] if "maxmemory_policy" in info else list(info.values())
    for policy in {server["maxmemory_policy"] for server in servers} - {"noeviction"}:
        warn(
            "nonce_store_evicts",
            f"Redis has maxmemory-policy {policy}: when its memory is full it forgets nonces, "
            "and requests can be replayed; set noeviction",
        )


def _everywhere(client: SyncClient | AsyncClient) -> dict[str, Any]:
    """The arguments that ask all nodes of a cluster."""
    if isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster):
        return {"target_nodes": redis.RedisCluster.PRIMARIES}
    return {}


def _connect(url: str, timeout_seconds: float) -> SyncClient:
    options = _options(timeout_seconds)
    plain, is_cluster = _plain(url)
    if is_cluster:
        return redis.RedisCluster.from_url(plain, **options)
    pool = redis.BlockingConnectionPool.from_url(
        plain, max_connections=_MAX_CONNECTIONS, timeout=timeout_seconds, **options
    )
    return redis.Redis.from_pool(pool)


def _aconnect(url: str, timeout_seconds: float) -> AsyncClient:
    options = _options(timeout_seconds)
    plain, is_cluster = _plain(url)
    if is_cluster:
        return redis.asyncio.RedisCluster.from_url(plain, **options)
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        plain, max_connections=_MAX_CONNECTIONS, timeout=timeout_seconds, **options
    )
    return redis.asyncio.Redis.from_pool(pool)


def _options(timeout_seconds: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        # redis-py would retry by itself: a SET whose answer was lost would find its own key,
        # and an honest request would be called a replay.
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # one command needs no more, and no greeting
    }


def _plain(url: str) -> tuple[str, bool]:
    """The URL as redis-py knows it, and whether it names a cluster."""
    scheme, separator, rest = url.partition("://")
    return scheme.removesuffix(_CLUSTER) + separator + rest, scheme.endswith(_CLUSTER)


def _address(url: str) -> str:
    """Host and port, or path, of a URL that can be used; what else it holds may be secret.

    Raises:
        UsageError: it cannot. The message does not repeat it.
    """
    try:
        parts = urlsplit(url)
        place = parts.path if parts.scheme == "unix" else parts.hostname
        port = parts.port or _DEFAULT_PORT
        # Nothing is sent; it finds the options that are unknown or no number.
        redis.ConnectionPool.from_url(_plain(url)[0]).make_connection()
        # redis-py takes a database that is no number for number 0; a cluster has only that.
        database = _CLUSTER_PATH if _plain(url)[1] else _PATH
        if parts.scheme != "unix" and not database.fullmatch(parts.path):
            place = None
    except (ValueError, TypeError):
        place = None
    if not place or parts.scheme not in _SCHEMES:
        raise UsageError(
            "the Redis URL cannot be used: it is redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], or "
            "rediss://, unix:///PATH, redis+cluster:// or rediss+cluster://, with / ? # @ : and % "
            "of a password percent-encoded"
        )
    return place if parts.scheme == "unix" else f"{place}:{port}"

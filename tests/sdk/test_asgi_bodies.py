"""Bodies: handed on exactly, read no further than they deserve, spent once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from amesh_core.errors import NonceStoreUnreachable
from amesh_core.nonces import MemoryNonceStore
from amesh_sdk.asgi import ONE_MIB
from tests.sdk.devices import Device
from tests.sdk.recorder import DISCONNECT, Recorder, late, refused, signed
from tests.support.asgi import Message, body_of, run, scope_of


@pytest.mark.parametrize(
    "chunks",
    [
        (),
        (b"",),
        (b'{"amount":100}',),
        (b"one", b"", b"two", b""),
        (bytes(range(256)) * 10,),
        (b"\xff\xfe not UTF-8 \x80",),
        (b"x" * 60_000,) * 4,
        (b"x" * ONE_MIB,),
        (b"x" * (ONE_MIB - 1), b"x"),
    ],
    ids=["none", "empty", "json", "pieces", "binary", "not-utf8", "many", "limit", "limit-in-two"],
)
def test_the_app_gets_the_body_exactly(
    target: Device, controller: Device, chunks: tuple[bytes, ...]
) -> None:
    app = Recorder(reads=2)
    body = b"".join(chunks)
    result = run(
        target.protect(app),
        signed(controller, "POST", "/orders", body),
        [*body_of(*chunks), DISCONNECT],
    )
    assert result.status == 200
    assert app.messages == [
        {"type": "http.request", "body": body, "more_body": False},
        DISCONNECT,  # then the server speaks for itself again
    ]


# --- bodies that are not read -----------------------------------------------------------


def endless(chunk_bytes: int = 64 * 1024, total_bytes: int = 400 * ONE_MIB) -> Iterator[Message]:
    for _ in range(total_bytes // chunk_bytes):
        yield {"type": "http.request", "body": b"x" * chunk_bytes, "more_body": True}


def test_nothing_is_read_before_the_head_is_good(
    target: Device, controller: Device, stranger: Device
) -> None:
    recorder = Recorder()
    app = target.protect(recorder)
    late_header = controller.sign("POST", "/", clock=late)
    for scope, status in [
        (scope_of("POST", "/"), 400),
        (scope_of("POST", "/", [(b"authorization", b"AuthMesh junk")]), 400),
        (signed(stranger, "POST", "/"), 401),
        (scope_of("POST", "/", [(b"authorization", late_header)]), 401),
        (scope_of("POST", "//x", [(b"authorization", controller.sign("POST", "/"))]), 400),
    ]:
        result = run(app, scope, endless())
        assert (result.status, result.messages_read) == (status, 0)
    assert not recorder.scopes


def test_a_forged_body_is_read_up_to_the_limit(target: Device, controller: Device) -> None:
    app = target.protect(Recorder(), max_body_bytes=10 * 64 * 1024)
    result = run(app, signed(controller, "POST", "/"), endless())
    assert (result.status, result.body) == (413, b'{"error":"payload_too_large"}')
    assert result.messages_read == 11


def test_an_announced_length_over_the_limit_is_not_read(target: Device, controller: Device) -> None:
    app = target.protect(Recorder(), max_body_bytes=100)
    scope = signed(controller, "POST", "/", b"x")
    scope["headers"].append((b"content-length", b"101"))
    result = run(app, scope, endless())
    assert (result.status, result.messages_read) == (413, 0)


@pytest.mark.parametrize("over", [0, 1])
def test_the_limit_is_exact(target: Device, controller: Device, over: int) -> None:
    app = target.protect(Recorder(), max_body_bytes=100)
    body = b"x" * (100 + over)
    scope = signed(controller, "POST", "/", body)
    scope["headers"].append((b"content-length", b"%d" % len(body)))
    assert run(app, scope, body_of(body)).status == (413 if over else 200)
    scope = signed(controller, "POST", "/", body)
    assert run(app, scope, body_of(body[:50], body[50:])).status == (413 if over else 200)


@pytest.mark.parametrize("length", [b"-1", b"+5", b"1_0", b"0x10", b"5, 5", b"", b"9" * 5000])
def test_an_odd_content_length_is_a_bad_request(
    target: Device, controller: Device, length: bytes
) -> None:
    scope = signed(controller, "POST", "/")
    scope["headers"].append((b"content-length", length))
    result = run(target.protect(Recorder()), scope, endless())
    assert (result.body, result.messages_read) == (b'{"error":"malformed_request"}', 0)


def test_two_content_lengths_are_a_bad_request(target: Device, controller: Device) -> None:
    scope = signed(controller, "POST", "/", b"x")
    scope["headers"] += [(b"content-length", b"1"), (b"content-length", b"2")]
    assert run(target.protect(Recorder()), scope, body_of(b"x")).status == 400


def test_a_client_that_leaves_early_is_not_answered(target: Device, controller: Device) -> None:
    recorder = Recorder()
    first, *_ = body_of(b"half", b"")
    scope = signed(controller, "POST", "/", b"half")
    result = run(target.protect(recorder), scope, [first, DISCONNECT])
    assert (result.sent, recorder.scopes) == ([], [])


# --- spent once -------------------------------------------------------------------------


def test_a_lost_nonce_store_answers_503(target: Device, controller: Device) -> None:
    class Lost:
        async def spend(self, device_id: str, nonce: str, ttl_seconds: int) -> bool:
            raise NonceStoreUnreachable("no connection")

    recorder = Recorder()
    app = target.protect(recorder, nonce_store=Lost())
    assert refused(app, signed(controller, "GET", "/")) == (503, b'{"error":"unavailable"}')
    assert not recorder.scopes


class Shared:
    """A nonce store for several processes, as somebody might write one."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()
        self.calls: list[tuple[str, str, int]] = []

    def spend(self, device_id: str, nonce: str, ttl_seconds: int) -> bool:
        # What waits for a network must not keep the event loop.
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        self.calls.append((device_id, nonce, ttl_seconds))
        fresh = (device_id, nonce) not in self.seen
        self.seen.add((device_id, nonce))
        return fresh


class SharedAsync:
    """The same for an event loop."""

    def __init__(self) -> None:
        self._store = Shared()
        self.calls = self._store.calls

    async def spend(self, device_id: str, nonce: str, ttl_seconds: int) -> bool:
        return await asyncio.to_thread(self._store.spend, device_id, nonce, ttl_seconds)


@pytest.mark.parametrize("kind", [Shared, SharedAsync])
def test_a_nonce_store_can_be_shared(
    target: Device, controller: Device, kind: type[Shared] | type[SharedAsync]
) -> None:
    store = kind()
    one, other = (target.protect(Recorder(), nonce_store=store) for _ in range(2))
    scope = signed(controller, "GET", "/")
    assert run(one, dict(scope, state={}), body_of()).status == 200
    assert run(other, dict(scope, state={}), body_of()).status == 401
    assert [call[0] for call in store.calls] == [controller.device_id] * 2
    assert store.calls[0][2] >= 60


def test_forgeries_neither_burn_nor_fill_the_store(target: Device, controller: Device) -> None:
    """One nonce is all this store may hold for a device."""
    store = MemoryNonceStore(clock=time.monotonic, max_nonces_per_device=1)
    app = target.protect(Recorder(), nonce_store=store)
    good = signed(controller, "POST", "/orders", b"genuine")
    for number in range(50):
        forged = dict(good, state={})
        assert run(app, forged, body_of(b"%d" % number)).status == 401
        forged = scope_of("POST", "/orders", [(b"authorization", controller.sign("GET", "/"))])
        assert run(app, forged, body_of(b"x")).status == 401
    assert run(app, good, body_of(b"genuine")).status == 200
    assert run(app, signed(controller, "GET", "/"), body_of()).status == 503

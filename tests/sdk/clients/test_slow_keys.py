"""A key that takes its time, as a chip does: nobody else has to wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx2
import pytest
from aiohttp import ClientSession

from amesh_core.identity import DeviceKey
from amesh_core.io.home import Home
from amesh_sdk.opened import OpenHome
from amesh_sdk.signer import Signer
from tests.sdk.clients.scripted import KEEP, Scripted, scripted
from tests.sdk.devices import Device
from tests.support.asgi import PATIENCE_SECONDS

T = TypeVar("T")


class SlowKey:
    """A key in a chip: one signature at a time, each as slow as the event loop lets it be.

    It signs when the event loop has turned often enough meanwhile; if the loop is kept by
    the signature itself, that is never.
    """

    def __init__(self, key: DeviceKey) -> None:
        self._key = key
        self._busy = threading.Lock()
        self._turned = threading.Condition()
        self._turns = 0

    @property
    def public(self) -> bytes:
        return self._key.public

    def sign(self, message: bytes) -> bytes:
        assert self._busy.acquire(blocking=False), "a chip makes one signature at a time"
        try:
            with self._turned:
                enough = self._turns + 100
                went_on = self._turned.wait_for(lambda: self._turns >= enough, PATIENCE_SECONDS / 4)
            assert went_on, "the event loop stands still"
            return self._key.sign(message)
        finally:
            self._busy.release()

    def mac(self, message: bytes) -> bytes:
        return self._key.mac(message)

    async def while_others_work(self, *work: Awaitable[T]) -> list[T]:
        """Do the work, and tell the key of every turn of the event loop."""
        doing = asyncio.gather(*work)
        while not doing.done():
            with self._turned:
                self._turns += 1
                self._turned.notify_all()
            await asyncio.sleep(0)
        return await doing


@pytest.fixture
def slow(controller: Device, monkeypatch: pytest.MonkeyPatch) -> SlowKey:
    """The controller's key, made slow for whoever opens its directory."""
    key = SlowKey(controller.home.key())
    monkeypatch.setattr(Home, "key", lambda _: key)
    return key


Send = Callable[[Device, Scripted], Awaitable[None]]


async def with_fetch(device: Device, server: Scripted) -> None:
    assert (await device.amesh.afetch(server.url, method="POST", data="x")).status_code == 200


async def with_httpx2(device: Device, server: Scripted) -> None:
    async with httpx2.AsyncClient(auth=device.amesh.auth(), trust_env=False) as client:
        assert (await client.post(server.url, content=b"x")).status_code == 200


async def with_aiohttp(device: Device, server: Scripted) -> None:
    middlewares = (device.amesh.aiohttp_middleware(server.url),)
    async with (
        ClientSession(middlewares=middlewares) as session,
        session.post(server.url, data=b"x") as response,
    ):
        assert response.status == 200


async def by_hand(device: Device, server: Scripted) -> None:
    headers = await device.amesh.asign("POST", server.url + "/", b"x")
    async with httpx2.AsyncClient(trust_env=False) as client:
        response = await client.post(server.url, content=b"x", headers=headers)
        assert response.status_code == 200


@pytest.mark.parametrize("send", [with_fetch, with_httpx2, with_aiohttp, by_hand])
def test_the_event_loop_is_not_kept_while_a_key_signs(
    controller: Device, slow: SlowKey, send: Send
) -> None:
    async def main() -> None:
        await slow.while_others_work(*(send(controller, server) for _ in range(3)))

    with scripted(KEEP) as server:
        asyncio.run(main())
    assert len(server.verified(by=controller)) == 3


def test_signatures_that_stand_in_line_have_timestamps_of_their_own(
    controller: Device, slow: SlowKey
) -> None:
    """Taken when the key's turn comes: a hundred in line would outlast the clock skew."""
    now = [1000]

    def clock() -> int:
        now[0] += 1
        return now[0]

    async def main() -> list[str]:
        signer = Signer(OpenHome(controller.settings), clock=clock)
        signing = (signer.asign("GET", b"/", b"") for _ in range(3))
        return await slow.while_others_work(*signing)

    stamps = [value.split('ts="')[1].split('"')[0] for value in asyncio.run(main())]
    # Who finds the key unlocked may be ahead of who waited for that.
    assert sorted(stamps) == ["1001", "1002", "1003"]


def test_a_large_body_is_not_hashed_in_the_event_loop(
    controller: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    real = Signer.sign

    def sign(self: Signer, method: str, target: bytes, body: bytes) -> str:
        threads.append(threading.current_thread().name)
        return real(self, method, target, body)

    monkeypatch.setattr(Signer, "sign", sign)

    async def main() -> None:
        for size in (1024 * 1024, 1024 * 1024 + 1):
            await controller.signer().asign("PUT", b"/", b"x" * size)

    asyncio.run(main())
    assert threads[0] == threading.current_thread().name
    assert threads[1].startswith("amesh-sign")

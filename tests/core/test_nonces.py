"""The memory nonce store: once, for long enough, no longer than bounded, whoever asks."""

from __future__ import annotations

import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core.errors import NonceStoreFull, UsageError
from amesh_core.nonces import MemoryNonceStore, NonceStore
from tests.support.requests import Clock

ALICE, BOB = "am_alice00000000000", "am_bob0000000000000"


def fill(store: NonceStore, device_id: str, count: int, ttl_seconds: int = 62) -> None:
    for number in range(count):
        assert store.spend(device_id, f"{device_id} {number}", ttl_seconds)


def test_once() -> None:
    store = MemoryNonceStore(clock=Clock())
    assert store.spend(ALICE, "nonce", 60)
    assert not store.spend(ALICE, "nonce", 60)
    assert not store.spend(ALICE, "nonce", 600)
    assert store.spend(ALICE, "Nonce", 60)


def test_a_nonce_belongs_to_its_device() -> None:
    store = MemoryNonceStore(clock=Clock())
    assert store.spend(ALICE, "nonce", 60)
    assert store.spend(BOB, "nonce", 60)
    # Whoever could name a nonce that looks like another device's would burn it.
    for number in range(10_000):
        text = f"{number:012}"
        assert store.spend(text[:1], text[1:], 60)
        assert store.spend(text[:2], text[2:], 60)


@given(st.floats(0, 1e7), st.integers(1, 4000), st.floats(0, 1))
def test_for_at_least_its_time_and_at_most_half_as_long_again(
    start: float, ttl_seconds: int, part: float
) -> None:
    clock = Clock(start)
    store = MemoryNonceStore(clock=clock)
    assert store.spend(ALICE, "nonce", ttl_seconds)
    clock.now = start + part * ttl_seconds
    assert not store.spend(ALICE, "nonce", ttl_seconds)
    clock.now = start + 1.5 * ttl_seconds + 1
    assert store.spend(ALICE, "nonce", ttl_seconds)


def test_times_that_differ_do_not_shorten_each_other() -> None:
    clock = Clock(0)
    store = MemoryNonceStore(clock=clock)
    for ttl_seconds in range(1, 200):
        assert store.spend(ALICE, f"for {ttl_seconds}", ttl_seconds)
    for now in range(200):
        clock.now = now
        for ttl_seconds in range(max(1, now), 200):
            assert not store.spend(ALICE, f"for {ttl_seconds}", 1)


class TestShares:
    def test_a_device_has_no_more_than_its_share(self) -> None:
        store = MemoryNonceStore(clock=Clock(), max_nonces_per_device=100)
        fill(store, ALICE, 100)
        with pytest.raises(NonceStoreFull, match=ALICE):
            store.spend(ALICE, "one more", 62)
        # And nobody else's.
        fill(store, BOB, 100)

    def test_what_was_spent_stays_so_in_a_full_store(self) -> None:
        store = MemoryNonceStore(clock=Clock(), max_nonces_per_device=100)
        fill(store, ALICE, 100)
        assert not store.spend(ALICE, f"{ALICE} 7", 62)

    def test_nothing_is_remembered_of_a_nonce_that_found_no_room(self) -> None:
        clock = Clock()
        store = MemoryNonceStore(clock=clock, max_nonces_per_device=1)
        fill(store, ALICE, 1)
        with pytest.raises(NonceStoreFull):
            store.spend(ALICE, "later", 62)
        clock.now += 100
        assert store.spend(ALICE, "later", 62)

    def test_a_share_is_counted_over_all_times_of_expiry(self) -> None:
        clock = Clock()
        store = MemoryNonceStore(clock=clock, max_nonces_per_device=60)
        for second in range(60):
            clock.now = second
            assert store.spend(ALICE, f"in second {second}", 62)
        with pytest.raises(NonceStoreFull):
            store.spend(ALICE, "one more", 62)

    def test_a_share_is_free_again_when_its_nonces_have_expired(self) -> None:
        clock = Clock()
        store = MemoryNonceStore(clock=clock, max_nonces_per_device=100)
        fill(store, ALICE, 100)
        clock.now += 100
        fill(store, ALICE, 100)

    def test_it_must_be_something(self) -> None:
        with pytest.raises(UsageError):
            MemoryNonceStore(clock=Clock(), max_nonces_per_device=0)


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
def test_memory() -> None:
    """A million in under 120 MB is 120 bytes each; `make bench` measures the million."""
    clock = Clock()
    empty, _ = tracemalloc.get_traced_memory()
    store = MemoryNonceStore(clock=clock)
    for number in range(50_000):
        clock.now += 0.001
        store.spend(ALICE, str(number), 62)
    full, _ = tracemalloc.get_traced_memory()
    assert (full - empty) / 50_000 < 60

    clock.now += 100
    for number in range(6):  # it frees a part of them each time, so that nobody waits long
        store.spend(ALICE, f"after {number}", 62)
    after, _ = tracemalloc.get_traced_memory()
    assert after - empty < 200_000


def test_what_expired_while_nobody_called_is_freed_a_part_at_a_time() -> None:
    """Who calls first after a quiet night must not wait for all of it."""
    clock = Clock(0)
    store = MemoryNonceStore(clock=clock)
    for second in range(60):
        clock.now = second
        store.spend(ALICE, f"in second {second}", 62)
    parts = len(store._slices)
    assert parts > 3
    clock.now = 1000
    for left in (*reversed(range(parts)), 0, 0):
        store.spend(ALICE, "nonce", 62)
        assert len(store._dropped) == left


def test_times_to_live_cannot_multiply_the_work() -> None:
    """Each look-up reads each slice; a device chooses its time to live by its timestamp."""
    clock = Clock(0)
    store = MemoryNonceStore(clock=clock)
    for second in range(300):
        clock.now = second
        for ttl_seconds in range(60, 93):
            store.spend(ALICE, f"{second} {ttl_seconds}", ttl_seconds)
        assert len(store._slices) <= 8


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads take turns every few bytecodes, so that what is not atomic comes apart."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-7)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_switching")
def test_of_many_at_once_one_succeeds() -> None:
    store = MemoryNonceStore(clock=time.monotonic)
    with ThreadPoolExecutor(8) as pool:
        for round_ in range(20):
            start = threading.Barrier(8)

            def spend(nonce: str, start: threading.Barrier = start) -> int:
                start.wait()
                return sum(store.spend(ALICE, nonce, 62) for _ in range(25))

            assert sum(pool.map(spend, [f"round {round_}"] * 8)) == 1


def test_a_second_thread_waits_for_the_first() -> None:
    """The same without luck: the clock is read inside, so it can let another thread try."""
    seen: list[str] = []

    def clock() -> float:
        seen.append("in")
        if len(seen) == 1:
            intruder.start()
            intruder.join(0.05)  # it must not get through, so this is always waited out
        seen.append("out")
        return 0.0

    store = MemoryNonceStore(clock=clock)
    intruder = threading.Thread(target=store.spend, args=(BOB, "nonce", 62))
    store.spend(ALICE, "nonce", 62)
    intruder.join()
    assert seen == ["in", "out", "in", "out"]

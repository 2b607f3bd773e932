"""How many, how often, how long: the counters behind every limit of the relay."""

from __future__ import annotations

from amesh_relay.limits import Attempts, Limits, Tally, Timers


def test_the_defaults_are_those_of_the_protocol() -> None:
    assert Limits() == Limits(
        max_connections=10_000, max_connections_per_address=100, max_sessions=50_000
    )


class TestAttempts:
    def test_a_key_is_exhausted_after_its_limit(self) -> None:
        attempts: Attempts[str] = Attempts(limit=3, window_seconds=60)
        for _ in range(3):
            assert not attempts.exhausted("a", 0)
            attempts.add("a", 0)
        assert attempts.exhausted("a", 0)
        assert not attempts.exhausted("b", 0)

    def test_the_window_slides(self) -> None:
        attempts: Attempts[str] = Attempts(limit=2, window_seconds=60)
        attempts.add("a", 0)
        attempts.add("a", 50)
        assert attempts.exhausted("a", 59.9)
        assert not attempts.exhausted("a", 60)  # the first no longer counts
        attempts.add("a", 60)
        assert attempts.exhausted("a", 109.9)
        assert not attempts.exhausted("a", 110)

    def test_adding_beyond_the_limit_prolongs_it(self) -> None:
        attempts: Attempts[str] = Attempts(limit=2, window_seconds=60)
        for now in (0, 1, 30, 59):
            attempts.add("a", now)
        assert attempts.exhausted("a", 89.9)
        assert not attempts.exhausted("a", 90)

    def test_a_full_table_forgets_the_one_that_failed_longest_ago(self) -> None:
        attempts: Attempts[int] = Attempts(limit=1, window_seconds=60, max_rows=3)
        for key in (1, 2, 3):
            attempts.add(key, 0)
        attempts.add(1, 1)  # 2 is the oldest now
        attempts.add(4, 1)
        assert [attempts.exhausted(key, 1) for key in (1, 2, 3, 4)] == [True, False, True, True]
        for key in range(1000):
            attempts.add(key, 2)
        assert len(attempts) == 3

    def test_what_no_longer_counts_takes_no_memory(self) -> None:
        attempts: Attempts[int] = Attempts(limit=2, window_seconds=60)
        for key in range(10):
            attempts.add(key, key)
        attempts.add(0, 30)
        attempts.forget(65.5)
        assert len(attempts) == 5  # 6 to 9, and 0, which failed again
        attempts.forget(90)
        assert len(attempts) == 0

    def test_adding_cleans_up_too(self) -> None:
        attempts: Attempts[int] = Attempts(limit=2, window_seconds=60)
        attempts.add(1, 0)
        attempts.add(2, 60)
        assert len(attempts) == 1


class TestTimers:
    def test_a_key_is_due_when_its_time_is_over_and_once_only(self) -> None:
        timers: Timers[str] = Timers(10)
        timers.start("a", 0)
        timers.start("b", 5)
        assert timers.due(9.9) == []
        assert timers.due(10) == ["a"]
        assert timers.due(100) == ["b"]
        assert timers.due(100) == []
        assert len(timers) == 0

    def test_running(self) -> None:
        timers: Timers[str] = Timers(10)
        timers.start("a", 0)
        assert timers.running("a", 9.9)
        assert not timers.running("a", 10)
        assert not timers.running("b", 0)

    def test_starting_again_starts_from_the_beginning(self) -> None:
        timers: Timers[str] = Timers(10)
        timers.start("a", 0)
        timers.start("b", 1)
        timers.start("a", 5)
        assert timers.due(12) == ["b"]
        assert timers.due(15) == ["a"]

    def test_a_stopped_key_is_never_due(self) -> None:
        timers: Timers[str] = Timers(10)
        timers.start("a", 0)
        timers.stop("a")
        timers.stop("never started")
        assert not timers.running("a", 1)
        assert timers.due(100) == []

    def test_a_full_table_forgets_the_oldest(self) -> None:
        timers: Timers[int] = Timers(10, max_rows=3)
        for key in range(5):
            timers.start(key, key)
        assert len(timers) == 3
        assert timers.due(100) == [2, 3, 4]

    def test_starting_again_in_a_full_table_forgets_nobody(self) -> None:
        timers: Timers[int] = Timers(10, max_rows=2)
        timers.start(1, 0)
        timers.start(2, 0)
        timers.start(1, 1)
        assert timers.due(100) == [2, 1]


class TestTally:
    def test_a_key_has_so_many_places_and_the_house_too(self) -> None:
        tally: Tally[str] = Tally()
        assert [tally.enter(key, 2, 3) for key in "aaabb"] == [True, True, False, True, False]
        assert tally.total == 3

    def test_a_place_given_back_is_free(self) -> None:
        tally: Tally[str] = Tally()
        assert tally.enter("a", 1, 1)
        tally.leave("a")
        assert tally.total == 0
        assert tally.enter("b", 1, 1)

    def test_a_refusal_takes_no_place(self) -> None:
        tally: Tally[str] = Tally()
        assert tally.enter("a", 1)
        assert not tally.enter("a", 1)
        tally.leave("a")
        assert tally.total == 0
        assert tally.enter("a", 1)

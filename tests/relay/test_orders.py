"""What a relay has Redis do: in its order, a batch at a time, and in letters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.exceptions import ResponseError

from amesh_core.wire.relay import ErrorCode
from amesh_relay.state import Denied, Granted, Kind, Letter, Unknown, Verdict, letters
from amesh_relay.state.orders import (
    CROWDED_BYTES,
    MAX_BATCH,
    MAX_SHARED_CHARACTERS,
    ROOMY_BYTES,
    Order,
    Orders,
)

# --- orders -----------------------------------------------------------------------------


def in_loop(story: Callable[[], Awaitable[None]]) -> None:
    async def told() -> None:
        await story()

    asyncio.run(told())


def names(orders: list[Order]) -> list[str]:
    return [order.name for order in orders]


def test_all_in_order_and_nothing_twice() -> None:
    orders = Orders()
    for name in ("a", "b"):
        orders.add(Order(name, ()))
    first = orders.take()
    orders.add(Order("c", ()))
    assert names(first) == ["a", "b"]
    assert names(orders.take()) == ["c"]
    orders.settle(first, ())
    assert orders.take() == []


def test_a_batch_has_an_end() -> None:
    orders = Orders()
    for _ in range(MAX_BATCH + 1):
        orders.add(Order("a", ()))
    assert len(orders.take()) == MAX_BATCH
    assert len(orders.take()) == 1


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("@one", Granted("one")),
        ("otc_in_use", Denied(ErrorCode.OTC_IN_USE)),
        ("what", Unknown()),
        (ResponseError("@one"), Unknown()),
        (1, Unknown()),
        (None, Unknown()),
    ],
)
def test_what_an_answer_says(answer: object, verdict: Verdict) -> None:
    async def story() -> None:
        waits: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        orders = Orders()
        orders.add(Order("listen", (), waits))
        orders.settle(orders.take(), [answer])
        assert waits.result() == verdict

    in_loop(story)


def test_who_asked_and_left_is_not_told() -> None:
    async def story() -> None:
        waits: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        orders = Orders()
        orders.add(Order("listen", (), waits))
        waits.cancel()
        orders.settle(orders.take(), ["@one"])
        assert waits.cancelled()

    in_loop(story)


def test_all_that_waits_is_told_when_it_is_given_up() -> None:
    """What had an answer, what had none, and what was never taken."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        waits: list[asyncio.Future[Verdict]] = [loop.create_future() for _ in range(3)]
        orders = Orders()
        orders.add(Order("listen", ("x" * CROWDED_BYTES,), waits[0]))
        orders.add(Order("listen", (), waits[1]))
        batch = orders.take()
        orders.add(Order("listen", (), waits[2]))
        assert orders.is_crowded
        orders.settle(batch, ["@one"])
        assert not waits[2].done()
        orders.give_up()
        assert [future.result() for future in waits] == [Granted("one"), Unknown(), Unknown()]
        assert orders.take() == []
        assert orders.is_roomy

    in_loop(story)


def test_letters_of_one_turn_go_together_and_stay_in_order() -> None:
    orders = Orders()
    orders.publish("one", "a")
    orders.publish("one", "b")
    orders.publish("two", "c")
    orders.publish("one", "d")
    orders.add(Order("free", ()))
    orders.publish("one", "e")
    assert [order.arguments for order in orders.take()] == [
        ("one", "ab"),
        ("two", "c"),
        ("one", "d"),
        (),
        ("one", "e"),
    ]
    orders.publish("one", "f")  # not with what is gone
    orders.publish("one", "g" * MAX_SHARED_CHARACTERS)
    assert [len(order.arguments[1]) for order in orders.take()] == [1, MAX_SHARED_CHARACTERS]


def test_who_makes_too_much_of_it_is_told_and_when_there_is_room() -> None:
    orders = Orders()
    sent = 0
    while not orders.is_crowded:
        orders.publish("one", "x" * 1000)
        sent += 1000
        assert sent <= CROWDED_BYTES
    batch = orders.take()
    assert orders.is_crowded  # Redis has it, and it still waits
    gone = 0
    while not orders.is_roomy:
        assert gone <= CROWDED_BYTES - ROOMY_BYTES
        gone += batch[0].bytes
        orders.settle([batch.pop(0)], [1])
    orders.settle(batch, [1] * len(batch))
    orders.publish("one", "x" * (ROOMY_BYTES - 1000))
    assert orders.is_roomy
    orders.publish("one", "x" * 1000)
    assert not orders.is_roomy


# --- letters ----------------------------------------------------------------------------

LETTERS = [
    Letter("one", "one/1", 0, Kind.ENTER, '{"a":"\u20ac\\n"}', bytes(4), 0),
    Letter("one", "two/7", 1, Kind.END, "", b"", 1000),
    Letter("one", "-", 0, Kind.EXPIRE, "482916"),
    Letter("one", "two/7", 2, Kind.TELL, "a\nb c\n"),
]
# A device may say what reads like one: it is part of its letter all the same.
LETTERS.append(Letter("one", "one/1", 1, Kind.FRAME, letters.written(LETTERS[2])))


def test_letters_are_read_as_they_were_written() -> None:
    assert list(letters.read("".join(map(letters.written, LETTERS)))) == LETTERS


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "\n",
        "one one/1 0 enter  0\nx",
        "one one/1 0 dance  0 1\nx",
        "one one/1 x tell  0 1\nx",
        "one one/1 0 tell xy 0 1\nx",
        "one one/1 0 tell  0 2\nx",
        "one one/1 0 tell  0 -1\nx",
        "one one/1 0 tell  0 -30\nx",
    ],
)
def test_what_is_no_letter_is_not_read(text: str, caplog: pytest.LogCaptureFixture) -> None:
    good = letters.written(LETTERS[0])
    assert list(letters.read(good + text)) == LETTERS[:1]
    assert "does not understand" in caplog.text

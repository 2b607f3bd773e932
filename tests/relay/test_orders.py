"""What a relay has Redis do: in its order, in bytes, and in letters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from amesh_relay.state.resp import Answer, BadAnswer, Push, Reader, Refusal, command

UNKNOWN_SCRIPT = Refusal("NOSCRIPT No matching script.")


# --- bytes ------------------------------------------------------------------------------


def test_a_command_is_counted_in_bytes() -> None:
    said = command("PUBLISH", "to", "\u20ac\r\n").encode()
    assert said == b"*3\r\n$7\r\nPUBLISH\r\n$2\r\nto\r\n$5\r\n\xe2\x82\xac\r\n\r\n"


def test_what_has_no_utf_8_does_not_shift_what_follows() -> None:
    said = command("a\ud800b", "c").encode(errors="replace")
    assert said == b"*2\r\n$3\r\na?b\r\n$1\r\nc\r\n"


SAID = (
    b"$4\r\n@one\r\n"
    b":1\r\n"
    b">3\r\n$7\r\nmessage\r\n$2\r\nto\r\n$5\r\na\r\n\xe2\x82\r\n"
    b"-OOM no room\r\n"
    b"_\r\n"
    b"+OK\r\n"
    b">3\r\n$9\r\nsubscribe\r\n$2\r\nto\r\n:1\r\n"
    b"$0\r\n\r\n"
)
MEANT: list[Answer] = [
    "@one",
    1,
    Push(("message", "to", "a\r\n\ufffd")),
    Refusal("OOM no room"),
    None,
    "OK",
    Push(("subscribe", "to", 1)),
    "",
]


def test_answers_come_whole_or_in_pieces() -> None:
    """Wherever they are cut, nothing is lost and nothing is early."""
    for cut in range(len(SAID) + 1):
        reader = Reader()
        first = reader.feed(SAID[:cut])
        assert first == MEANT[: len(first)]
        assert first + reader.feed(SAID[cut:]) == MEANT
    reader = Reader()
    assert [answer for byte in SAID for answer in reader.feed(bytes([byte]))] == MEANT


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400\r\n", b"$x\r\n", b">x\r\n", b"*1\r\n:1\r\n", b"\r\n"]
)
def test_what_is_no_answer_is_not_taken_for_one(said: bytes) -> None:
    with pytest.raises(BadAnswer):
        Reader().feed(said)


@given(st.binary(max_size=60))
def test_any_bytes_are_answers_or_none(said: bytes) -> None:
    with suppress(BadAnswer):
        assert all(len(said) >= 3 for _ in Reader().feed(said))


# --- orders -----------------------------------------------------------------------------


def in_loop(story: Callable[[], Awaitable[None]]) -> None:
    async def told() -> None:
        await story()

    asyncio.run(told())


def names(orders: list[Order]) -> list[str]:
    return [order.name for order in orders]


def test_one_batch_at_a_time_and_in_order() -> None:
    orders = Orders()
    for name in ("a", "b"):
        orders.add(Order(name, ()))
    assert names(orders.batch()) == ["a", "b"]
    orders.add(Order("c", ()))
    assert orders.batch() == []
    still_out = []
    for _ in range(2):
        assert orders.batch() == []
        assert orders.answered(1) is not None
        still_out.append(orders.are_out)
    assert still_out == [True, False]
    assert names(orders.batch()) == ["c"]


def test_a_batch_has_an_end() -> None:
    orders = Orders()
    for _ in range(MAX_BATCH + 1):
        orders.add(Order("a", ()))
    assert len(orders.batch()) == MAX_BATCH


def test_an_answer_without_a_question_is_none_of_ours() -> None:
    orders = Orders()
    orders.add(Order("a", ()))
    with pytest.raises(IndexError):
        orders.answered(1)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("@one", Granted("one")),
        ("otc_in_use", Denied(ErrorCode.OTC_IN_USE)),
        ("what", Unknown()),
        (Refusal("OOM"), Unknown()),
        (1, Unknown()),
        (None, Unknown()),
    ],
)
def test_what_an_answer_says(answer: Answer, verdict: Verdict) -> None:
    async def story() -> None:
        waits: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        orders = Orders()
        orders.add(Order("listen", (), waits))
        orders.batch()
        orders.answered(answer)
        assert waits.result() == verdict

    in_loop(story)


def test_what_redis_has_no_script_for_is_asked_again_before_all_that_came_later() -> None:
    async def story() -> None:
        waits: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        orders = Orders()
        for order in (Order("free", ()), Order("PUBLISH", ("to", "x")), Order("listen", (), waits)):
            orders.add(order)
        orders.batch()
        orders.add(Order("later", ()))
        assert orders.answered(UNKNOWN_SCRIPT) is None
        assert orders.answered(1) is not None
        assert orders.answered(UNKNOWN_SCRIPT) is None
        assert not waits.done()
        batch = orders.batch()
        assert names(batch) == ["free", "listen", "later"]
        assert [order.is_told for order in batch] == [True, True, False]
        # Told and still unknown: that is an answer, and not a third time.
        assert orders.answered(UNKNOWN_SCRIPT) is batch[0]
        assert orders.answered("@one") is batch[1]
        assert waits.result() == Granted("one")
        orders.answered(1)
        assert orders.batch() == []

    in_loop(story)


def test_who_asked_and_left_is_not_told() -> None:
    async def story() -> None:
        waits: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        orders = Orders()
        orders.add(Order("listen", (), waits))
        orders.batch()
        waits.cancel()
        orders.answered("@one")
        assert waits.cancelled()

    in_loop(story)


def test_all_that_waits_is_told_when_it_is_given_up() -> None:
    """What is with Redis, what waits for that, and what was to be asked again."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        waits: list[asyncio.Future[Verdict]] = [loop.create_future() for _ in range(3)]
        orders = Orders()
        orders.add(Order("listen", (), waits[0]))
        orders.add(Order("listen", (), waits[1]))
        orders.batch()
        orders.add(Order("listen", (), waits[2]))
        orders.answered(UNKNOWN_SCRIPT)
        orders.give_up()
        assert [future.result() for future in waits] == [Unknown()] * 3
        assert orders.batch() == []
        assert not orders.are_out
        with pytest.raises(IndexError):
            orders.answered(1)
        orders.add(Order("listen", ()))
        assert names(orders.batch()) == ["listen"]

    in_loop(story)


def test_letters_of_one_turn_go_together_and_stay_in_order() -> None:
    orders = Orders()
    orders.publish("one", "a")
    orders.publish("one", "b")
    orders.publish("two", "c")
    orders.publish("one", "d")
    orders.add(Order("free", ()))
    orders.publish("one", "e")
    assert [order.arguments for order in orders.batch()] == [
        ("one", "ab"),
        ("two", "c"),
        ("one", "d"),
        (),
        ("one", "e"),
    ]
    orders.publish("one", "f")  # not with what is gone
    orders.publish("one", "g" * MAX_SHARED_CHARACTERS)
    for _ in range(5):
        orders.answered(1)
    assert [len(order.arguments[1]) for order in orders.batch()] == [1, MAX_SHARED_CHARACTERS]


def test_who_makes_too_much_of_it_is_told_and_when_there_is_room() -> None:
    orders = Orders()
    sent = 0
    while not orders.is_crowded:
        orders.publish("one", "x" * 1000)
        sent += 1000
        assert sent <= CROWDED_BYTES
    batch = orders.batch()
    gone = 0
    while not orders.is_roomy:
        assert gone <= CROWDED_BYTES - ROOMY_BYTES
        gone += batch.pop(0).bytes
        orders.answered(1)
    while orders.are_out:
        orders.answered(1)
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

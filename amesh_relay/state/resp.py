"""What goes to a Redis and comes from it: RESP3, as far as relays speak it; no socket in here.

Python's part of this is most of what a shared state costs a relay, so it is done for whole reads
and writes, and without a task or a future for each answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_END: Final = b"\r\n"


class BadAnswer(Exception):
    """It is no Redis that speaks there, or not RESP3."""


class _NotWhole(Exception):
    """The rest of it is still to come."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error; its first word says of what kind."""

    text: str = field(repr=False)

    @property
    def kind(self) -> str:
        """Its first word, which holds nothing that a device sent."""
        return self.text.partition(" ")[0]


@dataclass(frozen=True, slots=True)
class Push:
    """What comes without having been asked for, as a message of a channel does."""

    values: tuple[object, ...] = field(repr=False)


Answer = str | int | Refusal | Push | None


def command(*arguments: str) -> str:
    """A command; what has no UTF-8, which no WebSocket delivers, is to be encoded as `?`."""
    return f"*{len(arguments)}\r\n" + "".join(
        [
            f"${len(one) if one.isascii() else len(one.encode(errors='replace'))}\r\n{one}\r\n"
            for one in arguments
        ]
    )


class Reader:
    """Makes answers of bytes, which come in pieces of any size."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Answer]:
        """The answers that are whole now.

        Raises:
            BadAnswer: this is something else.
        """
        if self._rest:
            data = self._rest + data
        answers: list[Answer] = []
        at = 0
        try:
            while at < len(data):
                answer, at = _answer(data, at)
                answers.append(answer)
        except _NotWhole:
            pass
        except ValueError as error:
            raise BadAnswer("a number was expected") from error
        self._rest = data[at:]
        return answers


def _answer(data: bytes, at: int) -> tuple[Answer, int]:
    """The answer that begins there, and where it ends."""
    end = data.find(_END, at)
    if end < 0:
        raise _NotWhole
    line = data[at + 1 : end]
    end += 2
    match data[at : at + 1]:
        case b"$":
            after = end + int(line)
            if len(data) < after + 2:
                raise _NotWhole
            # Whatever somebody else writes there is no reason to stop.
            return data[end:after].decode(errors="replace"), after + 2
        case b":":
            return int(line), end
        case b"+":
            return line.decode(errors="replace"), end
        case b"_":
            return None, end
        case b"-":
            return Refusal(line.decode(errors="replace")), end
        case b">":
            values = []
            for _ in range(int(line)):
                value, end = _answer(data, end)
                values.append(value)
            return Push(tuple(values)), end
        case _:
            raise BadAnswer("an answer of a kind that no command of ours has")

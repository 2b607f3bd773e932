"""What is shown is safe to show, and nothing is asked of nobody."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from amesh_cli import terminal
from amesh_core.errors import UsageError


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("prod-api", '"prod-api"'),
        ("Zoë’s", '"Zo\\xeb\\u2019s"'),  # a quotation mark: not a good name, so all escaped
        ("\x1b[31mred", '"\\x1b[31mred"'),
        ("a\nb", '"a\\nb"'),
        ("\u202egnp.exe", '"\\u202egnp.exe"'),
        ("a\u200bb", '"a\\u200bb"'),
        ("\ud800", '"\\ud800"'),
        ('x" (am_0123456789abcdef)', '"x\\x22 (am_0123456789abcdef)"'),
        ("", '""'),
        ("Zoë", '"Zoë"'),
    ],
)
def test_a_name_is_printable_whoever_chose_it(name: str, shown: str) -> None:
    assert terminal.quoted(name) == shown
    assert all(character.isprintable() for character in terminal.quoted(name))


def test_text_is_not_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.result("[red]x[/red] :smile: [link=http://evil]")
    assert capsys.readouterr().out == "[red]x[/red] :smile: [link=http://evil]\n"


def table() -> None:
    terminal.table(["a"], [["b"]])


@pytest.mark.parametrize(
    "show",
    [
        terminal.result,
        table,
        lambda: terminal.json_result({}),
        lambda: terminal.json_line({}),
    ],
)
def test_a_result_that_nobody_gets_is_an_error(
    show: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal._console.cache_clear()
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(UsageError, match="standard output: No space left"):
            show()
        monkeypatch.setattr(sys, "stdout", None)
        with pytest.raises(UsageError, match="closed"):
            show()
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # what is left goes nowhere


def test_talk_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say("talk")
    terminal.warn("careful")
    terminal.error("it broke", "mend it")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "talk\n! careful\nerror: it broke\nhint: mend it\n"


def test_a_table_keeps_its_columns_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table(("device", "name"), [("am_" + "x" * 16, '"' + "n" * 64 + '"')])
    assert "n" * 64 in capsys.readouterr().out


def test_without_a_terminal_the_error_names_the_flag() -> None:
    with pytest.raises(UsageError, match="--yes"):
        terminal.confirm("Really?", flag="--yes")


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    monkeypatch.setattr(sys, "stdin", os.fdopen(reading))


def test_lines_are_read_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b" 071 234 \r\nnext\n")

    async def both() -> tuple[str, str]:
        return await terminal.read_line(), await terminal.read_line()

    assert asyncio.run(both()) == ("071 234", "next")
    sys.stdin.close()


def test_the_end_of_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b"")
    with pytest.raises(UsageError, match="ended"):
        asyncio.run(terminal.read_line())
    sys.stdin.close()


def test_a_file_can_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "digits").write_text("071234\n")
    with (tmp_path / "digits").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert asyncio.run(terminal.read_line()) == "071234"


def test_waiting_for_a_line_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reading))

    async def impatient() -> str:
        asking = asyncio.create_task(terminal.read_line())
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        os.write(writing, b"still here\n")
        return await terminal.read_line()

    assert asyncio.run(impatient()) == "still here"
    sys.stdin.close()
    os.close(writing)

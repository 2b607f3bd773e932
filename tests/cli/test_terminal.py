"""What is shown is safe to show, and nothing is asked of nobody."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from amesh_cli import layout, pipes, terminal
from amesh_core.errors import UsageError
from tests.support.cli import AtTerminal, amesh
from tests.support.home import make_home


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
        lambda: terminal.verdict("ok", "key", "is there", "", style="green"),
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
        return await pipes.read_line(), await pipes.read_line()

    assert asyncio.run(both()) == ("071 234", "next")
    sys.stdin.close()


def test_the_end_of_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b"")
    with pytest.raises(UsageError, match="ended"):
        asyncio.run(pipes.read_line())
    sys.stdin.close()


def test_a_file_can_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "digits").write_text("071234\n")
    with (tmp_path / "digits").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert asyncio.run(pipes.read_line()) == "071234"


def test_waiting_for_a_line_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reading))

    async def impatient() -> str:
        asking = asyncio.create_task(pipes.read_line())
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        os.write(writing, b"still here\n")
        return await pipes.read_line()

    assert asyncio.run(impatient()) == "still here"
    sys.stdin.close()
    os.close(writing)


# --- lines and columns ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short", ["short"]),
        ("as wide as it", ["as wide as it"]),
        ("one word more than fits", ["one word more", "than fits"]),
        ("a\n  an indented line that is long", ["a", "  an indented", "  line that", "  is long"]),
        ("    amesh invite 482916 --relay", ["    amesh invite 482916 --relay"]),
        ("run `amesh list -x y`, then go", ["run", "`amesh list -x y`,", "then go"]),
        ("an open ` is no command here", ["an open ` is", "no command", "here"]),
        ("wss://relay.example/long?query of", ["wss://relay.example/long?query", "of"]),
        ("東京 東京 東京", ["東京 東京", "東京"]),
        ("", [""]),
    ],
)
def test_a_line_is_broken_between_words_and_a_command_never(text: str, lines: list[str]) -> None:
    assert layout.wrapped(text, 13, cell_len).split("\n") == lines


def test_columns_are_aligned_by_what_a_terminal_shows() -> None:
    rows = [("device", "name", "since"), ("x", "東京", "2026"), ("y", "", "")]
    assert layout.aligned(rows, cell_len) == [
        "device  name  since",
        "x       東京  2026",
        "y",
    ]


def test_a_long_text_keeps_both_its_ends() -> None:
    assert layout.shortened("x" * 30, 30) == "x" * 30
    shown = layout.shortened("begin " + "x" * 1000 + " end: refused", 60)
    assert len(shown) == 60
    assert shown.startswith("begin xxx")
    assert " [...] " in shown
    assert shown.endswith(" end: refused")


def test_a_terminal_is_given_whole_words(tmp_path: Path) -> None:
    """Errors, warnings, questions and what doctor finds, at the width people have."""
    for command in (
        ("list",),
        ("init", "--name", "x", "--backend", "encrypted-file"),
        ("doctor", "--relay", "ws://127.0.0.1:1/ws"),
        ("invite", "482916", "--assume-match", "--relay", "ws://127.0.0.1:1/ws"),
    ):
        shown = AtTerminal(tmp_path / "a", *command, COLUMNS="60")
        shown.ends()
        plain = re.sub(r"\x1b\[[0-9;]*m", "", shown.seen)
        for line in plain.splitlines():
            # Only what has no place to break in may be longer.
            assert len(line) <= 60 or str(tmp_path) in line or line.startswith("    "), plain
    assert "\nhint: check the address" in plain
    assert "`amesh listen --serve 3001`" in plain


def test_a_pipe_is_given_whole_lines(tmp_path: Path) -> None:
    done = amesh(tmp_path / "a", "list", COLUMNS="40")
    assert done.err.count("\n") == 2


def test_a_name_that_the_encoding_has_not_is_escaped(tmp_path: Path) -> None:
    home = make_home(tmp_path / "a", name="東京").directory
    for command in (("list",), ("config", "get", "name"), ("export",)):
        done = amesh(home, *command, PYTHONIOENCODING="ascii")
        assert done.status == 0, done.err
        assert "\\u6771\\u4eac" in done.out


def test_ten_thousand_rows_take_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"am_{number:016}", f'"device {number}"', "may call") for number in range(10_000)]
    before = time.process_time()
    terminal.table(("device", "name", "trust"), rows)
    assert time.process_time() - before < 2  # rich alone: five seconds on the same machine
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10_001
    assert lines[1] == 'am_0000000000000000  "device 0"     may call'
    assert lines[-1] == 'am_0000000000009999  "device 9999"  may call'


@pytest.mark.parametrize(("key", "status"), [("\x04", 2), ("\x03", 130)])
def test_a_secret_that_is_not_typed_ends_as_any_question(
    tmp_path: Path, key: str, status: int
) -> None:
    command = AtTerminal(make_home(tmp_path / "a", name="a").directory, "passphrase", "change")
    command.sees("New passphrase: ")
    if status == 2:
        command.types(key)
    else:
        command.presses_ctrl_c()
    assert command.ends() == status
    assert ("the input ended" in command.seen) == (status == 2)
    assert command.seen.endswith("\n")

"""All that is shown to a person or asked of one; the only module that imports rich.

Results go to stdout, talk to stderr. Nothing is ever asked without a terminal: the error
then names the flag that answers instead. What another device chose (its name) passes
`quoted` before it is shown.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from amesh_cli import layout, pipes
from amesh_core.errors import Malformed, UsageError
from amesh_core.identity import check_name

if TYPE_CHECKING:
    from rich.console import Console


_MAX_SHOWN_CHARACTERS = 200
_VERDICT_COLUMNS = 5
_WARNING = "! "


@cache
def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    # No markup, emoji or highlighting: text is shown as it is, whoever wrote it.
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


def say(text: str = "", *, style: str = "") -> None:
    """Tell the person something (stderr); a terminal is given lines that are no wider than it."""
    console = _console(stderr=True)
    console.print(_fitted(console, text), style=style or None)


def _fitted(console: Console, text: str, indented: int = 0) -> str:
    if not console.is_terminal:  # who reads a pipe or a log has no width, and greps for whole lines
        return text
    from rich.cells import cell_len

    return layout.wrapped(text, console.width - indented, cell_len)


def result(text: str = "", *, style: str = "") -> None:
    """Print what was asked for (stdout).

    Raises:
        UsageError: stdout takes nothing; as all that print there.
    """
    with _on_stdout():
        _console(stderr=False).print(text, style=style or None)


@contextlib.contextmanager
def _on_stdout() -> Iterator[None]:
    """What was asked for is lost, and that must not look like success, or like a bug of ours."""
    if sys.stdout is None:
        raise UsageError("standard output is closed")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has read enough
        raise
    except OSError as error:
        raise UsageError(f"standard output: {error.strerror}") from None


def warn(text: str) -> None:
    """Tell the person what they would want to know before going on (stderr)."""
    lines = _fitted(_console(stderr=True), text, len(_WARNING)).split("\n")
    say(_WARNING + f"\n{' ' * len(_WARNING)}".join(lines), style="yellow")


def json_result(value: Any) -> None:
    """Print a result for a script: one JSON document on stdout, names escaped to ASCII."""
    with _on_stdout():
        print(json.dumps(value, indent=2))  # noqa: T201 - for a machine, so without rich


def json_line(value: Any) -> None:
    """Print one event for a script that reads along: a JSON document in one line of stdout."""
    with _on_stdout():
        print(json.dumps(value))  # noqa: T201 - for a machine, so without rich


def facts(rows: Sequence[tuple[str, str]]) -> None:
    """Print labelled values, one a line, aligned (stdout)."""
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        result(f"  {label:<{width}}  {value}")


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, folded: Collection[str] = ()
) -> None:
    """Print a table that stays readable in a pipe (stdout).

    In a terminal that is too narrow the columns in `folded` take more lines, before any other
    is cut.
    """
    from rich.cells import cell_len

    console = _console(stderr=False)
    lines = layout.aligned([headers, *rows], cell_len)
    # A pipe has no width: never cut an id there that a script wants to read.
    if console.is_terminal and max(map(cell_len, lines)) > console.width:
        _folded_table(console, headers, rows, folded)
        return
    result(lines[0], style="dim")
    # Rich takes seconds for ten thousand rows, and has nothing to do in them.
    with _on_stdout():
        sys.stdout.write("".join(f"{line}\n" for line in lines[1:]))


def _folded_table(
    console: Console,
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    folded: Collection[str],
) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="dim")
    for header in headers:
        grid.add_column(header, no_wrap=header not in folded, overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))
    with _on_stdout():
        console.print(grid, soft_wrap=False)


def quoted(name: str) -> str:
    """A name between quotation marks, safe to print whoever chose it.

    A name that is not a good name (docs/protocol.md section 5) is written with escapes: an
    allow list made by other tools may hold control characters and bidirectional marks.
    """
    try:
        return f'"{check_name(name)}"'
    except Malformed:
        # Its own quotation marks, too: what follows them would seem to be our words.
        escaped = name.encode("unicode_escape").decode("ascii")
        return '"' + escaped.replace('"', r"\x22") + '"'


def printable(text: str) -> str:
    """What a server wrote, in printable ASCII, everything else escaped, and not too long."""
    return text[:_MAX_SHOWN_CHARACTERS].encode("unicode_escape").decode("ascii")


def verdict(word: str, name: str, text: str, hint: str, *, style: str) -> None:
    """Print what was found, after a coloured word and what was looked at (stdout)."""
    console = _console(stderr=False)
    place = f" {name:<16} "
    indent = " " * (_VERDICT_COLUMNS + len(place))
    said = f"{text}\nhint: {hint}" if hint else text
    with _on_stdout():
        console.print(f"{word:<{_VERDICT_COLUMNS}}", style=style, end="")
        console.print(place + _fitted(console, said, len(indent)).replace("\n", f"\n{indent}"))


def error(sentence: str, hint: str) -> None:
    """Say what went wrong and, where there is one, the way out (stderr)."""
    say(f"error: {sentence}", style="red")
    if hint:
        say(f"hint: {hint}")


def interactive() -> bool:
    """Whether a person is there to answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def need_terminal(flag: str) -> None:
    """Insist on a person to ask.

    Raises:
        UsageError: there is none; names the flag that answers instead.
    """
    if not interactive():
        raise UsageError(f"this needs an answer and there is no terminal; use {flag}")


def confirm(question: str, *, flag: str) -> bool:
    """Ask a yes-or-no question; Enter means no.

    Raises:
        UsageError: there is no terminal.
    """
    import asyncio  # 30 ms that only a question is worth

    return asyncio.run(aconfirm(question, flag=flag))


def ask(question: str, *, flag: str, default: str = "") -> str:
    """Ask for a line; Enter means the default.

    Raises:
        UsageError: there is no terminal.
    """
    import asyncio

    shown = f"{question} [{default}]" if default else question
    return asyncio.run(aask(shown, flag=flag)) or default


def ask_secret(question: str, *, flag: str) -> bytes:
    """Ask for a line that is not shown while it is typed.

    Raises:
        UsageError: there is no terminal, or the input ended.
    """
    from getpass import getpass

    need_terminal(flag)
    try:
        return getpass(question).encode("utf-8", "surrogateescape")
    except EOFError:
        raise UsageError(pipes.INPUT_ENDED) from None
    except KeyboardInterrupt:
        say()  # the cursor still stands behind the question
        raise


async def aconfirm(question: str, *, flag: str) -> bool:
    """As `confirm`, and can be cancelled while it waits."""
    need_terminal(flag)
    _forget_typed_ahead()
    while True:
        answer = await _line(f"{question} [y/N]")
        if answer.lower() in ("y", "yes"):
            return True
        if answer.lower() in ("", "n", "no"):
            return False


async def aask(question: str, *, flag: str) -> str:
    """As `ask` without a default, and can be cancelled while it waits."""
    need_terminal(flag)
    return await _line(question)


async def _line(question: str) -> str:
    console = _console(stderr=True)
    console.print(_fitted(console, question), end=" ", style="bold")
    try:
        return await pipes.read_line()
    except BaseException:
        say()  # the cursor still stands behind the question
        raise


def _forget_typed_ahead() -> None:
    """Drop keys pressed before the question could be read: an old Enter is no answer."""
    import termios

    with contextlib.suppress(termios.error):
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


@contextlib.asynccontextmanager
async def countdown(text: Callable[[int], str], seconds: int) -> AsyncIterator[None]:
    """Show `text(seconds left)` and keep it true while the block runs; gone afterwards.

    Without a terminal the line is printed once.
    """
    console = _console(stderr=True)
    if not console.is_terminal:
        say(text(seconds))
        yield
        return
    import asyncio

    from rich.live import Live
    from rich.text import Text

    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    with Live(Text(text(seconds)), console=console, auto_refresh=False, transient=True) as live:

        async def tick() -> None:
            while (left := end - loop.time()) > 0:
                live.update(Text(text(round(left))), refresh=True)
                await asyncio.sleep(min(1, left))

        ticking = asyncio.create_task(tick())
        try:
            yield
        finally:
            ticking.cancel()

"""Write the manual and the help blocks of the documents: `make man`, or `python -m tools.man`.

NAME, SYNOPSIS, COMMANDS, ARGUMENTS, OPTIONS, EXIT STATUS and SEE ALSO come from the programs
(tools/programs.py), every other section from man/text/<page>.txt, the whole form of which is:

    summary: one line for NAME, where no program supplies it
    exit: the statuses of `amesh_cli.failures.STATUSES` that apply

    # SECTION
    A paragraph, up to the next empty line. What stands `between backticks` is bold, and
    so is a page name like amesh-init(1).

    * `TERM`
    What the term means.

        four spaces: a literal block

The same sources always give the same bytes; tests/cli/test_manual.py compares them with
what is committed.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from amesh_cli.failures import STATUSES
from tools.programs import Option, Program, programs

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = ROOT / "man"
TEXTS: Final = PAGES / "text"
# What shows the help of programs.
DOCUMENTS: Final = (ROOT / "README.md", ROOT / "docs" / "commands.md")

VERSION: Final[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# A page carries a date, and the day of the build would make every build different: this is
# the day of the release the manual describes, moved by hand together with the version.
MANUAL_DATE: Final = "2026-11-23"

# The order of man-pages(7); sections it does not name stand between, as written.
_FIRST: Final = ("NAME", "SYNOPSIS", "DESCRIPTION")
_LAST: Final = (
    *("COMMANDS", "ARGUMENTS", "OPTIONS", "EXIT STATUS"),
    *("ENVIRONMENT", "FILES", "NOTES", "EXAMPLES", "SEE ALSO"),
)

# Unescaped, these become typographic signs on the page, which no shell takes back.
_ESCAPES: Final = str.maketrans(
    {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
)
_SOURCE_COLUMNS: Final = 79
_BOLD: Final = re.compile(r"`([^`]+)`|\b(amesh(?:-[a-z]+)*)(?=\([17]\))")
_HELP_BLOCK: Final = re.compile(r"<!-- help: ([a-z -]+) -->\n.*?<!-- /help -->", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Text:
    """The hand-written half of a page: settings, and the lines under each section title."""

    settings: dict[str, str]
    sections: dict[str, list[str]]


def main() -> None:
    """Bring every page and document up to date; with `--check`, only say which are not."""
    parser = argparse.ArgumentParser(prog="python -m tools.man", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="Write nothing; fail if any differs.")
    check = parser.parse_args().check
    wanted = wanted_files()
    stale = [
        path for path in wanted if not path.exists() or path.read_text("utf-8") != wanted[path]
    ]
    # A page that no program and no text stands behind is as wrong as a missing one.
    orphans = sorted(set(PAGES.glob("*.[1-9]")) - wanted.keys())
    if not check:
        for path in stale:
            path.write_text(wanted[path], encoding="utf-8")
        for path in orphans:
            path.unlink()
    elif stale or orphans:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale + orphans)
        sys.exit(f"not what the programs say now: {names}; run `make man`")


def wanted_files() -> dict[Path, str]:
    """Every file that is written here, as it must be now."""
    documents = {path: with_help(path.read_text(encoding="utf-8")) for path in DOCUMENTS}
    return documents | {PAGES / name: page for name, page in pages().items()}


def pages() -> dict[str, str]:
    """Every manual page as it must be now, by file name."""
    made = {f"{program.page}.1": program for program in programs()}
    concepts = [path.stem for path in sorted(TEXTS.glob("*.7.txt"))]
    names = [*made, *concepts]
    return {
        name: _page(name, read_text(name), made.get(name), [n for n in names if n != name])
        for name in names
    }


def with_help(document: str) -> str:
    """The document with what stands between its help comments replaced by today's help.

    Raises:
        KeyError: a comment names a program that does not exist.
    """
    helps = {program.typed: program.help.rstrip() for program in programs()}

    def block(found: re.Match[str]) -> str:
        typed = found[1]
        shown = f"```console\n$ {typed} --help\n{helps[typed]}\n```"
        return f"<!-- help: {typed} -->\n{shown}\n<!-- /help -->"

    return _HELP_BLOCK.sub(block, document)


def read_text(name: str) -> Text:
    """Parse man/text/<name>.txt.

    Raises:
        ValueError: a line before the first section is no `key: value`, or a section twice.
    """
    settings: dict[str, str] = {}
    sections: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in (TEXTS / f"{name}.txt").read_text(encoding="ascii").splitlines():
        if line.startswith("# "):
            lines = []
            if sections.setdefault(line[2:], lines) is not lines:
                raise ValueError(f"{name}: the section {line[2:]} twice")
        elif lines is not None:
            lines.append(line)
        elif line:
            key, colon, value = line.partition(": ")
            if not colon:
                raise ValueError(f"{name}: {line!r} stands before the first section")
            settings[key] = value
    return Text(settings, sections)


# --- a page -----------------------------------------------------------------------------


def _page(name: str, text: Text, program: Program | None, others: list[str]) -> str:
    title, _, number = name.rpartition(".")
    written = {section: list(_body(lines)) for section, lines in text.sections.items()}
    generated = {section: lines for section, lines in _generated(program, text) if lines}
    generated["NAME"] = [f"{_plain(title)} \\- {_inline(_summary(program, text))}"]
    generated["SEE ALSO"] = list(_filled(", ".join(f"{n[:-2]}({n[-1]})" for n in others)))
    if twice := written.keys() & generated.keys():
        raise ValueError(f"{name}: {twice} come from the program")
    sections = written | generated
    between = [section for section in written if section not in _FIRST + _LAST]
    page = [
        f'.\\" Made by tools/man.py from the program and man/text/{name}.txt; edit those.',
        # No word is broken at the end of a line: half an option cannot be copied.
        ".nr HY 0",
        f'.TH {title.upper()} {number} {MANUAL_DATE} "amesh {VERSION}" "amesh manual"',
        ".ad l",
    ]
    for section in (*_FIRST, *between, *_LAST):
        if section in sections:
            page += [f".SH {section}", *sections[section]]
    return "\n".join(page) + "\n"


def _summary(program: Program | None, text: Text) -> str:
    """One line in lower case without a full stop, as apropos(1) shows it."""
    summary = text.settings.get("summary") or (program.summary if program else "")
    return summary[:1].lower() + summary[1:].rstrip(".")


def _generated(program: Program | None, text: Text) -> Iterator[tuple[str, list[str]]]:
    if program is None:
        return
    yield "SYNOPSIS", _synopsis(program)
    yield "COMMANDS", _terms((f"{program.page}-{n}(1)", means) for n, means in program.commands)
    yield "ARGUMENTS", _terms((a.name, a.help) for a in program.arguments)
    yield (
        "OPTIONS",
        [
            line
            for option in program.options
            for line in (".TP", _option(option), *_filled(option.help))
        ],
    )
    statuses = text.settings.get("exit", "").split()
    yield "EXIT STATUS", _terms((f"`{status}`", STATUSES[int(status)]) for status in statuses)


def _synopsis(program: Program) -> list[str]:
    parts = [
        f"[{_option(Option(option.flags[-1:], option.value, ''))}]"
        for option in program.options
        if "--help" not in option.flags
    ]
    parts += [
        f"\\fI{_plain(a.name)}\\fR" if a.required else f"[\\fI{_plain(a.name)}\\fR]"
        for a in program.arguments
    ]
    if program.commands:
        parts += [r"\fICOMMAND\fR", r"[\fIARGS\fR]..."]
    # A part is not broken between its option and its value.
    unbroken = [part.replace(" ", r"\ ") for part in parts]
    return [f'.SY "{_plain(program.typed)}"', *unbroken, ".YS"]


def _option(option: Option) -> str:
    flags = ", ".join(f"\\fB{_plain(flag)}\\fR" for flag in option.flags)
    return f"{flags} \\fI{_plain(option.value)}\\fR" if option.value else flags


# --- roff -------------------------------------------------------------------------------


def _terms(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [line for term, means in pairs for line in (".TP", _inline(term), *_filled(means))]


def _body(lines: list[str]) -> Iterator[str]:
    """What stands under a section title: plain, tagged and literal paragraphs."""
    paragraphs = [list(group) for filled, group in groupby(lines, key=bool) if filled]
    for number, paragraph in enumerate(paragraphs):
        if paragraph[0].startswith("* "):
            yield from (".TP", _inline(paragraph[0].removeprefix("* ")))
            yield from _filled(" ".join(paragraph[1:]))
            continue
        if number:
            yield ".PP"
        if paragraph[0].startswith("    "):
            yield from (".RS 4", ".EX")
            yield from (_plain(line.removeprefix("    ")) for line in paragraph)
            yield from (".EE", ".RE")
        else:
            yield from _filled(" ".join(paragraph))


def _filled(text: str) -> Iterator[str]:
    """Running text, in lines that a diff can show."""
    lines = textwrap.wrap(
        _inline(text), _SOURCE_COLUMNS, break_long_words=False, break_on_hyphens=False
    )
    return map(_no_request, lines)


def _inline(text: str) -> str:
    """A line of text with its bold parts."""
    parts = _BOLD.split(text)  # text, backticked or None, page name or None, text, ...
    bold = (
        f"{_plain(before)}\\fB{_plain(ticked or page)}\\fR"
        for before, ticked, page in zip(parts[::3], parts[1::3], parts[2::3], strict=False)
    )
    return "".join(bold) + _plain(parts[-1])


def _plain(text: str) -> str:
    """Text that roff prints as it is."""
    return _no_request(text.translate(_ESCAPES))


def _no_request(line: str) -> str:
    """A line that roff takes for text, though it may begin with a dot."""
    return rf"\&{line}" if line.startswith(".") else line


if __name__ == "__main__":
    main()

"""Manual, documents and `--help` say the same; what differs is found here, not by a reader.

The helps compared are those of real processes in a terminal of 80 columns; the generator
(tools/man.py) reads the parsers instead, so the two check each other.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from amesh_cli.failures import STATUSES
from amesh_core.keystore import BACKENDS
from amesh_core.settings import Settings
from amesh_relay.config import Config
from amesh_relay.limits import Limits
from tests.support.cli import amesh
from tests.support.home import make_home, make_peer, record
from tools import man
from tools.programs import programs

AMESH: Final = (
    "",
    "init",
    "listen",
    "invite",
    "provision",
    "bootstrap",
    "list",
    "trust",
    "revoke",
    "export",
    "import",
    "config",
    "fetch",
    "rotate",
    "accept-rotation",
    "passphrase",
    "doctor",
    "explain",
    "demo",
)
PROGRAMS: Final = ("amesh-relay", *(f"amesh {command}".strip() for command in AMESH))
PAGES: Final = ("amesh.7", *(f"{program.replace(' ', '-')}.1" for program in PROGRAMS))

# As their console scripts start them, so that the usage names what people type.
_STARTS: Final = {
    "amesh": "from amesh_cli.__main__ import main; main()",
    "amesh-relay": "from amesh_relay.__main__ import main; main()",
}
# The requests the generator may use; man(7) has more, but not every reader of pages does.
_REQUEST: Final = re.compile(r"\.(?:\\\"|nr|TH|ad|SH|PP|TP|RS|RE|EX|EE|SY|YS)(?= |$)")
_ESCAPED: Final = re.compile(r"\\(?:-|e|&| |fB|fI|fR|\((?:aq|ga|ha|ti))")


@cache
def real_help(typed: str) -> str:
    """What a person sees who types `<typed> --help` in a terminal of 80 columns."""
    program, *command = typed.split()
    start = f"import sys; sys.argv[0] = {program!r}; {_STARTS[program]}"
    done = subprocess.run(
        [sys.executable, "-c", start, *command, "--help"],
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.rstrip()


def flags(text: str) -> set[str]:
    """Every option that a text names."""
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*[a-z]|(?<![\w-])-[A-Za-z](?![\w-])", text))


def unescaped(page: str) -> str:
    """A page as a reader's terminal shows its characters, requests and fonts left out."""
    page = re.sub(r"\\f[BIR]", "", page)
    signs = {"(aq": "'", "(ga": "`", "(ha": "^", "(ti": "~", "e": "\\", "&": "", '"': ""}
    return re.sub(r"\\(\((?:aq|ga|ha|ti)|.)", lambda found: signs.get(found[1], found[1]), page)


def section(page: str, title: str) -> str:
    """What stands under one section title of a page."""
    found = re.search(rf"^\.SH {title}\n(.*?)(?=^\.SH |\Z)", page, re.DOTALL | re.MULTILINE)
    assert found, f"no section {title}"
    return found[1]


def documented() -> str:
    """All that shows the help of programs, one after the other."""
    return "\n".join(path.read_text(encoding="utf-8") for path in man.DOCUMENTS)


def rows_under(title: str) -> list[list[str]]:
    """The table under a heading of the documents, without its head."""
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#|\Z)", documented(), re.DOTALL | re.MULTILINE)
    assert found, f"no document has a heading {title}"
    rows = re.findall(r"^\| *(.*?) *\|$", found[1], re.MULTILINE)
    return [re.split(r" *\| *", row) for row in rows[2:]]


# --- pages ------------------------------------------------------------------------------


def test_the_programs_are_all_known_here() -> None:
    assert {program.typed for program in programs()} == set(PROGRAMS)
    assert {path.name for path in man.PAGES.glob("*.[1-9]")} == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_what_is_made_now(name: str) -> None:
    assert (man.PAGES / name).read_text(encoding="ascii") == man.pages()[name]


def test_check_names_a_stale_page_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "commands.md"
    document.write_text("<!-- help: amesh list -->\n<!-- /help -->\n")
    (tmp_path / "amesh-old.1").write_text("a page of a command that is gone")
    monkeypatch.setattr(man, "ROOT", tmp_path)
    monkeypatch.setattr(man, "DOCUMENTS", (document,))
    monkeypatch.setattr(man, "PAGES", tmp_path)
    monkeypatch.setattr(sys, "argv", ["man", "--check"])
    before = sorted(tmp_path.iterdir())

    with pytest.raises(SystemExit, match=r"commands\.md.*amesh\.1.*amesh-old\.1"):
        man.main()
    assert sorted(tmp_path.iterdir()) == before

    monkeypatch.setattr(sys, "argv", ["man"])
    man.main()
    assert not (tmp_path / "amesh-old.1").exists()
    assert (tmp_path / "amesh.1").exists()
    assert "Usage: amesh list" in document.read_text()
    monkeypatch.setattr(sys, "argv", ["man", "--check"])
    man.main()


@pytest.mark.parametrize("typed", PROGRAMS)
def test_every_option_argument_and_command_of_the_help_is_on_its_page(typed: str) -> None:
    page = unescaped((man.PAGES / f"{typed.replace(' ', '-')}.1").read_text())
    _, found, options = real_help(typed).replace("options:\n", "Options:\n").partition("Options:\n")
    assert found
    named = {
        flag
        for line in options.splitlines()
        if re.match(r" {2}-", line)
        for flag in flags(re.split(r"\s{2,}", line.strip())[0])
    }
    assert {"--help", "-h"} <= named
    tags = re.findall(r"^\.TP\n(-.*)$", section(page, "OPTIONS"), re.MULTILINE)
    assert named == flags("\n".join(tags))
    _, _, commands = real_help(typed).partition("Commands:\n")
    for command in re.findall(r"^ {2}([a-z-]+)", commands, re.MULTILINE):
        assert f"amesh-{command}(1)" in section(page, "COMMANDS")
    _, _, arguments = real_help(typed).partition("Arguments:\n")
    for argument in re.findall(r"^ {2}([A-Z]+)", arguments.partition("Options:")[0], re.MULTILINE):
        assert argument in section(page, "ARGUMENTS")
        assert argument in section(page, "SYNOPSIS")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_clean_roff(name: str) -> None:
    page = (man.PAGES / name).read_text(encoding="ascii")
    opened = {".RS": ".RE", ".EX": ".EE", ".SY": ".YS"}
    waiting: list[str] = []
    for line in page.splitlines():
        assert line
        assert line == line.rstrip()
        request = line.split(" ")[0]
        if line.startswith("."):
            assert _REQUEST.match(line)
            if request in opened:
                waiting.append(opened[request])
            elif request in opened.values():
                assert request == waiting.pop()
        if request in ('.\\"', ".TH", ".nr"):
            continue
        # A bare sign would be typographic on the page, and no shell takes that back.
        assert not set("\\-'`^~") & set(_ESCAPED.sub("", line.removeprefix("."))), line
    assert not waiting
    assert page.count(r"\fB") + page.count(r"\fI") == page.count(r"\fR")


@pytest.mark.parametrize("name", [page for page in PAGES if page != "amesh-relay.1"])
def test_what_is_to_be_copied_fits_a_page(name: str) -> None:
    page = (man.PAGES / name).read_text(encoding="ascii")
    for block in re.findall(r"^\.EX\n(.*?)^\.EE", page, re.DOTALL | re.MULTILINE):
        for line in map(unescaped, block.splitlines()):
            # 11 columns stand before it; a TPM attribute list cannot be broken.
            assert 11 + len(line) <= 80 or "sensitivedataorigin" in line, line


@pytest.mark.parametrize("name", PAGES)
def test_pages_name_only_pages_that_exist(name: str) -> None:
    page = unescaped((man.PAGES / name).read_text())
    named = {f"{page}.{number}" for page, number in re.findall(r"(amesh[a-z-]*)\(([1-9])\)", page)}
    assert named <= set(PAGES)
    assert named >= set(PAGES) - {name}


@pytest.mark.parametrize("name", PAGES)
def test_commands_and_options_in_the_text_of_a_page_exist(name: str) -> None:
    assert _check_typed(_typed_on((man.PAGES / name).read_text())) > 0


@pytest.mark.parametrize("name", [page for page in PAGES if page.startswith("amesh-")])
def test_a_page_lists_its_exit_statuses(name: str) -> None:
    statuses = _statuses(name)
    assert {0, 2} <= statuses.keys()
    if name != "amesh-relay.1":  # which has a meaning of its own for each
        assert statuses.items() <= STATUSES.items()


def test_amesh_1_lists_every_exit_status() -> None:
    assert _statuses("amesh.1") == STATUSES


def _statuses(name: str) -> dict[int, str]:
    text = unescaped(section((man.PAGES / name).read_text(), "EXIT STATUS"))
    rows = re.findall(r"^\.TP\n(\d+)\n((?:(?!\.).*\n)+)", text, re.MULTILINE)
    return {int(status): " ".join(words.split()) for status, words in rows}


def test_the_wheel_installs_every_page_where_man_looks() -> None:
    project = tomllib.loads((man.ROOT / "pyproject.toml").read_text())
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared == {f"man/{name}": f"share/man/man{name[-1]}/{name}" for name in PAGES}


class Asked(Mapping[str, str]):
    """An empty environment that remembers what it was asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


# --- documents --------------------------------------------------------------------------


@pytest.mark.parametrize("typed", PROGRAMS)
def test_the_documents_show_the_help_as_it_is(typed: str) -> None:
    blocks = re.findall(rf"<!-- help: {typed} -->\n(.*?)<!-- /help -->", documented(), re.DOTALL)
    assert blocks == [f"```console\n$ {typed} --help\n{real_help(typed)}\n```\n"]


def test_the_documents_have_no_help_block_of_anything_else() -> None:
    named = re.findall(r"<!-- help: (.*?) -->", documented())
    assert sorted(named) == sorted(PROGRAMS)


def test_help_for_an_unknown_program_is_an_error() -> None:
    with pytest.raises(KeyError):
        man.with_help("<!-- help: amesh teleport -->\n<!-- /help -->")


@pytest.mark.parametrize("document", ["README.md", "docs/*.md", "examples/**/*.md"])
def test_commands_and_options_in_the_documents_exist(document: str) -> None:
    paths = sorted(man.ROOT.glob(document))
    assert sum(_check_typed(_typed_in(path)) for path in paths) > 10


def test_the_exit_statuses_of_the_documents_are_those_of_the_table() -> None:
    rows = {int(status): meaning for status, meaning in rows_under("Exit statuses")}
    assert rows == STATUSES


def test_the_environment_of_documents_and_manual_is_what_the_code_reads() -> None:
    environ = Asked()
    Settings.from_env(environ)
    # NO_COLOR is read by rich, for everything that is shown.
    wanted = environ.names | {"NO_COLOR"}
    assert {row[0].strip("`") for row in rows_under("Environment")} == wanted
    page = unescaped(section((man.PAGES / "amesh.1").read_text(), "ENVIRONMENT"))
    assert set(re.findall(r"^\.TP\n([A-Z0-9_]+)$", page, re.MULTILINE)) == wanted


def test_no_other_module_reads_variables_of_its_own() -> None:
    """What is read past Settings would be missing from every list above."""
    ours = re.compile(r"\b(?:AMESH|AUTH_MESH)_[A-Z_]+")
    known = {row[0].strip("`") for row in rows_under("Environment")}
    of_relay = {f"AMESH_RELAY_{name.upper()}" for name in (*Config.__slots__, *Limits.__slots__)}
    for path in man.ROOT.glob("amesh_*/**/*.py"):
        text = path.read_text(encoding="utf-8")
        read = {name for name in ours.findall(text) if not name.endswith("_")}
        if path.is_relative_to(man.ROOT / "amesh_relay"):  # amesh-relay(1) says what each is
            read -= of_relay | {"AMESH_RELAY_CONFIG"}
        assert read <= known, path


def _typed_in(path: Path) -> Iterator[str]:
    """What a person would type: the lines of console blocks, and code between backticks."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"<!-- help: .*?<!-- /help -->", "", text, flags=re.DOTALL)
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from block.splitlines()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", prose)


def _typed_on(page: str) -> Iterator[str]:
    """The same of a page: its literal blocks, and what is bold."""
    for block in re.findall(r"^\.EX\n(.*?)^\.EE", page, re.DOTALL | re.MULTILINE):
        yield from unescaped(block).splitlines()
    yield from map(unescaped, re.findall(r"\\fB(.*?)\\fR", page.replace("\n", " ")))


def _check_typed(lines: Iterator[str]) -> int:
    """Every command and option that the lines name exists; gives how many lines name one."""
    checked = 0
    for line in lines:
        # Up to a comment or the next command of the pipe.
        found = re.search(r"(?:^|[ /])(amesh|amesh-relay)(?: ([^|#&]*))?(?:[|#&].*)?$", line)
        if found is None:
            continue
        program, words = found[1], (found[2] or "").split()
        command = words[0] if program == "amesh" and words and words[0][0] != "-" else ""
        assert command in (*AMESH, "..."), line  # an ellipsis stands for any of them
        assert flags(" ".join(words)) <= flags(real_help(f"{program} {command}".strip(" ."))), line
        checked += 1
    return checked


def test_every_json_key_is_on_the_page_of_its_command(tmp_path: Path) -> None:
    """Who parses it finds there what there is; `provision` has a test of its own events."""
    home, server = tmp_path / "laptop", tmp_path / "server"
    shown: dict[str, str] = {
        "init": amesh(home, "init", "--name", "laptop", "--json").out,
        "doctor": amesh(home, "doctor", "--json", "--relay", "ws://127.0.0.1:1/ws").out,
        "config": amesh(home, "config", "list", "--json").out,
    }
    record(make_home(server, name="server"), make_peer("laptop"))
    shown["list"] = amesh(server, "list", "--json").out
    shown["bootstrap"] = amesh(server, "bootstrap", "--json").out
    shown["trust"] = amesh(server, "trust", "extend", "laptop", "--for", "1d", "--json").out
    shown["revoke"] = amesh(server, "revoke", "laptop", "--yes", "--json").out
    for command, text in shown.items():
        page = unescaped((man.PAGES / f"amesh-{command}.1").read_text())
        for key in _keys(json.loads(text)):
            assert re.search(rf"\b{key}\b", page) or key in BACKENDS, f"{command}: {key}"


def _keys(value: object) -> set[str]:
    match value:
        case dict():
            return set(value).union(*map(_keys, value.values()))
        case list():
            return set().union(*map(_keys, value))
        case _:
            return set()


def test_every_command_with_json_is_in_the_document() -> None:
    (sentence,) = re.findall(r"\* `--json` is an option of (.*?);", documented(), re.DOTALL)
    named = {f"amesh {name}" for name in re.findall(r"`([a-z-]+)`", sentence)}
    options = {
        program.typed
        for program in programs()
        if any("--json" in option.flags for option in program.options)
    }
    assert named == options

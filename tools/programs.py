"""What the programs of this project say of their own command lines, in one form.

Two libraries parse them (Typer for `amesh`, argparse for `amesh-relay`); the manual and its
tests want neither, only names, options and help.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from typer.core import TyperArgument, TyperGroup
from typer.main import get_command

from amesh_cli.app import app
from amesh_relay.config import parser as relay_parser

# What a terminal of 80 columns or more shows: the help keeps a margin of two.
HELP_COLUMNS: Final = 78

# Longer than any first sentence, so none is cut.
_UNCUT: Final = 1000


@dataclass(frozen=True, slots=True)
class Option:
    """One option: `("-n", "--name")`, the value it takes or "", and its help."""

    flags: tuple[str, ...]
    value: str
    help: str


@dataclass(frozen=True, slots=True)
class Argument:
    """One positional argument, as its help shows it."""

    name: str
    required: bool
    help: str


@dataclass(frozen=True, slots=True)
class Program:
    """A program, or one of its commands, as its own help describes it."""

    typed: str  # as in a shell: "amesh init"
    summary: str  # the first sentence of its help
    help: str  # all of `--help`, HELP_COLUMNS wide
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()  # name and summary

    @property
    def page(self) -> str:
        """The name of its manual page, in section 1."""
        return self.typed.replace(" ", "-")


def programs() -> list[Program]:
    """`amesh`, each of its commands in the order of the help, and `amesh-relay`."""
    return [*_amesh(), _relay()]


def _amesh() -> Iterator[Program]:
    group = get_command(app)
    if not isinstance(group, TyperGroup):
        raise TypeError("amesh has no commands")
    root = group.make_context(
        "amesh", [], resilient_parsing=True, terminal_width=HELP_COLUMNS
    )  # its commands inherit the width
    commands = {name: group.commands[name] for name in group.list_commands(root)}
    contexts = [root] + [
        command.make_context(name, [], parent=root, resilient_parsing=True)
        for name, command in commands.items()
    ]
    for context in contexts:
        options, arguments = [], []
        for parameter in context.command.get_params(context):
            record = parameter.get_help_record(context)
            if record is None:
                continue  # hidden
            term, meaning = record
            if isinstance(parameter, TyperArgument):
                arguments.append(Argument(term, parameter.required, _one_line(meaning)))
            else:
                options.append(_option(term, _one_line(meaning)))
        yield Program(
            # Not `command_path`: that names the arguments of the group as well.
            typed=f"amesh {context.info_name}" if context is not root else "amesh",
            summary=context.command.get_short_help_str(_UNCUT),
            help=context.get_help(),
            options=tuple(options),
            arguments=tuple(arguments),
            commands=tuple(
                (name, command.get_short_help_str(_UNCUT)) for name, command in commands.items()
            )
            if context is root
            else (),
        )


def _option(term: str, meaning: str) -> Option:
    """Split `-n, --name NAME`, as Typer shows an option, into its flags and its value."""
    words = term.replace(",", "").split()
    flags = tuple(word for word in words if word.startswith("-"))
    return Option(flags, " ".join(words[len(flags) :]), meaning)


def _relay() -> Program:
    parser = relay_parser()
    parser.formatter_class = partial(argparse.RawDescriptionHelpFormatter, width=HELP_COLUMNS)
    # argparse has no public list of what was added to a parser but this one.
    actions = parser._actions
    options = tuple(
        Option(tuple(action.option_strings), _value(action), _argparse_help(parser, action))
        for action in actions
        if action.option_strings and action.help != argparse.SUPPRESS
    )
    description = parser.description or ""
    return Program(
        typed=parser.prog,
        summary=description.split(". ")[0].split(".\n")[0].rstrip("."),
        help=parser.format_help(),
        options=options,
    )


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return action.metavar if isinstance(action.metavar, str) else action.dest.upper()


def _argparse_help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return _one_line((action.help or "") % {**vars(action), "prog": parser.prog})


def _one_line(text: str) -> str:
    return " ".join(text.split())

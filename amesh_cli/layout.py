"""Text in lines and columns of a terminal: pure, and told by who calls how wide a text is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

Width = Callable[[str], int]

# What stands in backticks is to be typed: a line break in it would run half a command.
_WORD: Final = re.compile(r"(\s*)((?:`[^`]*`|\S)+)")
# Set off like this, a line is to be copied, and stays as it is.
_COPIED: Final = "    "
_GAP: Final = "  "


def wrapped(text: str, columns: int, width: Width) -> str:
    """Break lines that are longer than `columns` between words, not within one.

    What follows a break is indented as its line is. A word that is longer than a line stays
    whole: a terminal breaks it, and gives it back whole when it is copied.
    """
    return "\n".join(
        line
        if line.startswith(_COPIED) or width(line) <= columns
        else _broken(line, columns, width)
        for line in text.split("\n")
    )


def _broken(line: str, columns: int, width: Width) -> str:
    indent = " " * (len(line) - len(line.lstrip(" ")))
    lines: list[str] = []
    current = ""
    for space, word in _WORD.findall(line):
        if current.strip() and width(current + space + word) > columns:
            lines.append(current)
            current = indent + word
        else:
            current += space + word
    return "\n".join([*lines, current])


def aligned(rows: Sequence[Sequence[str]], width: Width) -> list[str]:
    """One line for each row, every cell at the place of its column, no blanks at the end."""
    cells = [[width(cell) for cell in row] for row in rows]
    widest = [max(column) for column in zip(*cells, strict=True)]
    return [
        _GAP.join(
            cell + " " * (wide - wanted)
            for cell, wanted, wide in zip(row, measured, widest, strict=True)
        ).rstrip()
        for row, measured in zip(rows, cells, strict=True)
    ]


def shortened(text: str, limit: int) -> str:
    """`text` without its middle if it is longer than `limit`: both its ends say something."""
    if len(text) <= limit:
        return text
    mark = " [...] "
    end = (limit - len(mark)) // 3
    return text[: limit - len(mark) - end] + mark + text[-end:]

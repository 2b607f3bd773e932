"""One JSON object of a file, taken apart key by key, and written (docs/protocol.md section 2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from amesh_core.errors import Malformed
from amesh_core.wire.encoding import load_json, parse_instant


class Fields:
    """One JSON object, taken apart key by key; what nobody asked for is the rest.

    Each method raises `Malformed` when the key is missing or its value of another kind.
    """

    def __init__(self, data: bytes) -> None:
        value = load_json(data)
        if not isinstance(value, dict):
            raise Malformed("not a JSON object")
        self._all: dict[str, Any] = value
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._all

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys in the order of the text."""
        return tuple(self._all)

    def rest(self) -> dict[str, Any]:
        """What nobody asked for."""
        return {key: value for key, value in self._all.items() if key not in self._asked}

    def value(self, key: str) -> Any:
        """Any value."""
        self._asked.add(key)
        if key not in self._all:
            raise Malformed(f"no {key}")
        return self._all[key]

    def text(self, key: str) -> str:
        """A string."""
        value = self.value(key)
        if not isinstance(value, str):
            raise Malformed(f"{key} is not text")
        return value

    def constant(self, key: str, wanted: str) -> None:
        """A string that can only be `wanted`."""
        if self.text(key) != wanted:
            raise Malformed(f"{key} is not {wanted}")

    def instant(self, key: str) -> str:
        """A time of the one form that our files have, as its text."""
        text = self.text(key)
        parse_instant(text)
        return text

    def positive(self, key: str, default: int) -> int:
        """A whole number from 1 up; `default` when the key is missing."""
        if key not in self:
            return default
        value = self.value(key)
        if type(value) is not int or value < 1:
            raise Malformed(f"{key} is not a positive number")
        return value

    def objects(self, key: str) -> tuple[dict[str, Any], ...]:
        """A list of objects."""
        value = self.value(key)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise Malformed(f"{key} is not a list of objects")
        return tuple(value)


def pretty(value: Mapping[str, Any]) -> bytes:
    """Write JSON as Node's tools do: two spaces, UTF-8; a lone surrogate stays an escape."""
    # backslashreplace writes a lone surrogate as \udxxx, which is its JSON escape.
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return text.encode("utf-8", "backslashreplace")

"""Read the vector files; they are never written by the code under test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_DIRECTORY = Path(__file__).parent.parent / "vectors"


def load(name: str) -> Any:
    """The parsed contents of tests/vectors/<name>."""
    return json.loads((_DIRECTORY / name).read_text(encoding="utf-8"))

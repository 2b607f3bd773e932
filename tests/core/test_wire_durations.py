"""The grammar of durations that people type."""

from __future__ import annotations

import pytest

from amesh_core.errors import Malformed
from amesh_core.wire.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("90s", 90),
        ("30m", 1_800),
        ("1h", 3_600),
        ("24h", 86_400),
        ("1d", 86_400),
        ("90d", 7_776_000),
        ("007d", 604_800),
        ("99999999d", 8_639_999_913_600),
    ],
)
def test_one_number_and_one_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "1",
            "d",
            "0s",
            "000d",
            "-1h",
            "+1h",
            "1.5h",
            "1 h",
            " 1h",
            "1h ",
            "1h\n",
            "1H",
            "1w",
        ),
        *("1h30m", "1e3s", "0x1s", "1_0s", "\u0661h", "\uff11h", "100000000s", "1\0s"),
        "9" * 5000 + "s",
    ],
)
def test_everything_else_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse_duration(text)

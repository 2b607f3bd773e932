"""How long something lasts, as a person types it: 90s, 30m, 1h, 24h, 90d."""

from __future__ import annotations

import re
from typing import Final

from amesh_core.errors import Malformed

_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# Eight digits of days are 270 000 years, so a caller can add it to a time before it judges.
_DURATION: Final = re.compile(r"([0-9]{1,8})([smhd])")


def parse_duration(text: str) -> int:
    """Read one whole number and one unit (s, m, h, d) as seconds, at least one.

    One unit and no sign, fraction or space, so that what is typed leaves nothing to guess:
    36h is 36h, not 1d12h. How long is too long is for the caller to say.

    Raises:
        Malformed: any other form, or zero.
    """
    found = _DURATION.fullmatch(text)
    seconds = int(found[1]) * _UNIT_SECONDS[found[2]] if found else 0
    if not seconds:
        raise Malformed("a duration is a number and one of s, m, h, d: 90s, 30m, 24h, 90d")
    return seconds

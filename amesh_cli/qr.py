"""A QR code in the terminal; the only module that imports segno."""

from __future__ import annotations

from itertools import zip_longest

from amesh_core.errors import UsageError

_QUIET_MODULES = 4  # the empty frame that readers look for (ISO/IEC 18004 section 9.1)
# Two modules, one above the other, in one character: (upper, lower), dark is True.
_HALVES = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}


def lines(text: str) -> list[str]:
    """`text` as a QR code, dark modules drawn; to be shown black on white.

    Raises:
        UsageError: the extra is not installed.
    """
    try:
        import segno
    except ImportError as error:
        raise UsageError(
            f"{error.name} is not installed, which draws QR codes: pip install 'authmesh[qr]'"
        ) from None
    # The least correction: it is a screen, not a poster in the rain, and smaller is easier.
    code = segno.make_qr(text, error="l", boost_error=True)
    rows = [tuple(map(bool, row)) for row in code.matrix_iter(border=_QUIET_MODULES)]
    empty = (False,) * len(rows[0])
    return [
        "".join(_HALVES[pair] for pair in zip(upper, lower, strict=True))
        for upper, lower in zip_longest(rows[::2], rows[1::2], fillvalue=empty)
    ]

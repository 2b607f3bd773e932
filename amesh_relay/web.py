"""What the relay answers to plain HTTP: is it up, does it take devices, what has it done."""

from __future__ import annotations

import hmac
import json
import re
from http import HTTPStatus
from pathlib import Path
from typing import Final

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from amesh_core.errors import UsageError

# After that, whatever restarts relays has put another one in our place.
RETRY_SECONDS: Final = 5

# A word that somebody thought of is found in hours, over many addresses; 16 random hexadecimal
# digits are 64 bits.
MIN_TOKEN_CHARACTERS: Final = 16
# Room for some hundred tokens; a device or a log that was named by mistake has no end.
_MAX_FILE_BYTES: Final = 65536
_MAKE_ONE: Final = "make one with: openssl rand -hex 32"


class AccessTokens:
    """The tokens of which a device has to send one, when only some may use this relay.

    One on each line of a file: two, while the one is replaced by the other.
    """

    def __init__(self, path: Path) -> None:
        """Read them.

        Raises:
            UsageError: there is none, one can be guessed, or the file cannot be read.
        """
        self._path = path
        self._tokens = _tokens(path)

    def read_again(self) -> None:
        """Only these are admitted from now on; who is inside stays.

        Raises:
            UsageError: as at the beginning, and those of before stay.
        """
        self._tokens = _tokens(self._path)

    def admits(self, headers: Headers) -> bool:
        """Whether a request carries one: `Authorization: Bearer TOKEN`, once."""
        values = shown(headers)
        scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        sent = token.strip().encode("iso-8859-1")  # as it was decoded; a header is bytes
        # With every one and also for another scheme: how long it takes tells nothing.
        is_one = [hmac.compare_digest(sent, known) for known in self._tokens]
        return any(is_one) and scheme.lower() == "bearer"


def _tokens(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise UsageError(f"{path}: more than {_MAX_FILE_BYTES} bytes are no file of access tokens")
    tokens = []
    for number, line in enumerate(data.splitlines(), 1):
        for token in line.split():
            # Not repeated: it goes to a log.
            where = f"{path}: line {number}"
            if not re.fullmatch(rb"[!-~]+", token):
                raise UsageError(f"{where} has what no device can send; a token is ASCII")
            if len(token) < MIN_TOKEN_CHARACTERS:
                raise UsageError(
                    f"{where} has a word of fewer than {MIN_TOKEN_CHARACTERS} characters, too few "
                    f"for an access token; {_MAKE_ONE}"
                )
            tokens.append(token)
    if not tokens:
        raise UsageError(f"{path} is empty; {_MAKE_ONE}")
    return tokens


def shown(headers: Headers) -> list[str]:
    """What somebody shows to be admitted; mostly nothing, or one."""
    return headers.get_all("Authorization")


def path_of(request: Request) -> str:
    """The path of a request, without its query."""
    return request.path.partition("?")[0]


def json_answer(status: HTTPStatus, value: dict[str, object]) -> Response:
    """A JSON object and a newline."""
    return answer(status, "application/json", (json.dumps(value) + "\n").encode())


def text_answer(status: HTTPStatus, text: str) -> Response:
    """A line of text."""
    return answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())


def busy_answer(text: str) -> Response:
    """Not now; perhaps in a moment."""
    response = text_answer(HTTPStatus.SERVICE_UNAVAILABLE, text)
    response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response


def guessing_answer(seconds: float) -> Response:
    """Too many access tokens were wrong; for so long none is looked at."""
    response = text_answer(HTTPStatus.TOO_MANY_REQUESTS, "too many wrong access tokens")
    response.headers["Retry-After"] = str(round(seconds))
    return response


def unauthorized_answer() -> Response:
    """The access token is missing or another one."""
    response = text_answer(HTTPStatus.UNAUTHORIZED, "this relay needs an access token")
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def answer(status: HTTPStatus, content_type: str, body: bytes) -> Response:
    """A whole answer, after which the connection ends."""
    headers = Headers(
        {
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Connection": "close",
        }
    )
    return Response(status.value, status.phrase, headers, body)

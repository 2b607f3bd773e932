"""`amesh fetch`: one signed request from a shell or a cron job."""

from __future__ import annotations

import contextlib
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx2

from amesh_cli import here, pipes, terminal, web
from amesh_core.errors import NotLetIn, NotSuccessful, UsageError
from amesh_sdk import Amesh

_HEADER: Final = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([ -~\t]*?)[ \t]*")
# With `-v`, what was given with -H is not shown but for these, and neither are cookies: they may
# be secrets, and what cron runs is mailed.
_NO_SECRET: Final = frozenset({"accept", "content-type", "user-agent"})
_SECRET: Final = frozenset({"cookie", "proxy-authorization"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was typed. `data` is the body itself, `output` None means stdout."""

    url: str
    method: str | None
    data: bytes | None = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    output: Path | None
    show_headers: bool
    verbose: bool
    timeout_seconds: float
    follow_redirects: bool


def parse_header(text: str) -> tuple[str, str]:
    """Read `Name: value`.

    Raises:
        UsageError: another form, or a header that a signature must make.
    """
    found = _HEADER.fullmatch(text)
    if found is None:
        raise UsageError("-H takes 'Name: value', in ASCII")
    if found[1].lower() == "authorization":
        raise UsageError("the Authorization header carries the signature; -H cannot set it")
    return found[1], found[2]


def read_data(text: str) -> bytes:
    """The body that `-d` names: TEXT, @FILE or, from standard input, @-.

    Raises:
        UsageError: the file cannot be read.
    """
    if not text.startswith("@"):
        return text.encode("utf-8", "surrogateescape")  # as it came from the shell
    if text == "@-":
        return pipes.stdin()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise UsageError(f"-d {text}: {error.strerror}") from None


def fetch(wanted: Wanted) -> None:
    """Sign, send, and pass the answer on.

    Raises:
        NotSuccessful: the answer is not of 2xx; its body was passed on all the same.
        NoAnswer: there is none, or only a part.
        UsageError: a URL or a file that cannot work.
    """
    url = web.check_url(wanted.url)
    # What an answer is for may have happened by the time that it cannot be written.
    if wanted.output is not None and not wanted.output.resolve().parent.is_dir():
        raise UsageError(f"-o {wanted.output}: there is no such directory")
    signing = Amesh(here.settings()).auth(follow_redirects=wanted.follow_redirects)
    hooks: dict[str, list[Callable[..., None]]] = {}
    if wanted.verbose:
        given = {name.lower() for name, _ in wanted.headers}
        hidden = given - _NO_SECRET | _SECRET
        hooks = {"request": [partial(_say_request, hidden)], "response": [_say_response]}
    host = urlsplit(url).netloc
    with (
        web.explained(host, wanted.timeout_seconds),
        httpx2.Client(auth=signing, timeout=wanted.timeout_seconds, event_hooks=hooks) as client,
        client.stream(
            wanted.method or ("GET" if wanted.data is None else "POST"),
            url,
            content=wanted.data,
            # The bytes that are passed on shall be the server's, not unpacked ones.
            headers=[("Accept-Encoding", "identity"), *wanted.headers],
        ) as response,
    ):
        if wanted.show_headers:
            _show_headers(response)
        _pass_on(response, wanted.output if response.is_success else None)
    if not response.is_success:
        raise _failure(response)


def _failure(response: httpx2.Response) -> NotSuccessful:
    reason = terminal.printable(response.reason_phrase)
    if response.status_code == 401 and response.headers.get("WWW-Authenticate") == "AuthMesh":
        return NotLetIn(response.status_code, reason)
    return NotSuccessful(response.status_code, reason)


def _pass_on(response: httpx2.Response, output: Path | None) -> None:
    with _opened(output) as out:
        for piece in response.iter_raw():
            out.write(piece)
        out.end()


@contextlib.contextmanager
def _opened(output: Path | None) -> Iterator[pipes.Output]:
    """Where the body goes; a file is replaced when all of it is there, and not before."""
    if output is None:
        yield pipes.stdout()
        return
    try:
        if output.exists() and not output.is_file():  # a device or a pipe cannot be replaced
            with output.open("wb") as file:
                yield pipes.Output(file)
            return
        real = output.resolve()  # a link is somebody's arrangement
        written = real.with_name(f".{real.name}.{secrets.token_hex(4)}")
        try:
            with written.open("xb") as file:
                yield pipes.Output(file)
            if real.exists():
                written.chmod(stat.S_IMODE(real.stat().st_mode))
            written.replace(real)
        finally:
            written.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"-o {output}: {error.strerror}") from None


def _show_headers(response: httpx2.Response) -> None:
    lines = [f"{response.http_version} {response.status_code} {response.reason_phrase}".rstrip()]
    lines += [f"{name}: {value}" for name, value in _decoded(response.headers.raw)]
    out = pipes.stdout()
    out.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1"))
    out.end()


def _say_request(hidden: AbstractSet[str], request: httpx2.Request) -> None:
    target = request.extensions.get("target", request.url.raw_path).decode("ascii")
    terminal.say(f"> {request.method} {target}")
    for name, value in _decoded(request.headers.raw):
        shown = "(not shown)" if name.lower() in hidden else _public(name, value)
        terminal.say(f"> {name}: {shown}")
    terminal.say(f"> ({len(request.content)} bytes of body)")


def _public(name: str, value: str) -> str:
    if name.lower() == "authorization":
        # Until it arrives, who has the whole header can send the request in our place.
        return re.sub('(sig=")[^"]*', r"\1...", value)
    return terminal.printable(value)


def _say_response(response: httpx2.Response) -> None:
    reason = terminal.printable(response.reason_phrase)
    terminal.say(f"< {response.http_version} {response.status_code} {reason}".rstrip())


def _decoded(headers: Sequence[tuple[bytes, bytes]]) -> Iterator[tuple[str, str]]:
    return ((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)

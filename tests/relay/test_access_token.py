"""A relay that only some may use: who shows a token of its file, and nobody learns more."""

from __future__ import annotations

import asyncio
import hmac
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx2
import pytest
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request
from websockets.sync.client import ClientConnection, connect

from amesh_core.errors import RelayWantsToken, UsageError
from amesh_core.io import relay_line
from amesh_core.wire import relay as wire
from amesh_relay.config import Config
from amesh_relay.server import Relay
from amesh_relay.web import AccessTokens
from tests.support.relay import RelayProcess, hear, raw_connection, read_to_end, relay_process

TOKEN = "iejoo9Eis8ahchai"
OTHER = "aiHahgh0yei8Ohsh"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"{TOKEN}\n")
    return path


def headers(*lines: str) -> Headers:
    return Headers([("Authorization", line) for line in lines])


@pytest.mark.parametrize(
    "line",
    [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN} ", f"Bearer {OTHER}"],
)
def test_who_is_admitted(file: Path, line: str) -> None:
    file.write_text(f"{TOKEN}\n\n  {OTHER}  \n")
    assert AccessTokens(file).admits(headers(line))


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("",),
        ("Bearer",),
        ("Bearer ",),
        (TOKEN,),
        (f"Basic {TOKEN}",),
        (f"Bearer {TOKEN[:-1]}",),
        (f"Bearer {TOKEN}x",),
        (f"Bearer {TOKEN.upper()}",),
        (f"Bearer {OTHER}",),
        (f"Bearer {TOKEN} {TOKEN}",),
        (f"Bearer {TOKEN}", f"Bearer {TOKEN}"),
        (f"Bearer {TOKEN}", "Bearer x"),
        ("Bearer é",),
    ],
)
def test_who_is_not(file: Path, lines: Sequence[str]) -> None:
    assert not AccessTokens(file).admits(headers(*lines))


def test_how_long_it_takes_tells_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token is compared in constant time, whatever was sent and whichever is the one."""
    file.write_text(f"{TOKEN} {OTHER}")
    compared = []

    def compare(sent: bytes, known: bytes) -> bool:
        compared.append(known)
        return sent == known

    monkeypatch.setattr(hmac, "compare_digest", compare)
    tokens = AccessTokens(file)
    for lines in ((), (f"Bearer {TOKEN}",), (f"Bearer {OTHER}",), (f"Basic {TOKEN}",), ("x",)):
        tokens.admits(headers(*lines))
        assert compared == [TOKEN.encode(), OTHER.encode()]
        compared.clear()


SHORT = "line 3 has a word of fewer than 16 characters, too few for an access token; make one with"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "no such file or directory"),
        (b"", "is empty; make one with: openssl rand -hex 32"),
        (b" \n\t\n", "is empty"),
        (b"\n\n" + TOKEN[:-1].encode(), SHORT),
        (TOKEN.encode() + b"\n\nhunter2", SHORT),
        # Each word is a token, and so would be those of a remark.
        (TOKEN.encode() + b"\r\n\r\n# for the branch office " + OTHER.encode(), SHORT),
        (b"\xef\xbb\xbf" + TOKEN.encode(), "line 1 has what no device can send"),
        ("Passwort-für-alle".encode(), "line 1 has what no device can send"),
        (TOKEN.encode() * 4097, "more than 65536 bytes are no file of access tokens"),
    ],
)
def test_a_file_without_a_good_token(tmp_path: Path, data: bytes | None, reason: str) -> None:
    path = tmp_path / "tokens"
    if data is not None:
        path.write_bytes(data)
    for check in ([], ["--check-config"]):
        done = subprocess.run(
            [sys.executable, "-m", "amesh_relay", *check, "--access-token-file", str(path)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"error: {path}")
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
        for secret in (TOKEN, TOKEN[:-1], "hunter2", "Passwort"):
            assert secret not in done.stderr


def test_nothing_but_a_file_that_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        AccessTokens(tmp_path)


def upgrade(relay: RelayProcess, *lines: bytes) -> bytes:
    """The whole answer, byte for byte; 426 for who is admitted, as it asks for no WebSocket."""
    with raw_connection(relay) as raw:
        raw.sendall(
            b"GET /ws HTTP/1.1\r\nHost: relay\r\nSec-WebSocket-Version: 13\r\n"
            + b"".join(b"%b\r\n" % line for line in lines)
            + b"\r\n"
        )
        return read_to_end(raw)


def device(relay: RelayProcess, token: str) -> ClientConnection:
    sent = {"Authorization": f"Bearer {token}"}
    return connect(relay.url, additional_headers=sent, proxy=None)


def listens(opened: ClientConnection, otc: str) -> wire.RelayFrame:
    opened.send(wire.encode(wire.Listen(otc)))
    return hear(opened)


def test_a_relay_for_some(file: Path) -> None:
    with relay_process("--access-token-file", str(file), "--log-level", "debug") as relay:
        with device(relay, TOKEN) as admitted:
            assert listens(admitted, "123456") == wire.Ack()
        none = upgrade(relay)
        assert none.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
        assert b"WWW-Authenticate: Bearer\r\n" in none

        async def ours(token: str | None) -> None:
            async with relay_line.connected(relay.url, token) as line:
                await line.ask(wire.Listen("654321"), wire.Ack())

        asyncio.run(ours(TOKEN))
        with pytest.raises(RelayWantsToken):
            asyncio.run(ours(None))
        # Nobody learns how near a guess was.
        for lines in (
            [b"Bearer x"],
            [b"Bearer " + TOKEN[:-1].encode()],
            [b"Basic " + TOKEN.encode()],
            [b"Bearer \xff\xfe"],
            [b"Bearer " + TOKEN.encode()] * 2,
        ):
            shown = [b"Authorization: " + line for line in lines]
            assert upgrade(relay, *shown) == none
        # What operators ask needs no token.
        http = f"http://{relay.host}:{relay.port}"
        assert [httpx2.get(f"{http}/{name}").status_code for name in ("health", "ready")] == [
            200
        ] * 2
        assert "Traceback" not in relay.log()
        assert TOKEN not in relay.log()


def test_tokens_are_not_guessed_for_long(file: Path) -> None:
    """Five wrong ones of an address, and none is looked at until a minute is over."""
    options = ("--access-token-file", str(file), "--trusted-proxy", "127.0.0.1")
    right = b"Bearer " + TOKEN.encode()
    with relay_process(*options) as relay:

        def guess(token: bytes | None, client: bytes = b"198.51.100.1") -> bytes:
            lines = [] if token is None else [b"Authorization: " + token]
            answer = upgrade(relay, b"X-Forwarded-For: 10.0.0.1, " + client, *lines)
            return answer.partition(b"\r\n")[0].split()[1]

        # Who shows nothing has guessed nothing.
        assert [guess(None) for _ in range(6)] == [b"401"] * 6
        assert [guess(b"Bearer %d" % number) for number in range(5)] == [b"401"] * 5
        assert [guess(token) for token in (b"Bearer x", right, None)] == [b"429"] * 3
        # What a client writes itself into the header makes no other one of it, another does.
        assert guess(right, b"198.51.100.2") == b"426"
        found = httpx2.get(f"http://{relay.host}:{relay.port}/metrics").text
        assert "amesh_relay_tokens_refused_total 5.0" in found
        assert guess(None, b"198.51.100.2") == b"401"


def test_a_minute_later_tokens_are_looked_at_again(file: Path) -> None:
    relay = Relay(Config(access_token_file=file), lambda: 0.0)

    def status(token: str, now: float) -> int | None:
        answer = relay.desk.answer(Request("/ws", headers(f"Bearer {token}")), lambda: b"me", now)
        return answer.status_code if answer else None

    wrong = [status("x", now) for now in range(5)]
    assert wrong == [401] * 5
    assert [status(TOKEN, now) for now in (4.0, 59.9)] == [429] * 2
    assert status(TOKEN, 60.0) is None


def test_tokens_change_without_a_restart(file: Path) -> None:
    """First both, then the new one: nobody is locked out in between."""
    with (
        relay_process("--access-token-file", str(file)) as relay,
        device(relay, TOKEN) as inside,
    ):
        for text, said in (
            (f"{TOKEN}\n{OTHER}\n", 1),
            (f"{OTHER}\n", 2),
        ):
            file.write_text(text)
            relay.process.send_signal(signal.SIGHUP)
            relay.says("the settings were read again", times=said)
            with device(relay, OTHER) as new:
                assert listens(new, f"00000{said}") == wire.Ack()
        with pytest.raises(InvalidStatus):
            device(relay, TOKEN)
        file.write_text("")
        relay.process.send_signal(signal.SIGHUP)
        relay.says("the access tokens stay as they were")
        with device(relay, OTHER) as new:
            assert listens(new, "000003") == wire.Ack()
        assert listens(inside, "000004") == wire.Ack()

"""The way to a relay: what is a URL, and what each failure to get there is called."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
import traceback
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from amesh_core.errors import RelayBusy, RelayUnreachable, RelayWantsToken, UsageError
from amesh_core.io import relay_line
from amesh_core.settings import Settings
from amesh_core.wire import relay as wire
from amesh_relay.config import Config
from tests.support.ports import free_port
from tests.support.relay import relay_in_process
from tests.support.scripted_relay import Device, scripted

PATIENCE_SECONDS = 20


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end, and fail instead of hanging."""
    asyncio.run(asyncio.wait_for(main, PATIENCE_SECONDS))


async def visit(url: str) -> None:
    """Connect and go away again."""
    async with relay_line.connected(url):
        pass


def test_there_and_back() -> None:
    async def main() -> None:
        async with relay_in_process() as url, relay_line.connected(url) as line:
            await line.ask(wire.Listen("314159"), wire.Ack())

    run(main())


def unreachable(url: str) -> RelayUnreachable:
    async def main() -> None:
        await visit(url)

    with pytest.raises(RelayUnreachable) as raised:
        run(main())
    assert raised.value.url == url
    return raised.value


def test_nothing_listens_there() -> None:
    assert unreachable(f"ws://127.0.0.1:{free_port()}/ws").reason == os.strerror(errno.ECONNREFUSED)


def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert unreachable("ws://relay.invalid/ws").reason == "its name does not resolve"


def test_no_such_path() -> None:
    async def main() -> None:
        async with relay_in_process() as url:
            with pytest.raises(RelayUnreachable, match="HTTP 404"):
                await visit(url + "x")

    run(main())


@asynccontextmanager
async def plain_server(answer: bytes) -> AsyncIterator[int]:
    """A TCP server that says `answer` to whoever comes; gives its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("answer", "scheme", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "ws", "what answers there is no relay"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "ws", "it answers HTTP 200"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "wss", "no TLS connection is possible"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: ws://x:99999/\r\nContent-Length: 0\r\n\r\n",
            "ws",
            "what answers there is no relay",
        ),
    ],
)
def test_something_else_listens_there(answer: bytes, scheme: str, reason: str) -> None:
    async def main() -> None:
        async with plain_server(answer) as port:
            with pytest.raises(RelayUnreachable) as raised:
                await visit(f"{scheme}://127.0.0.1:{port}/ws")
            assert raised.value.reason == reason

    run(main())


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """A server's TLS with a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, SHA256())
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    return context


def test_a_certificate_nobody_vouches_for(self_signed: ssl.SSLContext) -> None:
    async def main() -> None:
        async with scripted(Device.gone, self_signed) as url:
            with pytest.raises(RelayUnreachable, match="certificate is not valid"):
                await visit(url)

    run(main())


def test_nothing_is_said_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_line, "CONNECT_SECONDS", 0.02)

    async def main() -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            pytest.raises(RelayUnreachable, match="no answer in"),
        ):
            await visit(f"ws://127.0.0.1:{server.getsockname()[1]}/ws")

    run(main())


def test_a_proxy_does_not_stand_before_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ws_proxy", "http_proxy", "https_proxy", "all_proxy":
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def main() -> None:
        async with relay_in_process() as url:
            for host in "127.0.0.1", "localhost":
                await visit(url.replace("127.0.0.1", host))

    run(main())


@pytest.mark.parametrize(
    "proxy", ["gopher://user:hunter2@proxy:1", "socks5://user:hunter2@proxy:1"]
)
def test_a_proxy_s_password_is_not_shown(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ws_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    error = unreachable("ws://relay.invalid/ws")
    assert error.reason == "the proxy that the environment names does not work"
    assert "hunter2" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "url",
    [
        "ws://localhost:3001/ws",
        "wss://relay.authmesh.dev/ws",
        "ws://[::1]:3001/ws",
        "wss://relay.example",
        "ws://10.0.0.1:80/some/path?x=1",
    ],
)
def test_relay_urls(url: str) -> None:
    assert relay_line.check_relay_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "relay.example",
        "http://relay.example/ws",
        "https://relay.example/ws",
        "WS://relay.example/ws",
        "ws:/relay.example",
        "ws:///ws",
        "ws://:3001/ws",
        "ws://relay.example:99999/ws",
        "ws://relay.example:port/ws",
        "ws://[::1/ws",
        "ws://a..b/ws",
        f"ws://{'a' * 64}.example/ws",
        "ws://user@relay.example/ws",
        "ws://user:hunter2@relay.example/ws",
        "ws://relay.example/ws#fragment",
        "ws://relay.example/ws#",
        "ws://relay.example/w s",
        "ws://relay.example/ws\n",
        "ws://relay\x1b[2J.example/ws",
        "ws://rel\u0430y.example/ws",
    ],
)
def test_what_is_no_relay_url(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        relay_line.check_relay_url(url)
    assert "hunter2" not in str(raised.value)

    async def main() -> None:
        await visit(url)

    with pytest.raises(UsageError):
        run(main())


# --- the access token of a relay --------------------------------------------------------

TOKEN = "correct-horse-battery-staple"


@asynccontextmanager
async def guarded_relay(directory: Path) -> AsyncIterator[str]:
    """A relay that only some may use."""
    file = directory / "tokens"
    file.write_text(TOKEN)
    config = Config(host="127.0.0.1", port=0, access_token_file=file)
    async with relay_in_process(config) as url:
        yield url


def test_a_relay_that_only_some_may_use(tmp_path: Path) -> None:
    async def main() -> None:
        async with guarded_relay(tmp_path) as url:
            async with relay_line.connected(url, TOKEN) as line:
                await line.ask(wire.Listen("314159"), wire.Ack())
            for token, said in ((None, "it wants an access token"), ("x", "it does not accept")):
                with pytest.raises(RelayWantsToken, match=said) as raised:
                    async with relay_line.connected(url, token):
                        pass
                assert TOKEN not in str(raised.value)

    run(main())


def test_a_relay_that_takes_nobody_now() -> None:
    async def main() -> None:
        answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
        async with plain_server(answer) as port:
            with pytest.raises(RelayBusy) as raised:
                await visit(f"ws://127.0.0.1:{port}/ws")
            assert raised.value.reason == "it takes no devices at the moment"

    run(main())


def test_a_relay_that_was_tried_with_wrong_tokens() -> None:
    async def main() -> None:
        answer = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"
        async with plain_server(answer) as port:
            with pytest.raises(RelayBusy, match="too many wrong access tokens"):
                await visit(f"ws://127.0.0.1:{port}/ws")

    run(main())


def test_a_token_is_not_sent_where_others_can_read_it() -> None:
    async def main() -> None:
        async with relay_line.connected("ws://192.0.2.1/ws", TOKEN):
            pass

    with pytest.raises(UsageError, match="not sent over ws://") as raised:
        run(main())
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize(("host", "sent"), [("127.0.0.1", True), ("localhost", False)])
def test_a_token_does_not_follow_to_another_host(host: str, sent: bool) -> None:
    """A relay, or whoever stands before it, may send us anywhere."""
    heard = []

    async def main() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = await reader.readuntil(b"\r\n\r\n")
            heard.append(request)
            there = f"ws://{host}:{port}/ws".encode()
            first = b"HTTP/1.1 302 Found\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % there
            answer = first if len(heard) == 1 else b"HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n"
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(RelayUnreachable, match="HTTP 404"):
                async with relay_line.connected(f"ws://127.0.0.1:{port}/ws", TOKEN):
                    pass

    run(main())
    assert [TOKEN.encode() in request for request in heard] == [True, sent]


def test_where_a_token_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"\n {TOKEN}\n")
    both = {"AMESH_RELAY_TOKEN": "first", "AMESH_RELAY_TOKEN_FILE": str(file)}
    settings = Settings.from_env(both)
    assert relay_line.access_token(settings) == "first"
    assert "first" not in repr(settings)
    assert relay_line.access_token(Settings.from_env({**both, "AMESH_RELAY_TOKEN": ""})) == TOKEN
    assert relay_line.access_token(Settings.from_env({})) is None


@pytest.mark.parametrize("text", ["two words", "a\r\nX-Forwarded-For: 192.0.2.1", "é", ""])
def test_what_is_no_token(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    for variable, value in (("AMESH_RELAY_TOKEN_FILE", str(file)), ("AMESH_RELAY_TOKEN", text)):
        if value:
            with pytest.raises(UsageError, match="holds no access token") as raised:
                relay_line.access_token(Settings.from_env({variable: value}))
            assert not text or text not in str(raised.value)


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    environ = {"AMESH_RELAY_TOKEN_FILE": str(tmp_path / "gone")}
    with pytest.raises(UsageError, match="named by AMESH_RELAY_TOKEN_FILE, does not exist"):
        relay_line.access_token(Settings.from_env(environ))

"""What stands before a connection: TLS, the PROXY header, and how long they may take."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import connect

from amesh_core.errors import RelayUnreachable
from amesh_core.io import relay_line
from amesh_core.wire import relay as wire
from tests.support.blocking_device import device
from tests.support.proxy_headers import for_client, version_2
from tests.support.relay import (
    bystanders,
    hear,
    raw_connection,
    read_to_end,
    relay_process,
)
from tests.support.relay_commands import LOOPS, relay_with
from tests.support.tls import Certificate, make_certificate

PROXY = ("--trusted-proxy", "127.0.0.1", "--proxy-protocol")


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


def tls(certificate: Certificate) -> tuple[str, ...]:
    return ("--certfile", str(certificate.certificate), "--keyfile", str(certificate.key))


# --- TLS --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", LOOPS.values(), ids=LOOPS)
def test_our_own_client_comes_in_by_tls(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch, command: Sequence[str]
) -> None:
    async def meet(url: str) -> None:
        async with relay_line.connected(url) as target, relay_line.connected(url) as controller:
            await target.ask(wire.Listen("123456"), wire.Ack())
            await controller.ask(wire.Connect("123456"), wire.PeerFound())
            assert await target.receive() == wire.PeerFound()
            for number in range(20):
                payload = f"{number}:" + "A" * 60_000
                await controller.send(wire.Data(payload))
                assert await target.payload() == payload
            await target.send(wire.Done())
            assert await controller.receive() == wire.Done()

    with relay_process(*tls(certificate), command=command) as relay:
        assert relay.url == f"wss://127.0.0.1:{relay.port}/ws"
        with pytest.raises(RelayUnreachable, match="its certificate is not valid"):
            asyncio.run(meet(relay.url))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))
        asyncio.run(meet(relay.url))
        relay.process.terminate()
        assert relay.wait() == 0
        # Of the handshake that failed, too: a port scan fills no log.
        assert [line for line in relay.log().splitlines() if "stopping" not in line] == []


class MemoryClient:
    """TLS without a socket, so that a test decides what goes into one segment."""

    def __init__(self, raw: socket.socket, trust: ssl.SSLContext) -> None:
        self._raw = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = trust.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")

    def shake(self) -> None:
        """The handshake, but for our last flight, which is not sent yet."""
        while True:
            try:
                return self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._exchange()

    def ask(self, request: bytes) -> bytes:
        """Send what is left of the handshake and a request in one segment; the first answer."""
        self._tls.write(request)
        while True:
            try:
                return self._tls.read(65536)
            except ssl.SSLWantReadError:
                self._exchange()

    def _exchange(self) -> None:
        self._raw.sendall(self._outgoing.read())
        answer = self._raw.recv(65536)
        assert answer, "it hung up"
        self._incoming.write(answer)


@pytest.mark.parametrize("command", LOOPS.values(), ids=LOOPS)
def test_nothing_is_lost_around_the_handshake(
    certificate: Certificate, command: Sequence[str]
) -> None:
    """Neither what comes at once after the socket, nor what comes with the client's last flight."""
    trust = certificate.for_client()
    with relay_process(*tls(certificate), command=command) as relay:
        for _ in range(100):
            with raw_connection(relay) as raw:
                client = MemoryClient(raw, trust)
                client.shake()
                answer = client.ask(b"GET /health HTTP/1.1\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_of_tls(certificate: Certificate, version: ssl.TLSVersion) -> None:
    trust = certificate.for_client()
    trust.minimum_version = trust.maximum_version = version
    trust.set_alpn_protocols(["h2", "http/1.1"])
    with (
        relay_process(*tls(certificate)) as relay,
        socket.create_connection((relay.host, relay.port)) as raw,
        trust.wrap_socket(raw, server_hostname="127.0.0.1") as secure,
    ):
        assert secure.selected_alpn_protocol() == "http/1.1"
        secure.sendall(b"GET /ready HTTP/1.1\r\n\r\n")
        assert secure.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_an_older_tls_is_refused(certificate: Certificate) -> None:
    hello = bytes.fromhex("160301002d0100002903010000") + bytes(38)  # TLS 1.0
    with relay_process(*tls(certificate)) as relay, raw_connection(relay) as raw:
        raw.sendall(hello)
        assert read_to_end(raw)[:1] in (b"", b"\x15")  # an alert, or nothing
        assert "Traceback" not in relay.log()


def test_what_is_no_tls(certificate: Certificate) -> None:
    trust = certificate.for_client()
    with relay_process(*tls(certificate)) as relay, device(relay, trust=trust) as other:
        for data in (b"GET /ws HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"A" * 70_000, b"\0"):
            with raw_connection(relay) as raw:
                raw.sendall(data)
                raw.shutdown(socket.SHUT_WR)
                assert b"HTTP" not in read_to_end(raw)
        assert other.listens("123456") == wire.Ack()
        relay.process.terminate()
        assert relay.wait() == 0
        assert "Traceback" not in relay.log()
        assert "exception" not in relay.log()


@pytest.mark.parametrize("command", LOOPS.values(), ids=LOOPS)
def test_sockets_count_before_their_handshake(
    certificate: Certificate, command: Sequence[str]
) -> None:
    """One address cannot fill the house with handshakes that it never finishes."""
    options = (*tls(certificate), "--max-connections-per-address", "2")
    with relay_process(*options, command=command) as relay, ExitStack() as up:
        silent = [up.enter_context(raw_connection(relay)) for _ in range(4)]
        silent[0].sendall(b"\x16\x03\x01\x02\x00")  # the beginning of one
        with raw_connection(relay) as too_many:
            too_many.settimeout(5)  # at once, not when its handshake has taken 10 s
            assert read_to_end(too_many) == b""
        for gone in silent:
            gone.shutdown(socket.SHUT_WR)
            read_to_end(gone)
        # Each gave its place back, and only one.
        trust = certificate.for_client()
        with device(relay, trust=trust) as one, device(relay, trust=trust) as two:
            assert one.listens("000001") == two.listens("000002") == wire.Ack()
        assert "Traceback" not in relay.log()


@pytest.mark.parametrize("begin", [b"", b"\x16\x03\x01\x02\x00"])
def test_a_slow_handshake_is_cut(certificate: Certificate, begin: bytes) -> None:
    command = relay_with(patience__HANDSHAKE_SECONDS=0.3)
    with relay_process(*tls(certificate), command=command) as relay, raw_connection(relay) as raw:
        raw.sendall(begin)
        assert b"HTTP" not in read_to_end(raw)
        with device(relay, trust=certificate.for_client()) as other:
            assert other.listens("123456") == wire.Ack()
        assert "Traceback" not in relay.log()


def test_a_handshake_that_stops_half_way_at_the_end(certificate: Certificate) -> None:
    """The relay is told to stop in the middle of it."""
    with relay_process(*tls(certificate)) as relay, raw_connection(relay) as raw:
        raw.sendall(b"\x16\x03\x01\x02\x00")
        with device(relay, trust=certificate.for_client()) as other:
            assert other.listens("123456") == wire.Ack()  # so that the other was accepted
        relay.process.terminate()
        assert relay.wait() == 0
        assert "Traceback" not in relay.log()


# --- the PROXY protocol -----------------------------------------------------------------


@pytest.mark.parametrize("command", LOOPS.values(), ids=LOOPS)
def test_clients_behind_the_proxy_are_told_apart(command: Sequence[str]) -> None:
    options = (*PROXY, "--max-connections-per-address", "1")
    line = b"PROXY TCP6 2001:db8::1 ::1 5 6\r\n"
    with (
        relay_process(*options, command=command) as relay,
        device(relay, header=for_client("198.51.100.1")) as one,
        device(relay, header=for_client("198.51.100.2")) as two,
        device(relay, header=line) as three,
    ):
        for number, opened in enumerate((one, two, three)):
            assert opened.listens(f"00000{number}") == wire.Ack()
        for header in (for_client("198.51.100.1"), line.replace(b"::1 ::", b"::9 ::")):
            with device(relay, header=header) as again:
                assert again.hear() == wire.RelayErrorFrame("too_many_connections")


def test_what_the_client_of_such_a_proxy_writes_is_not_believed() -> None:
    options = (*PROXY, "--max-connections-per-address", "1")
    with relay_process(*options) as relay, device(relay, header=for_client("198.51.100.1")) as one:
        assert one.listens("000001") == wire.Ack()
        raw = raw_connection(relay)
        raw.sendall(for_client("198.51.100.1"))
        forged = {"X-Forwarded-For": "203.0.113.9"}
        with connect(relay.url, sock=raw, additional_headers=forged, proxy=None) as again:
            assert hear(again) == wire.RelayErrorFrame("too_many_connections")


def test_a_proxy_may_speak_for_itself() -> None:
    """As haproxy does when it looks whether we are there."""
    with relay_process(*PROXY) as relay, raw_connection(relay) as raw:
        raw.sendall(version_2(0, b"", command=0x20) + b"GET /ready HTTP/1.1\r\n\r\n")
        assert read_to_end(raw).startswith(b"HTTP/1.1 200 OK\r\n")


def test_who_is_no_proxy_needs_no_header_and_may_not_send_one() -> None:
    options = ("--trusted-proxy", "192.0.2.1", "--proxy-protocol")
    with relay_process(*options) as relay, bystanders(relay) as pair:
        pair.check()
        with raw_connection(relay) as raw:
            raw.sendall(for_client("198.51.100.1") + b"GET /ready HTTP/1.1\r\n\r\n")
            assert b"200 OK" not in read_to_end(raw)
        assert "Traceback" not in relay.log()


@pytest.mark.parametrize(
    "header",
    [
        b"GET /ws HTTP/1.1\r\n",
        b"PROXY TCP4 nobody 192.0.2.1 1 2\r\n",
        version_2(0x11, b"short"),
        version_2(0x11, bytes(12), command=0x22),
    ],
)
def test_without_a_proper_header_there_is_no_connection(header: bytes) -> None:
    with relay_process(*PROXY) as relay, raw_connection(relay) as raw:
        raw.sendall(header)
        raw.settimeout(5)
        assert read_to_end(raw) == b""
        assert "Traceback" not in relay.log()


def test_a_slow_header_is_cut() -> None:
    command = relay_with(patience__HANDSHAKE_SECONDS=0.3)
    with relay_process(*PROXY, command=command) as relay, raw_connection(relay) as raw:
        raw.sendall(b"PROXY TCP4 198.51.100.1")
        assert read_to_end(raw) == b""


@pytest.mark.parametrize("command", LOOPS.values(), ids=LOOPS)
def test_the_header_comes_before_the_tls(certificate: Certificate, command: Sequence[str]) -> None:
    """As from a proxy that passes TLS on without ending it."""
    options = (*PROXY, *tls(certificate), "--max-connections-per-address", "1")
    trust = certificate.for_client()
    with (
        relay_process(*options, command=command) as relay,
        device(relay, header=for_client("198.51.100.1"), trust=trust) as one,
        device(relay, header=b"PROXY TCP4 198.51.100.2 192.0.2.1 1 2\r\n", trust=trust) as two,
    ):
        assert one.listens("000001") == two.listens("000002") == wire.Ack()
        with device(relay, header=for_client("198.51.100.2"), trust=trust) as again:
            assert again.hear() == wire.RelayErrorFrame("too_many_connections")

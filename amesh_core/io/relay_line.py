"""One websocket to a relay: connect, frames in and out, every failure by its name.

docs/protocol.md section 4. `websockets` takes 170 ms to import, so it is imported where a
connection is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from amesh_core import disk
from amesh_core.errors import (
    BadFrame,
    Malformed,
    RelayBusy,
    RelayLost,
    RelayRefused,
    RelayUnreachable,
    RelayWantsToken,
    UsageError,
)
from amesh_core.settings import Settings
from amesh_core.wire import relay as wire
from amesh_core.wire import relay_url

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 10.0  # for the relay itself to answer, or to take a frame
CLOSE_SECONDS: Final = 2.0
_TRY_AGAIN_LATER: Final = 1013  # RFC 6455 section 7.4 registry: too many connections

# At DEBUG, `websockets` logs every frame, and the code with it.
_socket_log = logging.getLogger("amesh.pairing.socket")
_socket_log.setLevel(logging.INFO)


def check_relay_url(url: str) -> str:
    """Return `url` if it can be a relay's: ws:// or wss://, ASCII, without user or fragment.

    Raises:
        UsageError: says why, without repeating the URL.
    """
    try:
        return relay_url.check_relay_url(url)
    except Malformed as error:
        raise UsageError(str(error)) from None


def access_token(settings: Settings) -> str | None:
    """What a relay that only some may use wants to be shown; mostly there is none.

    AMESH_RELAY_TOKEN, else the file that AMESH_RELAY_TOKEN_FILE names.

    Raises:
        UsageError: the file does not exist, or what was found is no token.
        HomeUnwritable: the file cannot be read.
    """
    token, where = settings.relay_token, "AMESH_RELAY_TOKEN"
    if token is None and settings.relay_token_file is not None:
        where = f"{settings.relay_token_file}, named by AMESH_RELAY_TOKEN_FILE,"
        data = disk.read(settings.relay_token_file)
        if data is None:
            raise UsageError(f"{where} does not exist")
        token = data.decode("ascii", "replace").strip()
    # A line break in it would be a header of its own.
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise UsageError(f"{where} holds no access token: one word of ASCII")
    return token


class Line:
    """An open connection to a relay."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, frame: wire.DeviceFrame) -> None:
        """Give a frame to the relay.

        Raises:
            RelayRefused, RelayLost: the connection is gone, for the reason the relay gave.
        """
        from websockets.exceptions import ConnectionClosed

        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._connection.send(wire.encode(frame))
        except TimeoutError:
            raise RelayLost("the relay takes nothing any more") from None
        except ConnectionClosed:
            while True:  # what it still sent, until it says why or there is nothing more
                await self.receive()

    async def receive(self) -> wire.RelayFrame:
        """Wait for the relay's next frame; cancelling loses none.

        Raises:
            RelayRefused: it was an error.
            RelayLost: the connection or the peer is gone, or this is no relay.
        """
        from websockets.exceptions import ConnectionClosed

        try:
            frame = wire.decode_from_relay(await self._connection.recv())
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code == _TRY_AGAIN_LATER:
                raise RelayRefused(wire.ErrorCode.TOO_MANY_CONNECTIONS) from None
            raise RelayLost("the connection to the relay was lost") from None
        except BadFrame as error:
            raise RelayLost(f"the relay sent {error}") from None
        match frame:
            case wire.RelayErrorFrame(wire.ErrorCode.PEER_DISCONNECTED):
                raise RelayLost("the other device disconnected")
            case wire.RelayErrorFrame(code):
                raise RelayRefused(code)
            case _:
                return frame

    async def ask(self, question: wire.DeviceFrame, answer: wire.RelayFrame) -> None:
        """Send `question` and insist on `answer`.

        Raises:
            RelayRefused, RelayLost: as `receive`, or no answer in ANSWER_SECONDS.
        """
        await self.send(question)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                expect(await self.receive(), answer)
        except TimeoutError:
            raise RelayLost(f"the relay did not answer in {ANSWER_SECONDS:.0f} s") from None

    async def payload(self) -> str:
        """Wait for what the other device sends.

        Raises:
            RelayRefused, RelayLost: as `receive`, or the other side has ended the session.
        """
        match await self.receive():
            case wire.Data(payload):
                return payload
            case wire.Done():
                raise RelayLost("the other device, or the relay, ended the pairing")
            case frame:
                raise _out_of_turn(frame)

    @property
    def date(self) -> str | None:
        """The Date header of the relay's handshake: what time it is there."""
        response = self._connection.response
        return response.headers.get("Date") if response else None

    async def close(self) -> None:
        """Close when all that was sent is on its way; at most CLOSE_SECONDS."""
        await self._connection.close()


def expect(frame: wire.RelayFrame, expected: wire.RelayFrame) -> None:
    """Insist on one frame.

    Raises:
        RelayLost: it is another.
    """
    if frame != expected:
        raise _out_of_turn(frame)


def _out_of_turn(frame: wire.RelayFrame) -> RelayLost:
    return RelayLost(f"the relay sent {type(frame).__name__} out of turn")


@contextlib.asynccontextmanager
async def connected(url: str, access_token: str | None = None) -> AsyncIterator[Line]:
    """A connection to the relay at `url`, closed whatever happens in the block.

    `access_token` goes to that host and port only: `websockets` leaves it out when a redirect
    leads elsewhere, and follows none from wss:// to ws://.

    Raises:
        UsageError: it is no URL of a relay, or the token could be read on the way there.
        RelayUnreachable: says which part of the way failed.
    """
    check_relay_url(url)
    if access_token and not (url.startswith("wss:") or _is_this_machine(url)):
        raise UsageError(
            "the relay's access token is not sent over ws://, where others can read it"
        )
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException

    try:
        connection = await connect(
            url,
            additional_headers={"Authorization": f"Bearer {access_token}"}
            if access_token
            else None,
            compression=None,  # nothing here is long, and boxes do not shrink
            max_size=wire.MAX_FRAME_BYTES,
            open_timeout=CONNECT_SECONDS,
            close_timeout=CLOSE_SECONDS,
            proxy=None if _is_this_machine(url) else True,
            user_agent_header=None,
            logger=_socket_log,
        )
    # ValueError: a redirect to no URL. ImportError: a SOCKS proxy without its package.
    except (OSError, ValueError, ImportError, WebSocketException) as error:
        # Not `from error`: its text can hold the proxy's password.
        raise _unreachable(url, error, access_token) from None
    try:
        yield Line(connection)
    finally:
        await connection.close()


def _is_this_machine(url: str) -> bool:
    """Whether a proxy from the environment would only be in the way."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _unreachable(url: str, error: Exception, access_token: str | None) -> RelayUnreachable:
    from websockets.exceptions import InvalidStatus

    match error:
        case InvalidStatus() if error.response.status_code == HTTPStatus.UNAUTHORIZED:
            had_one = "it does not accept our access token"
            return RelayWantsToken(url, had_one if access_token else "it wants an access token")
        case InvalidStatus() if error.response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            return RelayBusy(url, "too many wrong access tokens came from this address")
        case InvalidStatus() if error.response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            return RelayBusy(url, "it takes no devices at the moment")
        case _:
            return RelayUnreachable(url, _reason(error))


def _reason(error: Exception) -> str:
    from websockets.exceptions import InvalidProxy, InvalidStatus, ProxyError

    match error:
        case TimeoutError():
            return f"no answer in {CONNECT_SECONDS:.0f} s"
        case socket.gaierror():
            return "its name does not resolve"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not valid ({error.verify_message})"
        case ssl.SSLError():
            return "no TLS connection is possible"
        case OSError():
            # Not its text: asyncio's is "Connect call failed", with what is in the URL already.
            return os.strerror(error.errno) if error.errno else "nothing answers there"
        case InvalidStatus():
            return f"it answers HTTP {error.response.status_code}"
        # Their own texts repeat the proxy's URL, password included.
        case InvalidProxy() | ProxyError() | ImportError():
            return "the proxy that the environment names does not work"
        case _:
            return "what answers there is no relay"

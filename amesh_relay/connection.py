"""One socket: a WebSocket (RFC 6455) in one object, without a task and without a queue.

asyncio hands in bytes, `ServerProtocol` of websockets makes frames of them, and the house
decides at once. What it has to say is written at once too, so nothing waits here but what the
kernel did not take, and that has a limit:

    a peer that does not read            is not read from, and is cut when that lasts
    a peer that writes to such a one     is not read from either, until there is room again
    what was read before that was known  waits, a piece of READ_BUFFER_BYTES at the most

websockets' own connections wait for room with a task and a queue each, which costs twice the
memory and most of the time of a ceremony (docs/decisions/0020).
"""

from __future__ import annotations

import asyncio
import logging
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final, cast

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from amesh_core.wire.relay import MAX_FRAME_BYTES
from amesh_relay import sockets
from amesh_relay.addresses import NOWHERE, Address
from amesh_relay.flow import Flow
from amesh_relay.house import House

# What may wait to be sent to a peer before whoever writes to it has to wait.
WRITE_LIMIT_BYTES: Final = 32 * 1024
READ_BUFFER_BYTES: Final = 16 * 1024
# Taken out before it is looked whether more may be: at most 170 of the smallest frames, 2 ms.
PIECE_BYTES: Final = 1024
# Of a request. websockets would take 1 MiB, from everybody who ever opens a socket.
MAX_HEAD_BYTES: Final = 16 * 1024

# A message comes in one piece from every program that is known; empty pieces cost time, too.
MAX_FRAGMENTS: Final = 64

_DATA_OPCODES: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class Connection(Flow, asyncio.BufferedProtocol):
    """A socket of a house; its number is never used twice."""

    __slots__ = (
        "_fragments",
        "_has_ended",
        "_head_bytes",
        "_house",
        "_is_text",
        "_transport",
        "_unread",
        "_websocket",
        "is_alive",
        "messages",
        "number",
        "peer",
    )

    def __init__(self, house: House, number: int) -> None:
        super().__init__()
        self.number = number
        self.is_alive = True  # whether it was heard of since it was last asked
        self.peer: Address = NOWHERE
        self._house = house
        self._transport: asyncio.Transport
        self._websocket = ServerProtocol(max_size=MAX_FRAME_BYTES, logger=quiet_logger())
        self._fragments: list[bytes] = []  # of a message that is not whole yet
        self._is_text = False
        self._has_ended = False  # whether our direction is closed
        self._head_bytes = 0  # of its request, so far
        self._unread = b""  # what it sent before it was held back
        self.messages = 0  # since the house last set it to nothing

    # --- what asyncio calls -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted."""
        # uvloop's transports are no subclass.
        self.accepted(cast(asyncio.Transport, transport))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 the buffer is what it is
        """One for all connections: it is empty again before another is read."""
        return self._house.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Something came in."""
        self.is_alive = True
        # After what is left of before: TLS has read ahead when reading stops.
        data, self._unread = self._unread + bytes(self._house.read_buffer[:nbytes]), b""
        self._read(data)

    def eof_received(self) -> bool:
        """The other side will send nothing more; True leaves our direction open."""
        self._unread = b""  # TLS tells of the end also to one that is held back, and closes then
        self._websocket.receive_eof()
        self.flush()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 how it ended is all one
        """The socket is closed."""
        self._unread = b""
        self._vanish()
        self._house.leave(self)

    def pause_writing(self) -> None:
        """More than the write limit waits to be sent."""
        self._house.stalled(self, True)
        self._block()

    def resume_writing(self) -> None:
        """There is room again."""
        self._house.stalled(self, False)
        self._unblock()

    # --- what the house calls -----------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._websocket.state is State.OPEN

    def accepted(self, transport: asyncio.Transport) -> bool:
        """A socket is there; False when it has to go."""
        self.attach(transport)
        self.peer = sockets.peer(transport.get_extra_info("peername"))
        has_room = self._house.enter(self)
        if not has_room:
            transport.abort()
        return has_room

    def attach(self, transport: asyncio.Transport) -> None:
        """Talk through this from now on."""
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_LIMIT_BYTES)

    def send(self, text: str) -> None:
        """Send a message, at the next `flush`; nothing happens when it is too late for that."""
        if self._websocket.state is State.OPEN:
            self._websocket.send_text(text.encode())

    def ping(self) -> None:
        """Ask whether it is there."""
        if self._websocket.state is State.OPEN:
            self.is_alive = False
            self._websocket.send_ping(b"")
            self.flush()

    def close(self, code: int) -> None:
        """Begin the end, at the next `flush`, after what was sent before."""
        if self._websocket.state is State.OPEN:
            self._websocket.send_close(code)
            self._house.closing(self)

    def abort(self) -> None:
        """Cut it."""
        self._transport.abort()

    def flush(self) -> None:
        """Hand what there is to send to the kernel, in one piece."""
        data = b"".join(self._websocket.data_to_send())
        transport = self._transport
        if data:
            transport.write(data)
        if self._websocket.eof_sent and not self._has_ended:
            self._has_ended = True
            self._house.closing(self)
            # Only our half where that can be: what is on its way to the peer must arrive.
            if transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()

    # --- inside -------------------------------------------------------------------------

    def _stop_reading(self) -> None:
        self._transport.pause_reading()

    def _read_on(self) -> None:
        if self._unread:
            # Soon and not here: whoever lets go of it is in the middle of something.
            asyncio.get_running_loop().call_soon(self._catch_up)
        else:
            self._transport.resume_reading()

    def _catch_up(self) -> None:
        if self._unread:
            unread, self._unread = self._unread, b""
            self._read(unread)
            if self._held_back is None:
                self._transport.resume_reading()

    def _read(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            # Who sends a thousand small frames at once must not have them all looked at, either.
            if self._held_back is not None:
                self._unread = data[start:]
                break
            self._parse(data[start : start + PIECE_BYTES])
        if self._websocket.writes:
            self.flush()

    def _parse(self, data: bytes) -> None:
        websocket = self._websocket
        if websocket.state is State.CONNECTING:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not websocket.eof_sent:
                too_long = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                websocket.send_response(websocket.reject(too_long, "the request is too long\n"))
        websocket.receive_data(data)
        for event in websocket.events_received():
            if isinstance(event, Frame):
                if event.opcode in _DATA_OPCODES:
                    self._take(event)
                    if websocket.close_sent and not websocket.close_rcvd:
                        break  # the end was ours to say; what follows was parsed before that
                else:
                    self._house.controlled(self)
            elif isinstance(event, Request):
                self._shake(event)
                if not self.is_open:
                    break  # it has its answer; what follows was parsed before that was known

    def _shake(self, request: Request) -> None:
        if self._websocket.eof_sent:
            return  # what came with it, another request say, was no frame: the end is said already
        response = self._house.answer(self, request)
        if response is None:
            response = self._welcome(request)
        self._websocket.send_response(response)
        if self.is_open:
            self._house.open(self, request)

    def _welcome(self, request: Request) -> Response:
        try:
            accept, _, _ = self._websocket.process_request(request)
        except InvalidHandshake:
            return self._websocket.accept(request)  # which says what is wrong
        # As `accept` does, which makes a date of its own each time: that takes as long as the rest.
        headers = Headers()
        headers["Date"] = _date(int(time.time()))
        headers["Upgrade"] = "websocket"
        headers["Connection"] = "Upgrade"
        headers["Sec-WebSocket-Accept"] = accept
        return Response(101, "Switching Protocols", headers)

    def _take(self, frame: Frame) -> None:
        # ServerProtocol has checked that pieces come in order, and the sum of their sizes.
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        if frame.fin and not self._fragments:
            self._deliver(bytes(frame.data))
            return
        self._fragments.append(bytes(frame.data))
        if frame.fin:
            whole, self._fragments = b"".join(self._fragments), []
            self._deliver(whole)
        elif len(self._fragments) == MAX_FRAGMENTS:
            self._websocket.fail(CloseCode.MESSAGE_TOO_BIG)

    def _deliver(self, data: bytes) -> None:
        if not self._is_text:
            self._house.receive(self, data)
            return
        try:
            text = data.decode()
        except UnicodeDecodeError:
            # RFC 6455 section 8.1.
            self._websocket.fail(CloseCode.INVALID_DATA)
            return
        self._house.receive(self, text)


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    """By which a device sees how far its own clock is off (`amesh doctor`)."""
    return formatdate(second, usegmt=True)


def quiet_logger() -> logging.Logger:
    """A logger for websockets that keeps its defects and none of its frames or headers.

    At DEBUG websockets logs what it carries, so its level does not follow ours.
    """
    return _quiet


_quiet: Final = logging.getLogger("amesh.relay.websockets")
_quiet.setLevel(logging.WARNING)

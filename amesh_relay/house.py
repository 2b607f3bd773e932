"""What a connection belongs to, as the connection sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from websockets.http11 import Request, Response

if TYPE_CHECKING:
    from amesh_relay.connection import Connection


class House(Protocol):
    """What a connection belongs to; every method returns at once."""

    read_buffer: memoryview

    def enter(self, connection: Connection) -> bool:
        """A socket was accepted; False when it has to go."""

    def answer(self, connection: Connection, request: Request) -> Response | None:
        """It asks for something: this answer, or None for what only a WebSocket can be."""

    def open(self, connection: Connection, request: Request) -> None:
        """The handshake is over; it is a WebSocket now."""

    def receive(self, connection: Connection, message: str | bytes) -> None:
        """It sent a whole message; binary ones are bytes."""

    def controlled(self, connection: Connection) -> None:
        """It sent a frame that is no part of a message: a ping, mostly."""

    def stalled(self, connection: Connection, is_stalled: bool) -> None:
        """It has stopped to read, or begins again."""

    def closing(self, connection: Connection) -> None:
        """Its end was said; the other side has a moment to agree."""

    def leave(self, connection: Connection) -> None:
        """The socket is closed."""

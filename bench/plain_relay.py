"""The least that two devices need, on websockets' own server: what bench/relay.py compares with.

Codes in a dictionary, frames handed on as they are: no limits, no roles, no time-outs but its own.
"""

from __future__ import annotations

import asyncio
import json
from typing import Final

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

_WAITING: Final[dict[str, ServerConnection]] = {}
_PEERS: Final[dict[ServerConnection, ServerConnection]] = {}


async def handle(device: ServerConnection) -> None:
    """One device, from its first frame to its last."""
    try:
        async for text in device:
            message = json.loads(text)
            match message["type"]:
                case "listen":
                    _WAITING[message["otc"]] = device
                    await device.send('{"type":"ack","message":"session_open"}')
                case "connect":
                    other = _WAITING.pop(message["otc"])
                    _PEERS[device], _PEERS[other] = other, device
                    for one in (other, device):
                        await one.send('{"type":"peer_found"}')
                case "data":
                    await _PEERS[device].send(text)
                case _:
                    other = _PEERS[device]
                    await other.send(text)
                    await asyncio.gather(other.close(), device.close())
    except ConnectionClosed:
        pass
    finally:
        _PEERS.pop(device, None)


async def main() -> None:
    """Serve until killed, and say where."""
    async with serve(
        handle,
        *("127.0.0.1", 0),
        compression=None,
        max_size=65536,
        max_queue=16,
        write_limit=32768,
        backlog=4096,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(f"listening on ws://127.0.0.1:{port}/ws", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

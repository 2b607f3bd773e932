"""Several things at once, of which none may end unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Final

_CANCEL_AGAIN_SECONDS: Final = 0.1


async def until_one_ends(*work: Coroutine[None, None, None]) -> None:
    """Do all of these until one has an error, which is raised; the others are cancelled."""
    tasks = [asyncio.get_running_loop().create_task(one) for one in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        running = set(tasks)
        while running:
            # More than once: redis-py swallows a cancellation that comes with a time-out.
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.result()

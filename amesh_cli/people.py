"""The two people of a ceremony, at their terminals (docs/protocol.md section 5).

Nothing printed at the controller before its question says "confirmed": a relay in the
middle can answer in the target's place, and only the target's own screen knows.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from amesh_cli import pipes, terminal
from amesh_cli.options import Pairing

if TYPE_CHECKING:
    from amesh_core.allow_list import Device
    from amesh_core.identity import Peer


def shown(device: Device | Peer) -> str:
    """A device as people see it: its name in quotation marks, its id beside it."""
    return f"{terminal.quoted(device.friendly_name)} ({device.device_id})"


class TargetAtTerminal:
    """Who runs `amesh listen`; `relay_url` is what the invite line must name, if anything."""

    def __init__(self, relay_url: str | None, *, digits_stdin: bool, pairing: Pairing) -> None:
        self._option = f" --relay {relay_url}" if relay_url else ""
        self._digits_stdin = digits_stdin
        self._pairing = pairing

    async def code_ready(self, code: str, seconds: float) -> None:
        """Show the code, and a countdown until this is cancelled."""
        terminal.say("On the controller, run:\n")
        invite = f"    amesh invite {code}{self._option}"
        if self._pairing is Pairing.V1:
            terminal.say(f"{invite}\n", style="bold")
            terminal.say("or, where amesh is this one and not Node's:\n")
            invite += " --pairing v1"
        terminal.say(f"{invite}\n", style="bold")
        async with terminal.countdown(
            lambda left: f"Code {code} is good for {left} s.", round(seconds)
        ):
            await asyncio.Event().wait()

    async def peer_found(self) -> None:
        """Say that the code was used."""
        terminal.say("A controller used the code.")

    async def ask_digits(self) -> str:
        """Ask until it is six digits; what is not cannot be right and is not tried."""
        while True:
            if self._digits_stdin:
                answer = await pipes.read_line()
            else:
                answer = await terminal.aask(
                    "Type the six digits that the controller shows:", flag="--digits-stdin"
                )
            digits = re.sub("[ -]", "", answer)
            if re.fullmatch("[0-9]{6}", digits):
                return digits
            terminal.warn("six digits, as the controller shows them.")

    async def matched(self) -> None:
        """What the controller's person is asked about."""
        terminal.say("✓ The digits matched. Say so on the controller.", style="green")


class ControllerAtTerminal:
    """Who runs `amesh invite`."""

    def __init__(self, *, assume_match: bool, pairing: Pairing) -> None:
        self._assume_match = assume_match
        # Node's screen has other words than ours for it.
        self._done = "it accepted the digits" if pairing is Pairing.V1 else "the digits matched"

    async def peer_found(self) -> None:
        """Say that somebody is there."""
        terminal.say("A device waits under this code.")

    async def show_digits(self, digits: str) -> None:
        """Show what to type into the target."""
        terminal.say("Type these digits into the target:\n")
        terminal.say(f"    digits {digits[:3]} {digits[3:]}\n", style="bold")
        terminal.say("Waiting for the target ...")

    async def ask_consent(self, peer: Peer) -> bool:
        """Ask what the target's screen says; no is the default."""
        terminal.say(f"The other device calls itself {shown(peer)}.")
        if self._assume_match:
            terminal.warn("recorded without asking what the target says (--assume-match).")
            return True
        return await terminal.aconfirm(
            f"Does the target's own screen say that {self._done}?", flag="--assume-match"
        )

"""What is shown while `provision` waits for servers: to a person, or to a script.

What a server calls itself, and what a relay says, was written by others: the first is quoted,
the second only repeated if it is one of the words we know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from amesh_cli import failures, terminal
from amesh_cli.people import shown
from amesh_core.errors import AmeshError, BadAnnouncement, RelayError
from amesh_core.identity import MAX_NAME_CODE_POINTS, device_id
from amesh_core.wire.relay import Rejection

if TYPE_CHECKING:
    from amesh_core.admission import Announced
    from amesh_core.allow_list import Device
    from amesh_core.wire.provisioned import Minted

_HELD_UP: Final[dict[str, str]] = {
    Rejection.ALREADY_WATCHED: (
        "another connection waits for it; "
        "if that is another `amesh provision`, it will record the server"
    ),
    Rejection.ALREADY_USED: (
        "the relay takes it for used and hands on nothing that is announced with it"
    ),
    Rejection.OVERLOADED: "the relay is full",
}


_NAMES_SHOWN: Final = 4


def named(minted: Sequence[Minted]) -> str:
    """The servers that tokens are for; of a fleet the first and the last."""
    names = [terminal.quoted(token.name) for token in minted]
    if len(names) > _NAMES_SHOWN:
        return f"{len(names)} servers ({names[0]} to {names[-1]})"
    return ", ".join(names)


class AtTerminal:
    """Who runs `amesh provision` and watches."""

    def __init__(self, minted: Sequence[Minted]) -> None:
        self._minted = minted
        self._said: set[tuple[str, str]] = set()
        self._away: set[str] = set()

    def watching(self, relay: str) -> None:
        """Not before it is true: who starts the server now is heard."""
        if relay in self._away:
            terminal.say(f"Connected to {relay}.")
            self._away.discard(relay)
        here = [token for token in self._minted if token.relay == relay]
        if waited_for := [token for token in here if token.recorded_at is None]:
            terminal.say(f"\nWaiting for {named(waited_for)} (Ctrl-C to stop) ...")
        else:
            terminal.say(f"\nWatching the used tokens for {named(here)} (Ctrl-C to stop) ...")

    def trouble(self, relay: str, error: RelayError) -> None:
        """Say it once for each time that the relay goes away."""
        if relay not in self._away:
            self._away.add(relay)
            terminal.warn(f"{failures.sentence(error)}; trying again until the tokens expire.")

    def held_up(self, minted: Minted, reason: str) -> None:
        """Why the relay does not let us wait for this one."""
        why = _HELD_UP.get(reason, "the relay refuses it")
        terminal.warn(f"token for {terminal.quoted(minted.name)}: {why}; asking again.")

    def recorded(self, minted: Minted, device: Device, announced: Announced) -> None:
        """What the list has now, and what the server calls itself."""
        calls_itself = "gives no name"
        if announced.friendly_name is not None:
            name = announced.friendly_name[:MAX_NAME_CODE_POINTS]
            calls_itself = f"calls itself {terminal.quoted(name)}"
        terminal.say(f"✓ Recorded {shown(device)}; it {calls_itself}.", style="green")
        if device.friendly_name != minted.name:
            terminal.say("Another device has that name, so the id is part of it.")
        terminal.say("This device may now call it.")
        if not announced.proven:
            terminal.warn("nothing proves that this key is the server's: compare the device id.")

    def answered_again(self, minted: Minted, device: Device) -> None:
        """Once for each token: a relay can repeat an announcement as often as it likes."""
        if self._is_new(minted, "answered again"):
            terminal.say(f"{shown(device)} announced itself again, and was answered.")

    def used_twice(self, minted: Minted, announced: Announced) -> None:
        """The one thing here that may be a theft; once for each device, which tries on."""
        if not self._is_new(minted, device_id(announced.public_key)):
            return
        terminal.warn(
            f"the token for {terminal.quoted(minted.name)} was used twice: "
            f"{device_id(announced.public_key)} announced itself with it, too, and was refused.\n"
            "If you did not start two servers with one token, it was stolen: look which of "
            "the two is yours, and `amesh revoke` the recorded one if it is not."
        )

    def refused(self, minted: Minted, error: AmeshError) -> None:
        """Say each kind of refusal once for a token: strangers can cause as many as they like."""
        if not self._is_new(minted, error.code):
            return
        name = terminal.quoted(minted.name)
        if isinstance(error, BadAnnouncement):
            terminal.warn(
                f"something announced itself as {name} without the token, "
                "and was refused (said once)."
            )
        else:
            terminal.warn(f"an announcement as {name} was refused: {failures.sentence(error)}.")

    def settled(self, minted: Minted) -> None:
        """Why this one is not waited for any more."""
        name = terminal.quoted(minted.name)
        if minted.recorded_at is not None:
            terminal.say(f"Another `amesh provision` recorded the server for {name}.")
        elif minted.cancelled_at is not None:
            terminal.warn(f"the token for {name} was cancelled.")
        else:
            terminal.warn(f"the token for {name} has expired; no server announced itself with it.")

    def _is_new(self, minted: Minted, what: str) -> bool:
        is_new = (minted.jti, what) not in self._said
        self._said.add((minted.jti, what))
        return is_new


class OnStdout:
    """The same as lines of JSON."""

    def watching(self, relay: str) -> None:
        """Where announcements are heard."""
        terminal.json_line({"event": "watching", "relay": relay})

    def trouble(self, relay: str, error: RelayError) -> None:
        """Where they are not."""
        terminal.json_line({"event": "relay_trouble", "relay": relay, "code": error.code})

    def held_up(self, minted: Minted, reason: str) -> None:
        """Why not for this token; the word is the relay's."""
        terminal.json_line({"event": "held_up", **_of(minted), "reason": reason})

    def recorded(self, minted: Minted, device: Device, announced: Announced) -> None:
        """The entry, as it is on the list."""
        terminal.json_line(
            {
                "event": "recorded",
                **_of(minted),
                "deviceId": device.device_id,
                "friendlyName": device.friendly_name,
                "announcedName": announced.friendly_name,
                "proven": announced.proven,
            }
        )

    def answered_again(self, minted: Minted, device: Device) -> None:
        """The entry, which did not change."""
        terminal.json_line({"event": "answered_again", **_of(minted), "deviceId": device.device_id})

    def used_twice(self, minted: Minted, announced: Announced) -> None:
        """The second device."""
        second = device_id(announced.public_key)
        terminal.json_line({"event": "used_twice", **_of(minted), "deviceId": second})

    def refused(self, minted: Minted, error: AmeshError) -> None:
        """Why nothing was recorded."""
        terminal.json_line({"event": "refused", **_of(minted), "code": error.code})

    def settled(self, minted: Minted) -> None:
        """What became of the token without us."""
        became = "expired"
        if minted.recorded_at is not None:
            became = "recorded_elsewhere"
        elif minted.cancelled_at is not None:
            became = "cancelled"
        terminal.json_line({"event": became, **_of(minted)})


def _of(minted: Minted) -> dict[str, Any]:
    return {"jti": minted.jti, "name": minted.name}

"""`listen` and `invite`: what happens around one ceremony on this device.

What the person sees during it is in `people`; what goes over the wire, in
`amesh_core.io.relay_client`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from amesh_cli import here, older_pairing, terminal
from amesh_cli.options import Pairing
from amesh_cli.people import ControllerAtTerminal, TargetAtTerminal, shown
from amesh_cli.recording import recorder, settle_name
from amesh_core.errors import TooManyControllers, UsageError
from amesh_core.settings import DEFAULT_RELAY_URL

if TYPE_CHECKING:
    from amesh_core.allow_list import AllowList, Device
    from amesh_core.identity import Peer
    from amesh_core.io.home import Home

R = TypeVar("R")

_CODE_PLEASE: Final = "The code that the target shows:"


def listen(
    *,
    relay: str | None,
    serve: str | None,
    replace: str | None,
    trust_for: str | None,
    digits_stdin: bool,
    pairing: Pairing,
    accept_interception: bool,
) -> None:
    """Pair as the target.

    Raises:
        UsageError: options that exclude each other, or no terminal to ask at.
        Declined: the person did not take the risk of the older pairing.
        AmeshError: see `amesh_core.io.relay_client.listen`.
    """
    if relay and serve:
        raise UsageError("--relay and --serve exclude each other")
    trust_seconds = None
    if trust_for is not None:
        from amesh_cli.trusting import parse_trust

        trust_seconds = parse_trust(trust_for)
    if not digits_stdin:
        terminal.need_terminal("--digits-stdin")
    home = here.open_home()
    url, invited_to = here.relay_url(home, relay), None
    older_pairing.agree(pairing, None if serve else url, accepted=accept_interception)
    record = recorder(
        home,
        added_by="handshake",
        replacing=_make_room(home, replace),
        pairing=_mark(pairing),
        trust_seconds=trust_seconds,
    )
    with contextlib.ExitStack() as on:
        if serve:
            from amesh_cli.serving import own_relay

            url, invited_to = on.enter_context(own_relay(serve))
        elif url != DEFAULT_RELAY_URL:
            invited_to = url
        person = TargetAtTerminal(invited_to, digits_stdin=digits_stdin, pairing=pairing)
        device = _run(_listen(home, url, person, record, pairing))
    if terminal.interactive() and not digits_stdin:
        device = settle_name(home, device)
    terminal.result(f"Paired: {shown(device)} may now call this device.")


async def _listen(
    home: Home,
    url: str,
    person: TargetAtTerminal,
    record: Callable[[Peer], Device],
    pairing: Pairing,
) -> Device:
    from amesh_core.io import relay_client, relay_line
    from amesh_core.pairing import TargetCeremony
    from amesh_core.pairing_v1 import TargetCeremonyV1

    return await relay_client.listen(
        url,
        identity=home.identity,
        key=home.key(),
        person=person,
        record=record,
        machine=TargetCeremonyV1 if pairing is Pairing.V1 else TargetCeremony,
        access_token=relay_line.access_token(home.settings),
    )


def invite(
    code: str | None,
    *,
    relay: str | None,
    assume_match: bool,
    pairing: Pairing,
    accept_interception: bool,
) -> None:
    """Pair as the controller.

    Raises:
        UsageError: not a code, or no terminal to ask at.
        Declined: the person did not take the risk of the older pairing.
        AmeshError: see `amesh_core.io.relay_client.invite`.
    """
    if not assume_match:
        terminal.need_terminal("--assume-match")
    home = here.open_home()
    url = here.relay_url(home, relay)
    older_pairing.agree(pairing, url, accepted=accept_interception)
    code = _code(code)
    home.allow_list()  # a broken list stops us before the code is spent
    person = ControllerAtTerminal(assume_match=assume_match, pairing=pairing)
    record = recorder(home, added_by="handshake", pairing=_mark(pairing))
    device = _run(_invite(home, url, code, person, record, pairing))
    if terminal.interactive() and not assume_match:
        device = settle_name(home, device)
    terminal.result(f"Paired: this device may now call {shown(device)}.")


def _code(given: str | None) -> str:
    """The six digits, as they are or in groups; asked for until they are six."""
    while True:
        text = given if given is not None else terminal.ask(_CODE_PLEASE, flag="the argument CODE")
        code = re.sub("[ -]", "", text)
        # What was given is judged where every code is.
        if given is not None or re.fullmatch("[0-9]{6}", code):
            return code
        terminal.warn("six digits, as the target shows them.")


async def _invite(
    home: Home,
    url: str,
    code: str,
    person: ControllerAtTerminal,
    record: Callable[[Peer], Device],
    pairing: Pairing,
) -> Device:
    from amesh_core.io import relay_client, relay_line
    from amesh_core.pairing import ControllerCeremony
    from amesh_core.pairing_v1 import ControllerCeremonyV1

    return await relay_client.invite(
        url,
        code,
        identity=home.identity,
        key=home.key(),
        person=person,
        record=record,
        machine=ControllerCeremonyV1 if pairing is Pairing.V1 else ControllerCeremony,
        access_token=relay_line.access_token(home.settings),
    )


def _mark(pairing: Pairing) -> str | None:
    """What the entry says of how it came about; the current pairing goes without saying."""
    return pairing.value if pairing is Pairing.V1 else None


def _run(meeting: Coroutine[Any, Any, R]) -> R:
    try:
        return asyncio.run(meeting)
    except KeyboardInterrupt:
        terminal.say("interrupted")
        raise


def _make_room(home: Home, replace: str | None) -> tuple[str, ...]:
    """The ids that leave when the new controller comes; decided before a code is shown.

    Raises:
        TooManyControllers: there is no room, and none was made.
    """
    allow_list = home.allow_list()
    if replace is not None:
        return (allow_list.find(replace).device_id,)
    present = allow_list.controllers()
    if len(present) < home.max_controllers:
        return ()
    terminal.warn(
        f"this device already has {len(present)} of {home.max_controllers} controllers: "
        + ", ".join(map(shown, present))
    )
    if not terminal.interactive():
        raise TooManyControllers(home.max_controllers)
    return (_choose(allow_list, present, home.max_controllers).device_id,)


def _choose(allow_list: AllowList, present: tuple[Device, ...], limit: int) -> Device:
    terminal.say("Nothing changes until the new one is paired. The same device may pair again.")
    if len(present) == 1:
        if terminal.confirm(f"Replace {shown(present[0])}?", flag="--replace DEVICE"):
            return present[0]
        raise TooManyControllers(limit)
    answer = terminal.ask("Replace which one (id or name; Enter: none)?", flag="--replace DEVICE")
    if not answer:
        raise TooManyControllers(limit)
    return allow_list.find(answer)

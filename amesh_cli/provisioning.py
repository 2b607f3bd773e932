"""`provision`: tokens are minted, shown once, listed and cancelled (docs/protocol.md section 6).

A token is printed or written once, where it was asked for, and is nowhere else: not in
provisioned.json, not in a log, not in the list. What happens while the command waits is in
`awaiting`.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from amesh_cli import here, pipes, terminal
from amesh_cli.awaiting import AtTerminal, OnStdout, named
from amesh_core import disk
from amesh_core.admission import remember
from amesh_core.errors import HomeError, Malformed, TokenNotUsable, UsageError
from amesh_core.identity import check_name, device_id
from amesh_core.io import provisioned
from amesh_core.io.relay_line import check_relay_url
from amesh_core.provisioning import JTI_RANDOM_BYTES, MAX_LIFETIME_SECONDS
from amesh_core.provisioning import mint as mint_token
from amesh_core.wire.durations import parse_duration

if TYPE_CHECKING:
    from amesh_core.io.home import Home
    from amesh_core.wire.provisioned import Minted

VARIABLE: Final = "AMESH_BOOTSTRAP_TOKEN"
DEFAULT_TTL: Final = "1h"

Mode = Literal["mint", "watch", "list", "cancel"]


@dataclass(frozen=True, slots=True)
class Order:
    """What kind of tokens, how many, and where they go; `ttl` as it was typed."""

    name: str | None
    ttl: str = DEFAULT_TTL
    relay: str | None = None
    count: int | None = None
    output: Path | None = None
    for_node: bool = False
    detach: bool = False


def mode(order: Order, *, watch: bool, show_list: bool, cancel: str | None) -> Mode:
    """Which of the four things the options ask for.

    Raises:
        UsageError: two at once.
    """
    others: list[tuple[Mode, bool]] = [
        ("watch", watch),
        ("list", show_list),
        ("cancel", cancel is not None),
    ]
    wanted = [name for name, is_wanted in others if is_wanted]
    if len(wanted) > 1:
        raise UsageError("--watch, --list and --cancel exclude each other")
    if not wanted:
        return "mint"
    if order != Order(None):
        raise UsageError(f"--{wanted[0]} makes no token, so no option for one goes with it")
    return wanted[0]


def mint(order: Order, *, as_json: bool) -> None:
    """Make tokens, hand them out, and wait for their servers unless told not to.

    Raises:
        UsageError: a name, time, relay or file that cannot be used.
        TokenNotUsable: it ended without a server for each token.
    """
    names, ttl_seconds = _names(order), lifetime_seconds(order.ttl)
    home = here.open_home()
    relay = check_relay_url(here.relay_url(home, order.relay))
    now = time.time()
    texts = [
        mint_token(
            home.key(),
            name=name,
            relay=relay,
            ttl_seconds=ttl_seconds,
            now=now,
            jti_random=secrets.token_bytes(JTI_RANDOM_BYTES),
        )
        for name in names
    ]
    minted = [remember(text, for_node=order.for_node) for text in texts]
    _check_new(order.output)
    # Remembered before anybody is given one: a token unknown here would pair a server that this
    # device never hears of.
    provisioned.add(home, minted, now)
    if order.output is not None:
        try:
            disk.write_new(order.output, "".join(f"{text}\n" for text in texts).encode("ascii"))
        except HomeError:
            provisioned.forget(home, minted)
            raise
    _hand_out(minted, texts, order, as_json=as_json)
    if order.detach:
        if not as_json:
            terminal.say("Collect what announces itself until then: `amesh provision --watch`.")
        return
    _wait(home, minted, as_json=as_json)
    _insist(home, minted)


def watch(*, as_json: bool) -> None:
    """Wait for the servers of all tokens that are still good.

    With used tokens only, a person may stay to see a second use of one, and to answer a server
    again that missed its answer. A script waits for what is to come, and here nothing is.
    """
    home = here.open_home()
    now = time.time()
    alive = [
        minted
        for minted in provisioned.read(home)
        if minted.cancelled_at is None and not minted.is_expired(now)
    ]
    outstanding = [minted for minted in alive if minted.is_outstanding(now)]
    if outstanding:
        _wait(home, alive, as_json=as_json)
        return
    terminal.say("No token is waiting for its server.")
    if not alive or as_json or not terminal.interactive():
        return
    last = max(alive, key=lambda minted: minted.expires_at)
    terminal.say(f"Used, and still good until {_until(last)}: {named(alive)}.")
    terminal.say("A second use is shown, and a server that missed its answer gets it again.")
    _wait(home, alive, as_json=as_json)
    terminal.say("The used tokens have expired.")


def show(*, as_json: bool) -> None:
    """Print what was minted and what became of it; never a token."""
    tokens, now = provisioned.read(here.open_home()), time.time()
    if as_json:
        terminal.json_result({"tokens": [_entry(minted, now) for minted in tokens]})
    elif not tokens:
        terminal.say("No tokens yet. Make one: `amesh provision --name NAME`.")
    else:
        rows = [
            (minted.jti, terminal.quoted(minted.name), _state(minted, now), _until(minted))
            for minted in tokens
        ]
        folded = ("name", "state", "good until")  # an id that is cut cancels nothing
        terminal.table(("token id", "name", "state", "good until"), rows, folded=folded)


def cancel(jti: str, *, as_json: bool) -> None:
    """Record no server because of one token any more.

    Raises:
        NoSuchToken, TokenNotUsable: nothing was changed.
    """
    minted = provisioned.cancel(here.open_home(), jti, time.time())
    if as_json:
        terminal.json_line({"event": "cancelled", "jti": minted.jti, "name": minted.name})
        return
    terminal.result(f"The token for {terminal.quoted(minted.name)} is cancelled here.")
    if not minted.is_expired(time.time()):
        terminal.warn(
            f"a server given it before {_until(minted)} still trusts this device: "
            "nobody is asked before a server believes a token. Delete the token where it lies."
        )


def _names(order: Order) -> list[str]:
    if order.name is None:
        raise UsageError("say what to call the server: --name NAME")
    numbers = [""] if order.count is None else [f"-{n}" for n in range(1, order.count + 1)]
    try:
        return [check_name(order.name + number) for number in numbers]
    except Malformed as error:
        ending = f" with {numbers[-1]} at its end" if numbers[-1] else ""
        raise UsageError(f"this name cannot be used{ending}: {error}") from None


def lifetime_seconds(ttl: str) -> int:
    """How long a token is good: 90s, 30m, 1h, 1d.

    Raises:
        UsageError: another form, or longer than any target accepts.
    """
    try:
        seconds = parse_duration(ttl)
    except Malformed as error:
        raise UsageError(f"--ttl: {error}") from None
    if seconds > MAX_LIFETIME_SECONDS:
        raise UsageError(
            "--ttl: a token is good for 24 hours at most, because whoever finds it can use it, "
            "and no server accepts one that is made for longer"
        )
    return seconds


def _check_new(path: Path | None) -> None:
    if path is not None and (path.is_symlink() or path.exists()):
        raise UsageError(f"{path} exists, and a token is written into a new file only")


def _hand_out(
    minted: Sequence[Minted], texts: Sequence[str], order: Order, *, as_json: bool
) -> None:
    if as_json:
        for token, text in zip(minted, texts, strict=True):
            where = {"token": text} if order.output is None else {"output": str(order.output)}
            terminal.json_line({"event": "minted", **_entry(token, time.time()), **where})
        return
    plural = "s" if len(minted) > 1 else ""
    terminal.say(
        f"Token{plural} for {named(minted)}, good for {order.ttl} (until {_until(minted[0])})."
    )
    terminal.say(f"The server announces itself at {minted[0].relay}.")
    if order.output is not None and plural:
        terminal.say(f"Written to {order.output}, a line each, in this order.")
        terminal.say(f"Give each server its own line, in {VARIABLE} or in a file of its own.")
    elif order.output is not None:
        terminal.say(f"Written to {order.output}. Give the server its token:\n")
        terminal.say(f"    {VARIABLE}_FILE={order.output.name}\n", style="bold")
    elif sys.stdout is not None and sys.stdout.isatty():
        terminal.say("Give it to the server in its environment:\n")
        for token, text in zip(minted, texts, strict=True):
            if plural:
                terminal.say(f"{terminal.quoted(token.name)}:")
            terminal.result(f"{VARIABLE}={text}")
        terminal.say("")
    else:
        for text in texts:
            terminal.result(text)
        # Who reads the token to the end of the pipe need not wait for the server, too.
        pipes.end_stdout()
    terminal.say("A Python service pairs itself at its start; for others run `amesh bootstrap`.")
    terminal.warn("whoever holds a token can pair in the server's place: treat it as a password.")
    if order.for_node:
        terminal.warn(
            "a Node.js server sends its token to the relay and proves nothing about its "
            "key: use a relay of your own, and compare the device id."
        )


def _wait(home: Home, minted: Sequence[Minted], *, as_json: bool) -> None:
    from amesh_core.io import provision_watch

    watcher = OnStdout() if as_json else AtTerminal(minted)
    try:
        asyncio.run(provision_watch.watch(home, minted, watcher))
    except KeyboardInterrupt:
        now, ours = time.time(), {token.jti for token in minted}
        if any(t.jti in ours and t.is_outstanding(now) for t in provisioned.read(home)):
            terminal.say(
                "Not waiting any more. The tokens stay good; collect what announces itself until "
                "they expire with `amesh provision --watch`."
            )
        raise


def _insist(home: Home, minted: Sequence[Minted]) -> None:
    ours = {token.jti for token in minted}
    left = [t for t in provisioned.read(home) if t.jti in ours and t.recorded_at is None]
    if left:
        raise TokenNotUsable(f"no server was recorded for {named(left)}")


def _state(minted: Minted, now: float) -> str:
    if minted.recorded_at is not None and minted.used_by is not None:
        return f"recorded {device_id(minted.used_by)}"
    if minted.cancelled_at is not None:
        return "cancelled"
    if minted.is_expired(now):
        return "expired"
    return "waiting"


def _until(minted: Minted) -> str:
    return f"{minted.expires_at[:10]} {minted.expires_at[11:16]} UTC"


def _entry(minted: Minted, now: float) -> dict[str, Any]:
    return {
        "jti": minted.jti,
        "name": minted.name,
        "relay": minted.relay,
        "mintedAt": minted.minted_at,
        "expiresAt": minted.expires_at,
        "forNode": minted.for_node,
        "state": _state(minted, now).partition(" ")[0],
        "deviceId": None if minted.used_by is None else device_id(minted.used_by),
    }

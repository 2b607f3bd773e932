"""`--pairing v1`: what a person has to hear and agree to before it begins.

docs/protocol.md section 5.8. No error of the other pairing leads here: a relay that only
pretends that the other device is an old one would otherwise talk people into it.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from amesh_cli import terminal
from amesh_cli.options import Pairing
from amesh_core.errors import Declined, UsageError
from amesh_core.io.relay_line import check_relay_url
from amesh_core.settings import DEFAULT_RELAY_URL

WORD: Final = "mine"


def agree(pairing: Pairing, url: str | None, *, accepted: bool) -> None:
    """Before v1, have a person say with a word that the relay at `url` is theirs; None: it is here.

    Raises:
        UsageError: it is the built-in relay or no URL of one, there is no terminal to ask
            at, or there is nothing to accept.
        Declined: another word.
    """
    if pairing is not Pairing.V1:
        if accepted:
            raise UsageError("--accept-interception goes with --pairing v1 only")
        return
    # Its form first: it is about to be shown, and taken apart.
    if url is not None and _is_public_relay(check_relay_url(url)):
        raise UsageError(
            "the older pairing is not done over the public relay; name one that you run "
            "yourself with --relay, or use `amesh listen --serve`"
        )
    who = "whoever runs the relay" + (f" at {url}" if url else "")
    if url is None or url.startswith("ws:"):
        who += ", or the network on the way to it,"
    terminal.warn(
        f"pairing v1: {who} can intercept this pairing.\n"
        "It can put a key of its own in the place of each device, and the digits match all the "
        "same. Use it for a Node.js device only, and only over a relay that you run yourself."
    )
    if accepted:
        terminal.warn("not asked whether the relay is yours (--accept-interception).")
        return
    answer = terminal.ask(
        f"If the relay is yours, type the word {WORD}:", flag="--accept-interception"
    )
    if answer != WORD:
        raise Declined


def _is_public_relay(url: str) -> bool:
    # By host, so that no other spelling of port or path gets past.
    host, public = (urlsplit(each).hostname or "" for each in (url, DEFAULT_RELAY_URL))
    return host.rstrip(".") == public

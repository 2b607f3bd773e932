"""`export` and `import`: pairing by hand, with a fingerprint in the place of a ceremony."""

from __future__ import annotations

from pathlib import Path

from amesh_cli import here, pipes, terminal
from amesh_cli.options import As
from amesh_cli.people import shown
from amesh_cli.recording import recorder, settle_name
from amesh_core.card import fingerprint, introduce, is_fingerprint_of
from amesh_core.errors import BadCard, Declined, FingerprintMismatch, Malformed, UsageError
from amesh_core.identity import Peer, Role
from amesh_core.wire.card import MAX_BYTES, Card

STDIN = "-"


def export(*, qr: bool) -> None:
    """Print this device's card, and what is compared where it is imported.

    Raises:
        UsageError: a QR code is wanted and the extra is not installed.
    """
    me = here.open_home().identity
    card = Card(me.device_id, me.public_key, me.friendly_name).encode()
    if qr:
        from amesh_cli.qr import lines

        for line in lines(card):
            terminal.say(line, style="black on white")
        terminal.say()
    terminal.result(card)
    terminal.say(f"\nThis is the card of {terminal.quoted(me.friendly_name)} ({me.device_id}).")
    terminal.say("Hand it to the other device and import it there:\n")
    terminal.say("    amesh import FILE --role target        there, if it is to call this one")
    terminal.say("    amesh import FILE --role controller    there, if this one is to call it\n")
    terminal.say("It will show a fingerprint. Let it be compared with this one:\n")
    _show_fingerprint(me.public_key)


def import_(file: str, *, role: As, typed: str | None, trust_for: str | None) -> None:
    """Record the device that a card is of, once its fingerprint was compared.

    Raises:
        UsageError: no such file, no terminal to ask at, no fingerprint, no trust to end.
        BadCard: no card.
        OwnKey: our own card.
        Declined, FingerprintMismatch: it is another key.
        AmeshError: it cannot be recorded; see `AllowList.record`.
    """
    trust_seconds = None
    if trust_for is not None:
        from amesh_cli.trusting import parse_trust

        if role is not As.CONTROLLER:
            raise UsageError("--trust-for goes with --role controller: only it is trusted here")
        trust_seconds = parse_trust(trust_for)
    if typed is None:
        terminal.need_terminal("--fingerprint")
    home = here.open_home()
    peer = introduce(_card(file), Role(role), ours=home.identity.public_key)
    _compare(peer, typed)
    device = recorder(home, added_by="import", trust_seconds=trust_seconds)(peer)
    if typed is None:
        device = settle_name(home, device)
    if device.role is Role.CONTROLLER:
        terminal.result(f"Recorded: {shown(device)} may now call this device.")
        terminal.say("It needs this device's card, too: `amesh export` here, `amesh import` there.")
    else:
        terminal.result(f"Recorded: this device may call {shown(device)}.")
        terminal.say("It lets this device in once it has its card: `amesh export` here.")


def _card(file: str) -> Card:
    try:
        return Card.parse(_read(file))
    except Malformed as error:
        raise BadCard("the input" if file == STDIN else file, str(error)) from None


def _read(file: str) -> bytes:
    if file == STDIN and terminal.interactive():
        return terminal.ask("Paste the card, one line:", flag="the argument FILE").encode()
    try:
        # One byte more than a card has, so that a longer file is known for one.
        if file == STDIN:
            return pipes.stdin(MAX_BYTES + 1)
        with Path(file).open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None


def _compare(peer: Peer, typed: str | None) -> None:
    if typed is not None:
        if not is_fingerprint_of(typed, peer.public_key):
            raise FingerprintMismatch
        return
    terminal.say(f"The card is of {shown(peer)}. The fingerprint of its key is\n")
    _show_fingerprint(peer.public_key)
    terminal.say("`amesh export` on that device shows the same, if the card is its own. Whoever")
    terminal.say("carried the card may have put another in its place, so look there, or call.")
    if not terminal.confirm("Are all 64 digits the same there?", flag="--fingerprint"):
        raise Declined


def _show_fingerprint(public: bytes) -> None:
    for line in fingerprint(public):
        terminal.say(f"    {line}", style="bold")
    terminal.say()

"""From an error to what a person reads and a script gets: one table.

The nearest listed ancestor of an error decides. Hints name the way out; `{facts}` in them
are attributes of the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from amesh_core import errors as e

# Exit statuses, as in amesh(1). 0 is success, 2 wrong usage (as every Click program), 130 Ctrl-C.
FAILED: Final = 1
USAGE: Final = 2
HOME: Final = 3
KEY: Final = 4
RELAY: Final = 5
NOT_PAIRED: Final = 6
NOT_CONFIRMED: Final = 7
ALLOW_LIST: Final = 8
DEVICE: Final = 9
NOT_SUCCESSFUL: Final = 10
NO_ANSWER: Final = 11
TROUBLE: Final = 12

STATUSES: Final = {
    0: "Done.",
    FAILED: "Failed for a reason not listed here.",
    USAGE: "Wrong usage: an unknown option, a missing or impossible value.",
    HOME: "No identity yet, one that is in the way, or a directory that cannot be used.",
    KEY: "The private key cannot be used: passphrase, key file or back end.",
    RELAY: "The relay cannot be reached, refused, or the connection was lost.",
    NOT_PAIRED: "The pairing ended without trust; nothing was recorded here.",
    NOT_CONFIRMED: "The controller recorded the target, but the target did not confirm.",
    ALLOW_LIST: "The allow list is damaged, older than it was, or missing.",
    DEVICE: "No such device, more than one, or it cannot be recorded as asked.",
    NOT_SUCCESSFUL: "The server answered the request with another status than 2xx.",
    NO_ANSWER: "The request got no answer: no connection, no TLS, no answer in time.",
    TROUBLE: "Something that was looked into is wrong; the output says what.",
    130: "Interrupted with Ctrl-C.",
}

_RELAY_MAY_LIE = (
    "start again with `amesh listen` on the target; if it keeps happening, the relay may be "
    "trying to put itself between your devices: use another one, or `amesh listen --serve`"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """An exit status and the way out, if there is one to name."""

    status: int
    hint: str = ""


FAILURES: Final[dict[type[e.AmeshError], Failure]] = {
    e.AmeshError: Failure(FAILED),
    e.UsageError: Failure(USAGE),
    e.Malformed: Failure(USAGE),
    e.Declined: Failure(FAILED),
    e.HomeError: Failure(HOME),
    e.NoIdentity: Failure(
        HOME,
        "run `amesh init --name NAME` first, or set AUTH_MESH_DIR to where the identity is",
    ),
    e.IdentityExists: Failure(
        HOME, "`amesh init --force` replaces it and keeps a backup; paired devices must pair again"
    ),
    e.IdentityDamaged: Failure(
        HOME, "restore the directory from a backup, or start over with `amesh init --force`"
    ),
    e.IdentityReplaced: Failure(HOME, "run the command again; a service must be restarted"),
    e.UnsafePermissions: Failure(HOME, "run `chmod {wanted:o} {path}`"),
    e.HomeUnwritable: Failure(HOME, "check the owner and free space of the directory"),
    e.HomeBusy: Failure(HOME, "another amesh command is writing there; try again when it is done"),
    e.KeyStoreError: Failure(KEY),
    e.NoPassphrase: Failure(
        KEY, "set AUTH_MESH_PASSPHRASE or AMESH_PASSPHRASE_FILE to what `amesh init` ran with"
    ),
    e.WrongPassphrase: Failure(
        KEY, "check AUTH_MESH_PASSPHRASE, AMESH_PASSPHRASE_FILE and the file .passphrase"
    ),
    e.KeyFileDamaged: Failure(KEY, "restore the file from a backup of the directory"),
    e.KeyMissing: Failure(KEY, "restore the key from a backup, or run `amesh init --force`"),
    e.RelayError: Failure(RELAY),
    e.RelayUnreachable: Failure(
        RELAY,
        "check the address (--relay, AMESH_RELAY_URL, config.json) and the network, or run a "
        "relay yourself: `amesh listen --serve 3001`",
    ),
    e.RelayLost: Failure(RELAY, _RELAY_MAY_LIE),
    e.RelayRefused: Failure(RELAY, "start again with `amesh listen` on the target"),
    e.PairingFailed: Failure(NOT_PAIRED, _RELAY_MAY_LIE),
    e.WrongDigits: Failure(
        NOT_PAIRED,
        "start again with `amesh listen` and type the digits with care; if they differ again, "
        "the relay may be trying to put itself between your devices: use another one",
    ),
    e.RejectedHere: Failure(NOT_PAIRED, "start again with `amesh listen` on the target"),
    e.OlderPairing: Failure(
        NOT_PAIRED,
        "update amesh on the other device; if it is up to date, the relay is not honest: "
        "use another one",
    ),
    e.PairingExpired: Failure(
        NOT_PAIRED, "start again with `amesh listen` on the target, and answer within the time"
    ),
    e.NotConfirmed: Failure(
        NOT_CONFIRMED,
        "look at the target's screen; if it is not paired there, run `amesh revoke {device_id}` "
        "here and pair again",
    ),
    e.AllowListBroken: Failure(
        ALLOW_LIST,
        "nobody is let in until it is mended: restore allow_list.json from a backup made since, "
        "or start over with `amesh init --force`",
    ),
    e.DeviceError: Failure(DEVICE),
    e.NoSuchDevice: Failure(DEVICE, "`amesh list` shows the devices"),
    e.AmbiguousDevice: Failure(DEVICE, "use the whole device id from `amesh list`"),
    e.TooManyControllers: Failure(
        DEVICE, "`amesh revoke` one first, or name it: `amesh listen --replace DEVICE`"
    ),
    e.RoleConflict: Failure(DEVICE, "`amesh revoke {device_id}` first"),
    e.OwnKey: Failure(
        DEVICE, "the two sides need two directories: set AUTH_MESH_DIR for one of them"
    ),
    e.FetchFailed: Failure(NO_ANSWER),
    e.NotSuccessful: Failure(NOT_SUCCESSFUL),
    e.NotLetIn: Failure(
        NOT_SUCCESSFUL,
        "the server's log says why (amesh.verify); `amesh doctor --against URL` looks for it, too",
    ),
    e.TroubleFound: Failure(TROUBLE),
}

# What the codes of docs/protocol.md section 4 mean to a person.
RELAY_CODES: Final = {
    "otc_not_found": "no target waits under this code: it may be mistyped, used or expired",
    "otc_expired": "the code has expired, or its target went away",
    "otc_in_use": "another device uses this code",
    "invalid_otc": "a code has six digits",
    "peer_already_connected": "another controller already used this code",
    "peer_disconnected": "the other device disconnected",
    "rate_limited": "too many wrong codes from this address; wait a minute",
    "relay_capacity": "the relay is full; try again in a minute",
    "too_many_connections": "the relay is full; try again in a minute",
    "session_data_limit": "more data than a pairing needs",
    "invalid_message": "the relay does not understand this version of amesh",
    "unknown_type": "the relay does not understand this version of amesh",
}


def failure(error: e.AmeshError) -> Failure:
    """The entry of the error's nearest listed ancestor, its facts filled in."""
    entry = next(FAILURES[kind] for kind in type(error).__mro__ if kind in FAILURES)
    return Failure(entry.status, entry.hint.format_map(vars(error)))


def sentence(error: e.AmeshError) -> str:
    """What happened, in one line of lower case."""
    if isinstance(error, e.RelayRefused):
        return RELAY_CODES.get(error.relay_code, "unknown relay error")
    return str(error) or error.code.replace("_", " ")

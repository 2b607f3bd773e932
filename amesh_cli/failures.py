"""From an error to what a person reads and a script gets: one table.

The nearest listed ancestor of an error decides. Hints name the way out; `{facts}` in them
are attributes of the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from amesh_cli import layout
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
NOT_ACKNOWLEDGED: Final = 13

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
    NOT_ACKNOWLEDGED: "The device is made and works; its controller does not know it yet.",
    130: "Interrupted with Ctrl-C.",
}

# A URL can be thousands long, and so can the ids that a short prefix leaves open.
_MAX_CHARACTERS: Final = 600

_RELAY_MAY_LIE = (
    "start again with `amesh listen` on the target; if it keeps happening, the relay may be "
    "trying to put itself between your devices: use another one, or `amesh listen --serve`"
)

_PUT_BACK = (
    "nobody is let in until it is mended: put the newest allow_list.json in its place, or run "
    "`amesh doctor --repair`, which shows what is there and asks"
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
    e.BadCard: Failure(
        USAGE,
        "`amesh export` on the other device prints its card, one line: hand over all of it",
    ),
    e.Declined: Failure(FAILED),
    e.HomeError: Failure(HOME),
    e.NoIdentity: Failure(HOME, "run `amesh init --name NAME` first"),
    e.IdentityExists: Failure(
        HOME, "`amesh init --force` replaces it and keeps a backup; paired devices must pair again"
    ),
    e.IdentityDamaged: Failure(
        HOME, "restore the directory from a backup, or start over with `amesh init --force`"
    ),
    e.IdentityReplaced: Failure(HOME, "run the command again"),
    e.UnsafePermissions: Failure(HOME, "run `chmod {wanted:o} {path}`"),
    e.HomeUnwritable: Failure(HOME, "check the owner and free space of the directory"),
    e.TokenRecordsBroken: Failure(
        HOME,
        "restore provisioned.json from a backup, or delete it: servers that hold a token it "
        "listed can then not be recorded",
    ),
    e.HomeBusy: Failure(HOME, "another amesh command is writing there; try again when it is done"),
    e.KeyStoreError: Failure(KEY),
    e.NoPassphrase: Failure(
        KEY, "set AUTH_MESH_PASSPHRASE or AMESH_PASSPHRASE_FILE to what `amesh init` ran with"
    ),
    e.WrongPassphrase: Failure(
        KEY, "check AUTH_MESH_PASSPHRASE, AMESH_PASSPHRASE_FILE and the file .passphrase"
    ),
    e.KeyFileDamaged: Failure(
        KEY,
        "restore the file from a backup of the directory, or the item from one of the keychain; "
        "without one, run `amesh init --force` and pair again",
    ),
    e.BackendUnavailable: Failure(
        KEY,
        "mend that and run the command again; for a new identity, `amesh init` without --backend "
        "takes the best one that works here",
    ),
    e.KeychainLocked: Failure(KEY, "{remedy}"),
    e.KeyMissing: Failure(KEY, "restore the key from a backup, or run `amesh init --force`"),
    e.RotationFailed: Failure(DEVICE),
    e.BadStatement: Failure(
        DEVICE,
        "run `amesh rotate` on the device that moves on, and hand over the line it prints; if it "
        "is too old, `amesh rotate --abort` there and begin anew",
    ),
    e.FormerKeyUnknown: Failure(DEVICE, "it was revoked, or never paired here: pair it"),
    e.AlreadyRotated: Failure(DEVICE, "`amesh list` shows which keys there are"),
    e.NoNewKey: Failure(DEVICE, "`amesh rotate` makes one"),
    e.NewKeyUnusable: Failure(
        DEVICE,
        "the present key is as it was: `amesh rotate --abort` drops the new one, and `amesh "
        "rotate` makes another",
    ),
    e.RotationFileDamaged: Failure(
        DEVICE,
        "restore that file from a backup, or delete it: the present key is as it was, and `amesh "
        "rotate` makes another new one",
    ),
    e.TokensOutstanding: Failure(
        DEVICE,
        "wait until they are used or expired, cancel them (`amesh provision --cancel ID`), or "
        "cancel all of them with `amesh rotate --finish --force`",
    ),
    e.BootstrapError: Failure(NOT_PAIRED),
    e.NoToken: Failure(
        USAGE,
        "make one with `amesh provision --name NAME` on the controller, and give it in "
        "AMESH_BOOTSTRAP_TOKEN, in a file, or with `amesh bootstrap -` on standard input",
    ),
    e.BadToken: Failure(
        NOT_PAIRED,
        "check that all of it was copied and that the clock is right; `amesh provision` on the "
        "controller makes another one",
    ),
    e.NotAcknowledged: Failure(
        NOT_ACKNOWLEDGED,
        "the controller may call this device all the same; run `amesh bootstrap` again while "
        "`amesh provision --watch` runs there",
    ),
    e.NoSuchToken: Failure(USAGE, "`amesh provision --list` shows the tokens and their ids"),
    e.TokenNotUsable: Failure(
        NOT_PAIRED,
        "make another one with `amesh provision --name NAME`; `amesh provision --list` shows what "
        "became of this one, `amesh revoke` ends what it led to",
    ),
    e.TpmError: Failure(
        KEY,
        "see whether `tpm2_getrandom --hex 8` gets an answer; AMESH_TPM_TCTI says which TPM is "
        "meant",
    ),
    e.TpmChanged: Failure(
        KEY,
        "the key is lost, as no backup holds it: run `amesh init --force`, and pair again; if the "
        "disk was moved to another machine, move it back; if only the key at 0x81000001 was "
        "removed, make it anew as it was (amesh-init(1))",
    ),
    e.TpmOwnerPassword: Failure(
        KEY,
        "amesh does not ask for that password: take it away with `tpm2_changeauth -c owner -p "
        "OLD`, or make a storage root key (amesh-init(1)) and run `amesh init --force`",
    ),
    e.TpmLockedOut: Failure(
        KEY,
        "wait until the TPM unlocks itself, or run `tpm2_dictionarylockout --clear-lockout`; "
        "`tpm2_getcap properties-variable` shows how long that takes",
    ),
    e.TpmOutOfMemory: Failure(
        KEY,
        "use the TPM through its resource manager, /dev/tpmrm0; on a bare one, "
        "`tpm2_flushcontext -t` throws out what dead programs left",
    ),
    e.RelayError: Failure(RELAY),
    e.RelayUnreachable: Failure(
        RELAY,
        "check the address (--relay, AMESH_RELAY_URL, config.json) and the network, or run a "
        "relay yourself: `amesh listen --serve 3001`",
    ),
    e.RelayBusy: Failure(RELAY, "try again in a moment"),
    e.RelayWantsToken: Failure(
        RELAY,
        "ask whoever runs the relay for it, and put it into AMESH_RELAY_TOKEN or into a file that "
        "AMESH_RELAY_TOKEN_FILE names",
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
    e.NewerPairing: Failure(
        NOT_PAIRED, "start again on both devices without `--pairing v1`, which is not needed there"
    ),
    e.OneSided: Failure(
        NOT_PAIRED,
        "look at the target's list; if this device is on it, revoke it there and pair again",
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
    e.AllowListRolledBack: Failure(ALLOW_LIST, _PUT_BACK),
    e.AllowListMarkBroken: Failure(ALLOW_LIST, _PUT_BACK),
    e.DeviceError: Failure(DEVICE),
    e.NoSuchDevice: Failure(DEVICE, "`amesh list` shows the devices"),
    e.AmbiguousDevice: Failure(DEVICE, "use the whole device id from `amesh list`"),
    e.TooManyControllers: Failure(
        DEVICE,
        "`amesh revoke` one first, name it with `amesh listen --replace DEVICE`, or make room with "
        "`amesh config set max-controllers N`",
    ),
    e.RoleConflict: Failure(DEVICE, "`amesh revoke {device_id}` first"),
    e.OwnKey: Failure(
        DEVICE, "the two sides need two directories: set AUTH_MESH_DIR for one of them"
    ),
    e.NotAController: Failure(DEVICE, "`amesh list` shows which devices may call this one"),
    e.FingerprintMismatch: Failure(
        DEVICE,
        "have the card sent again, and find out who changed it; `amesh export` on the other "
        "device shows its fingerprint",
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
    "otc_expired": "the code has expired unused, or the device that showed it went away",
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
    return layout.shortened(str(error), _MAX_CHARACTERS) or error.code.replace("_", " ")

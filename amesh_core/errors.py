"""Every error raised on purpose, in one tree.

    AmeshError
    ├── Malformed                     bytes from outside that are not what they must be
    │   ├── MissingHeader · MalformedHeader · UnsupportedVersion · MalformedRequest
    │   └── BadFrame · BadCard
    ├── PayloadTooLarge
    ├── Unauthenticated               one answer outside (401), the reason only in the log
    │   ├── UnknownDevice · NotAController · TrustExpired
    │   ├── ClockSkew · BadSignature · Replayed
    ├── Unavailable                   ask again later; never "allow"
    │   └── NonceStoreFull · NonceStoreUnreachable
    ├── AllowListBroken               the list cannot be believed: fail closed
    │   ├── AllowListTampered · AllowListMissing
    │   └── AllowListRolledBack · AllowListMarkBroken
    ├── HomeError                     the directory this device lives in
    │   ├── NoIdentity · IdentityExists · IdentityDamaged · UnsafePermissions
    │   └── IdentityReplaced · HomeUnwritable · HomeBusy · TokenRecordsBroken
    ├── KeyStoreError                 the private key cannot be used
    │   ├── NoPassphrase · WrongPassphrase · KeyFileDamaged · KeyMissing
    │   ├── BackendUnavailable · KeychainLocked
    │   └── TpmError                  the TPM refuses, or cannot be reached
    │       └── TpmChanged · TpmOwnerPassword · TpmLockedOut · TpmOutOfMemory
    ├── DeviceError                   a device named by a person
    │   ├── NoSuchDevice · AmbiguousDevice · TooManyControllers · RoleConflict · OwnKey
    │   └── FingerprintMismatch
    ├── RotationFailed                a new key does not take an old one's place
    │   ├── BadStatement · FormerKeyUnknown · AlreadyRotated · NoNewKey · TokensOutstanding
    │   └── NewKeyUnusable · RotationFileDamaged
    ├── PairingFailed                 the ceremony ended without trust
    │   ├── OutOfOrder · BadMessage · CommitmentMismatch · BadBox · BadIdentity · OlderPairing
    │   ├── NewerPairing · OneSided
    │   ├── WrongDigits · RejectedHere · RejectedByPeer · PeerCouldNotRecord
    │   └── PairingExpired · NotConfirmed
    ├── BootstrapError                a bootstrap token, or what came of one
    │   ├── NoToken · BadToken · BadAnnouncement · BadAcknowledgement · NotAcknowledged
    │   └── NoSuchToken · TokenNotUsable · TokenUsedTwice · AlreadyListed
    ├── RelayError                    the road between two devices
    │   └── RelayUnreachable · RelayRefused · RelayLost
    │       └── RelayBusy · RelayWantsToken
    ├── FetchFailed                   a request of ours came to nothing
    │   └── NoAnswer · NotSuccessful · NotLetIn
    ├── TroubleFound                  what was looked into is not in order
    ├── UsageError                    a value from a person or a setting that cannot work
    └── Declined                      the person said no, and nothing was changed

Errors carry a stable `code` and facts. They know neither exit statuses nor HTTP: one
table in the CLI (amesh_cli/failures.py) and one in the SDK (amesh_sdk/answers.py)
translate, and a test walks this tree and demands an entry for each leaf.
"""

from __future__ import annotations

from typing import ClassVar


class AmeshError(Exception):
    """Something amesh refuses or cannot do; `code` is stable, the text is for people."""

    code: ClassVar[str] = "error"


# --- bytes from outside -----------------------------------------------------------------


class Malformed(AmeshError):
    """Input that does not have the one form its specification gives it."""

    code = "malformed"


class MissingHeader(Malformed):
    """The request carries no Authorization header."""

    code = "missing_header"

    def __init__(self) -> None:
        super().__init__("no Authorization header")


class MalformedHeader(Malformed):
    """The Authorization header is not one well-formed AuthMesh credential."""

    code = "malformed_header"


class UnsupportedVersion(Malformed):
    """The credential is of a version other than 1."""

    code = "unsupported_version"


class MalformedRequest(Malformed):
    """The method or the request target cannot be canonicalised without guessing."""

    code = "malformed_request"


class BadFrame(Malformed):
    """A frame between a device and a relay is not one of docs/protocol.md section 4.

    `relay_code` is the error code a relay answers it with.
    """

    code = "bad_frame"

    def __init__(self, relay_code: str, reason: str) -> None:
        super().__init__(reason)
        self.relay_code = relay_code


class BadCard(Malformed):
    """What was handed over for the card of a device is none."""

    code = "bad_card"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where} holds no card of a device: {reason}")


class PayloadTooLarge(AmeshError):
    """The body is longer than the verifier is ready to hold."""

    code = "payload_too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"body is over the limit of {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


# --- requests that are not let in -------------------------------------------------------


class Unauthenticated(AmeshError):
    """The request does not prove a device we trust; the caller learns nothing more."""

    code = "unauthorized"


class UnknownDevice(Unauthenticated):
    """The key is not on the allow list."""

    code = "unknown_device"


class NotAController(Unauthenticated):
    """The device is listed, but not as one that may call us."""

    code = "not_a_controller"

    def __init__(self, device_id: str) -> None:
        super().__init__(f"{device_id} is not a controller of this device")
        self.device_id = device_id


class TrustExpired(Unauthenticated):
    """The trust in this device had an end, and it has passed."""

    code = "trust_expired"

    def __init__(self, device_id: str) -> None:
        super().__init__(f"trust in {device_id} has expired")
        self.device_id = device_id


class ClockSkew(Unauthenticated):
    """The request was stamped too far from our clock."""

    code = "clock_skew"

    def __init__(self, skew_seconds: int, device_id: str) -> None:
        super().__init__(f"timestamp of {device_id} is {skew_seconds:+d} s away from our clock")
        self.skew_seconds = skew_seconds
        self.device_id = device_id


class BadSignature(Unauthenticated):
    """The signature does not fit, for any reason at all."""

    code = "bad_signature"


class Replayed(Unauthenticated):
    """The nonce was spent before."""

    code = "replayed"

    def __init__(self, device_id: str) -> None:
        super().__init__(f"{device_id} sent this nonce before")
        self.device_id = device_id


class Unavailable(AmeshError):
    """The check cannot be made now; the request is neither allowed nor refused for good."""

    code = "unavailable"


class NonceStoreFull(Unavailable):
    """This device's share of the nonce store is used up until older nonces expire."""

    code = "nonce_store_full"


class NonceStoreUnreachable(Unavailable):
    """The shared nonce store did not answer in time."""

    code = "nonce_store_unreachable"


# --- the allow list ---------------------------------------------------------------------


class AllowListBroken(AmeshError):
    """The allow list cannot be believed, so nobody is let in."""

    code = "allow_list_integrity_failure"


class AllowListTampered(AllowListBroken):
    """The seal does not fit the contents, or the file is not an allow list."""

    code = "allow_list_tampered"


class AllowListRolledBack(AllowListBroken):
    """The file is older than one that was there before."""

    code = "allow_list_rolled_back"


class AllowListMarkBroken(AllowListBroken):
    """What remembers the newest allow list cannot be believed."""

    code = "allow_list_mark_broken"


class AllowListMissing(AllowListBroken):
    """There is an identity but no allow list beside it."""

    code = "allow_list_missing"


# --- the directory ----------------------------------------------------------------------


class HomeError(AmeshError):
    """The directory this device lives in is not usable as it is."""

    code = "home_error"


class NoIdentity(HomeError):
    """Nothing was initialised here yet."""

    code = "no_identity"

    def __init__(self, directory: str) -> None:
        # For whoever starts a service, too, which has nobody to add a hint.
        super().__init__(
            f"no identity in {directory}: `amesh init` makes one, AUTH_MESH_DIR names another place"
        )
        self.directory = directory


class IdentityExists(HomeError):
    """There is an identity already, and it is not replaced unasked."""

    code = "identity_exists"

    def __init__(self, device_id: str, directory: str) -> None:
        super().__init__(f"{directory} already holds the identity {device_id}")
        self.device_id = device_id
        self.directory = directory


class IdentityDamaged(HomeError):
    """identity.json is there but cannot be read."""

    code = "identity_damaged"


class UnsafePermissions(HomeError):
    """Other users of this machine can read or write what only its owner may."""

    code = "unsafe_permissions"

    def __init__(self, path: str, mode: int, wanted: int) -> None:
        super().__init__(f"{path} has mode {mode:04o}, which lets other users in")
        self.path = path
        self.mode = mode
        self.wanted = wanted


class IdentityReplaced(HomeError):
    """Another identity took this one's place while this process was running."""

    code = "identity_replaced"

    def __init__(self, device_id: str, directory: str) -> None:
        super().__init__(f"{directory} holds another identity than {device_id} by now")
        self.device_id = device_id
        self.directory = directory


class HomeUnwritable(HomeError):
    """The operating system refused to read or write a file of ours."""

    code = "home_unwritable"


class HomeBusy(HomeError):
    """Another process holds the lock of the directory for too long."""

    code = "home_busy"


class TokenRecordsBroken(HomeError):
    """provisioned.json is not as this device sealed it, so no announcement is believed."""

    code = "token_records_broken"


# --- keys -------------------------------------------------------------------------------


class KeyStoreError(AmeshError):
    """The private key cannot be used."""

    code = "keystore_error"


class NoPassphrase(KeyStoreError):
    """No source names a passphrase for the encrypted key file."""

    code = "no_passphrase"


class WrongPassphrase(KeyStoreError):
    """The passphrase does not open the key file (or the file was changed)."""

    code = "wrong_passphrase"


class KeyFileDamaged(KeyStoreError):
    """The key file is not a key file, or holds another key than the identity's."""

    code = "key_file_damaged"


class KeyMissing(KeyStoreError):
    """The back end does not hold the key that the identity names."""

    code = "key_missing"


class BackendUnavailable(KeyStoreError):
    """The key back end cannot be used on this machine."""

    code = "backend_unavailable"

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(f"the {backend} back end cannot be used: {reason}")
        self.backend = backend
        self.reason = reason


class KeychainLocked(KeyStoreError):
    """The keychain that holds the key is locked, or its owner said no."""

    code = "keychain_locked"

    def __init__(self, keychain: str, remedy: str) -> None:
        super().__init__(f"{keychain} is locked, or somebody refused its question")
        self.remedy = remedy


class TpmError(KeyStoreError):
    """The TPM refuses a command, or does not answer."""

    code = "tpm_error"


class TpmChanged(TpmError):
    """The TPM is not the one that made the key, or was cleared since."""

    code = "tpm_changed"


class TpmOwnerPassword(TpmError):
    """What is to be done needs the password of the TPM's owner."""

    code = "tpm_owner_password"


class TpmLockedOut(TpmError):
    """The TPM refuses keys that passwords protect, after too many wrong ones."""

    code = "tpm_locked_out"


class TpmOutOfMemory(TpmError):
    """The TPM has no place for one more key."""

    code = "tpm_out_of_memory"


# --- devices named by a person ----------------------------------------------------------


class DeviceError(AmeshError):
    """A device cannot be found or recorded as asked."""

    code = "device_error"


class NoSuchDevice(DeviceError):
    """Nothing on the allow list answers to that id, prefix or name."""

    code = "no_such_device"


class AmbiguousDevice(DeviceError):
    """More than one device answers to that prefix or name."""

    code = "ambiguous_device"


class TooManyControllers(DeviceError):
    """The target already has as many controllers as it may have."""

    code = "too_many_controllers"

    def __init__(self, limit: int) -> None:
        super().__init__(f"this device already has as many controllers as it may have: {limit}")
        self.limit = limit


class RoleConflict(DeviceError):
    """The device is listed in the other role; one key never has both."""

    code = "role_conflict"

    def __init__(self, device_id: str, role: str) -> None:
        super().__init__(f"{device_id} is already listed as a {role}")
        self.device_id = device_id
        self.role = role


class OwnKey(DeviceError):
    """A device cannot be paired with itself."""

    code = "own_key"

    def __init__(self) -> None:
        super().__init__("the other side presented this device's own key")


class FingerprintMismatch(DeviceError):
    """A card is of another key than the one whose fingerprint is known."""

    code = "fingerprint_mismatch"

    def __init__(self) -> None:
        super().__init__("the card is of another key than the one with this fingerprint")


# --- rotation ---------------------------------------------------------------------------


class RotationFailed(AmeshError):
    """A new key does not take the place of an old one."""

    code = "rotation_failed"


class BadStatement(RotationFailed):
    """The statement is none, is too old, or is not signed by both keys."""

    code = "bad_statement"


class FormerKeyUnknown(RotationFailed):
    """The old key of a statement is not on the allow list, or not any more."""

    code = "former_key_unknown"

    def __init__(self, device_id: str) -> None:
        super().__init__(f"{device_id} is not on the allow list")
        self.device_id = device_id


class AlreadyRotated(RotationFailed):
    """The old key of a statement gave its place away, or the new key has one already."""

    code = "already_rotated"


class NoNewKey(RotationFailed):
    """No new key waits to take over."""

    code = "no_new_key"

    def __init__(self, directory: str) -> None:
        super().__init__(f"no new key waits in {directory}")


class NewKeyUnusable(RotationFailed):
    """The new key that waits is gone or damaged; the present one is as it was."""

    code = "new_key_unusable"


class RotationFileDamaged(RotationFailed):
    """rotation.json cannot be read, so nobody can say which key waits."""

    code = "rotation_file_damaged"


class TokensOutstanding(RotationFailed):
    """Bootstrap tokens that the old key signed may still be used."""

    code = "tokens_outstanding"

    def __init__(self, jtis: str) -> None:
        super().__init__(f"bootstrap tokens of the old key can still be used: {jtis}")
        self.jtis = jtis


# --- pairing ----------------------------------------------------------------------------


class PairingFailed(AmeshError):
    """The ceremony ended; the code is spent and nothing is trusted."""

    code = "pairing_failed"


class OutOfOrder(PairingFailed):
    """A frame arrived that this state does not know."""

    code = "out_of_order"


class BadMessage(PairingFailed):
    """The other side sent what is no message of this protocol, or a key it must not use."""

    code = "bad_message"


class CommitmentMismatch(PairingFailed):
    """What the target revealed is not what it committed to."""

    code = "commitment_mismatch"

    def __init__(self) -> None:
        super().__init__("the target revealed another key than it had committed to")


class BadBox(PairingFailed):
    """A sealed message does not open with the keys of this ceremony."""

    code = "bad_box"

    def __init__(self) -> None:
        super().__init__("a sealed message does not open with the keys of this ceremony")


class BadIdentity(PairingFailed):
    """The other side's identity is not valid in this ceremony."""

    code = "bad_identity"


class OlderPairing(PairingFailed):
    """The other device, or the relay, offered an older pairing."""

    code = "older_pairing"

    def __init__(self) -> None:
        super().__init__("the other device, or the relay, offered an older pairing")


class NewerPairing(PairingFailed):
    """The other device speaks the current pairing, and this side was told to use the older one."""

    code = "newer_pairing"

    def __init__(self) -> None:
        super().__init__("the other device offered the current pairing, not the older one")


class OneSided(PairingFailed):
    """Nothing was recorded here, but the target may have recorded this device.

    Only the older pairing ends so: it has no message that takes a confirmation back.
    """

    code = "one_sided"

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; the target may have recorded this device all the same")


class WrongDigits(PairingFailed):
    """The digits typed on the target are not the ones of this ceremony."""

    code = "wrong_digits"

    def __init__(self) -> None:
        super().__init__("the digits do not match")


class RejectedHere(PairingFailed):
    """The person at this device said no."""

    code = "rejected_here"


class RejectedByPeer(PairingFailed):
    """The person at the other device said no, or the digits did not match there."""

    code = "rejected_by_peer"

    def __init__(self) -> None:
        super().__init__("the other device refused")


class PeerCouldNotRecord(PairingFailed):
    """The other device agreed but could not write its allow list."""

    code = "peer_could_not_record"


class PairingExpired(PairingFailed):
    """The ceremony took longer than it may."""

    code = "pairing_expired"


class NotConfirmed(PairingFailed):
    """The controller recorded the target, but the target never said it was done."""

    code = "not_confirmed"

    def __init__(self, device_id: str) -> None:
        super().__init__("not confirmed by the target")
        self.device_id = device_id


# --- bootstrap tokens -------------------------------------------------------------------


class BootstrapError(AmeshError):
    """A bootstrap token cannot be used, or what was announced with one is not believed."""

    code = "bootstrap_failed"


class NoToken(BootstrapError):
    """No place has a bootstrap token, or the file that was named for it is not there."""

    code = "no_token"


class BadToken(BootstrapError):
    """The token fails a check; `token_code` is one of the table of docs/protocol.md section 6."""

    code = "bad_token"

    def __init__(self, token_code: str, reason: str) -> None:
        super().__init__(f"the bootstrap token is refused: {reason} ({token_code})")
        self.token_code = token_code


class BadAnnouncement(BootstrapError):
    """An announcement does not show that its sender holds the token and the key."""

    code = "bad_announcement"


class BadAcknowledgement(BootstrapError):
    """What came as an answer to an announcement is not from the token's controller."""

    code = "bad_acknowledgement"

    def __init__(self) -> None:
        super().__init__("the acknowledgement is not from the controller of the token")


class NotAcknowledged(BootstrapError):
    """The controller of the token has not said that it recorded this device."""

    code = "not_acknowledged"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the controller did not acknowledge this device: {reason}")
        self.reason = reason


class NoSuchToken(BootstrapError):
    """This device minted no token with that id."""

    code = "no_such_token"


class TokenNotUsable(BootstrapError):
    """The token has expired, was cancelled, or led to a device that was revoked since."""

    code = "token_not_usable"


class TokenUsedTwice(BootstrapError):
    """A second device announced itself with a token that another one has used."""

    code = "token_used_twice"


class AlreadyListed(BootstrapError):
    """The announced key is on the allow list already, and not because of this token."""

    code = "already_listed"

    def __init__(self, device_id: str) -> None:
        super().__init__(f"{device_id} is on the allow list already")
        self.device_id = device_id


# --- the relay --------------------------------------------------------------------------


class RelayError(AmeshError):
    """The road between the two devices failed."""

    code = "relay_error"


class RelayUnreachable(RelayError):
    """No connection to the relay could be made."""

    code = "relay_unreachable"

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"cannot reach the relay at {url}: {reason}")
        self.url = url
        self.reason = reason


class RelayBusy(RelayUnreachable):
    """The relay takes no devices at the moment: it stops, its parts are away, or it was tried
    with wrong tokens.
    """

    code = "relay_busy"


class RelayWantsToken(RelayUnreachable):
    """The relay admits only who knows its access token."""

    code = "relay_wants_token"


class RelayRefused(RelayError):
    """The relay answered with an error; `relay_code` is one of docs/protocol.md section 4."""

    code = "relay_refused"

    def __init__(self, relay_code: str) -> None:
        super().__init__(f"the relay refused: {relay_code}")
        self.relay_code = relay_code


class RelayLost(RelayError):
    """The connection to the relay, or the peer behind it, went away."""

    code = "relay_lost"


# --- requests of ours -------------------------------------------------------------------


class FetchFailed(AmeshError):
    """A request that this device sent did not do what it was sent for."""

    code = "fetch_failed"


class NoAnswer(FetchFailed):
    """No answer came, or not all of it."""

    code = "no_answer"


class NotSuccessful(FetchFailed):
    """The server answered with another status than 2xx."""

    code = "not_successful"

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the server answered {status} {reason}".rstrip())
        self.status = status


class NotLetIn(NotSuccessful):
    """The server verifies requests, and refused this one."""

    code = "not_let_in"


class TroubleFound(AmeshError):
    """A check of this device, of a server or of a request found what is wrong."""

    code = "trouble_found"


# --- people and settings ----------------------------------------------------------------


class UsageError(AmeshError):
    """A value from a person or a setting that cannot work."""

    code = "usage"


class Declined(AmeshError):
    """The person said no; nothing was changed."""

    code = "declined"

    def __init__(self) -> None:
        super().__init__("nothing was changed")

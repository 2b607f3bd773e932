"""Mint a bootstrap token, accept one, and prove with it who is who; docs/protocol.md section 6.

    controller                              target
    mint -> token  ...  by hand, in a secret store ...  accept -> AcceptedToken
    check_announcement  <- bootstrap_init --------------  announce -> Announcement
    acknowledge ---------- bootstrap_ack --------------> check_acknowledgement

Trust is one-way, so the target learns all it must know from the token, which is signed by
its controller. The announcement only tells the controller which key took it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from amesh_core import crypto, identity
from amesh_core.errors import (
    BadAcknowledgement,
    BadAnnouncement,
    BadSignature,
    BadToken,
    Malformed,
    UsageError,
)
from amesh_core.identity import DeviceKey, check_name
from amesh_core.wire import relay as wire
from amesh_core.wire import token
from amesh_core.wire.encoding import b64, unb64
from amesh_core.wire.token import TokenClaims, TokenCode

MAX_LIFETIME_SECONDS: Final = 24 * 3600
# How far a controller's clock may be ahead of ours (docs/protocol.md section 6).
MAX_AHEAD_SECONDS: Final = 60
JTI_RANDOM_BYTES: Final = 16
MAC_BYTES: Final = 32  # HMAC-SHA256

_INIT: Final = "amesh-bootstrap-init-v1"
_ACK: Final = "amesh-bootstrap-ack-v1"


@dataclass(frozen=True, slots=True)
class AcceptedToken:
    """A token that passed every check: its key may be trusted as a controller."""

    claims: TokenClaims
    token_hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Announcement:
    """A target's word on which key took the token; it holds no part of the token.

    `proof` shows the private key of `target_public_key`, `mac` shows the token.
    """

    jti: str = field(repr=False)
    target_public_key: bytes
    friendly_name: str
    proof: bytes = field(repr=False)
    mac: bytes = field(repr=False)

    @classmethod
    def parse(cls, frame: wire.BootstrapInit) -> Announcement:
        """Read what a relay delivered.

        Raises:
            BadAnnouncement: name, proof or mac are missing, or a field is of another form.
        """
        match frame:
            case wire.BootstrapInit(jti, key, str(name), str(proof), str(mac), None):
                pass
            case _:
                raise BadAnnouncement("the announcement has other fields than it must have")
        try:
            return cls(
                jti=jti,
                target_public_key=target_key(key),
                friendly_name=name,
                proof=unb64(proof, length=crypto.SIGNATURE_BYTES),
                mac=unb64(mac, length=MAC_BYTES),
            )
        except Malformed as error:
            raise BadAnnouncement(f"the announcement is malformed: {error}") from None

    def frame(self) -> wire.BootstrapInit:
        """The frame that carries it to the relay."""
        return wire.BootstrapInit(
            jti=self.jti,
            target_public_key=b64(self.target_public_key),
            friendly_name=self.friendly_name,
            proof=b64(self.proof),
            mac=b64(self.mac),
        )


def mint(
    key: DeviceKey, *, name: str, relay: str, ttl_seconds: int, now: float, jti_random: bytes
) -> str:
    """A new token for one target, `eyJ...`; `jti_random` is 16 bytes that nobody can guess.

    `name` is what the controller will call the target, `relay` where it will announce itself.

    Raises:
        UsageError: no good name, no relay's URL, or a lifetime that a target would refuse.
    """
    if not 1 <= ttl_seconds <= MAX_LIFETIME_SECONDS:
        raise UsageError("a bootstrap token lives 24 hours at most: whoever finds it can use it")
    issued_at = int(now)
    claims = TokenClaims(
        issuer=identity.device_id(key.public),
        public_key=key.public,
        issued_at=issued_at,
        expires_at=issued_at + ttl_seconds,
        jti="bt_" + jti_random.hex(),
        name=name,
        relay=relay,
    )
    try:
        check_name(name)
        signing_input = token.encode_unsigned(claims)
        text = token.encode(signing_input, key.sign(signing_input))
        # Nobody is handed a token that its target would refuse.
        accept(text, now)
    except (BadToken, Malformed) as error:
        raise UsageError(str(error)) from None
    return text


def accept(text: str, now: float) -> AcceptedToken:
    """Check a token as the target that was given it; `now` is in Unix seconds.

    Raises:
        BadToken: it fails a check; which one is in `token_code`.
    """
    parsed = token.parse(text)
    claims = parsed.claims
    try:
        # It becomes the name of a device, and is shown.
        check_name(claims.name)
    except Malformed as error:
        raise BadToken(TokenCode.CLAIMS, str(error)) from None
    # The time before the signature, in the order of the table: what a person can mend first.
    if claims.issued_at > now + MAX_AHEAD_SECONDS:
        ahead_seconds = claims.issued_at - now
        raise BadToken(
            TokenCode.NOT_YET_VALID,
            f"it was made {ahead_seconds:.0f} s in the future by this device's clock",
        )
    if claims.expires_at <= now:
        ago_seconds = now - claims.expires_at
        raise BadToken(
            TokenCode.EXPIRED, f"it expired {ago_seconds:.0f} s ago by this device's clock"
        )
    try:
        crypto.verify(claims.public_key, parsed.signature, parsed.signing_input)
    except BadSignature:
        raise BadToken(TokenCode.SIGNATURE, "the signature does not verify") from None
    if claims.issuer != identity.device_id(claims.public_key):
        raise BadToken(TokenCode.ISSUER, "the issuer's id is not that of its key")
    if not 0 < claims.expires_at - claims.issued_at <= MAX_LIFETIME_SECONDS:
        raise BadToken(TokenCode.LIFETIME, "it is made to live longer than 24 hours, or not at all")
    return AcceptedToken(claims, hash_of(parsed.compact))


def hash_of(text: str) -> bytes:
    """SHA-256 of a token without white space and prefix: all that its controller keeps of it."""
    return crypto.sha256(token.compact(text).encode("utf-8", "surrogatepass"))


def announce(token_text: str, key: DeviceKey, friendly_name: str) -> Announcement:
    """What a target tells the controller of the token; `friendly_name` is only shown there.

    Raises:
        BadToken: it is no token in due form.
    """
    parsed = token.parse(token_text)
    message = _init_message(parsed.claims.jti, key.public, friendly_name)
    return Announcement(
        jti=parsed.claims.jti,
        target_public_key=key.public,
        friendly_name=friendly_name,
        proof=key.sign(message),
        mac=crypto.hmac_sha256(hash_of(parsed.compact), message),
    )


def check_announcement(announcement: Announcement, hash_of_token: bytes) -> None:
    """Check that its sender held the token with this SHA-256 and holds the key it names.

    Raises:
        BadAnnouncement: it did or does not.
    """
    key, name = announcement.target_public_key, announcement.friendly_name
    message = _init_message(announcement.jti, key, name)
    # The mac first: without the token nobody makes us verify signatures.
    if not crypto.same(crypto.hmac_sha256(hash_of_token, message), announcement.mac):
        raise BadAnnouncement("the sender of the announcement does not hold the token")
    try:
        crypto.verify(key, announcement.proof, message)
    except BadSignature:
        raise BadAnnouncement("the sender of the announcement does not hold its key") from None


def acknowledge(key: DeviceKey, target_public_key: bytes, jti: str) -> bytes:
    """The controller's signature that ends the target's attempts, 64 bytes."""
    return key.sign(_ack_message(target_public_key, jti))


def check_acknowledgement(
    controller_public: bytes, own_public: bytes, jti: str, public_key: str, signature: str
) -> None:
    """Check that the token's controller has recorded this target's key.

    `controller_public` is the `pub` of the token, `own_public` the target's own key;
    `public_key` and `signature` are the texts that the relay delivered.

    Raises:
        BadAcknowledgement: they are not that controller's, or not for this key and token.
    """
    try:
        if unb64(public_key) != controller_public:
            raise BadAcknowledgement
        crypto.verify(controller_public, unb64(signature), _ack_message(own_public, jti))
    except (Malformed, BadSignature):
        raise BadAcknowledgement from None


def target_key(text: str) -> bytes:
    """The 33-byte key of a target, from the text of an announcement.

    Raises:
        Malformed: not canonical base64 of a compressed point on the curve.
    """
    public = unb64(text, length=crypto.PUBLIC_KEY_BYTES)
    crypto.public_key(public)
    return public


def _init_message(jti: str, target_public_key: bytes, friendly_name: str) -> bytes:
    # The name is last and all before it has a fixed form, so no two meanings share a text.
    return f"{_INIT}\n{b64(target_public_key)}\n{jti}\n{friendly_name}".encode()


def _ack_message(target_public_key: bytes, jti: str) -> bytes:
    return f"{_ACK}\n{b64(target_public_key)}\n{jti}".encode("ascii")

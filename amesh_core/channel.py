"""The secure channel of a pairing: what is committed, hashed, derived, boxed and signed.

docs/protocol.md section 5, formula by formula. Why the target commits first: the digits
are only 20 bits, so a relay in the middle must not choose any input of theirs after it
knows the others. With the commitment each side's last free choice is made blindly.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from amesh_core import crypto
from amesh_core.crypto import PrivateKey
from amesh_core.errors import (
    BadIdentity,
    BadMessage,
    BadSignature,
    Malformed,
    OwnKey,
    WrongDigits,
)
from amesh_core.identity import DeviceKey, Identity, Peer, Role, check_name, device_id
from amesh_core.wire import pairing as wire

_DST: Final = b"amesh-pair/2"
_DIGITS: Final = 6
_DIGITS_SOURCE_BYTES: Final = 8  # 64 bits modulo 10^6: the bias is below 2^-44


def commitment(reveal: wire.Reveal) -> bytes:
    """K: what the target sends first, 32 bytes that fix its key and its nonce."""
    return crypto.sha256(_DST + b" commit\0" + reveal.ephemeral + reveal.nonce)


def transcript(code: str, committed: bytes, hello: wire.Hello, reveal: wire.Reveal) -> bytes:
    """TH: every public byte of the ceremony so far, in order, 32 bytes."""
    return crypto.sha256(
        _DST
        + b" transcript\0"
        + code.encode("ascii")
        + committed
        + hello.ephemeral
        + hello.nonce
        + reveal.ephemeral
        + reveal.nonce
    )


@dataclass(frozen=True, slots=True)
class Channel:
    """Keys, digits and box counters of one ceremony, seen from one side.

    Frozen: to seal or open gives the channel to go on with, so no box number is used twice.
    """

    transcript: bytes
    digits: str = field(repr=False)
    _send_key: bytes = field(repr=False)
    _receive_key: bytes = field(repr=False)
    _boxes_sent: int = 0
    _boxes_received: int = 0

    @classmethod
    def derive(
        cls, role: Role, code: str, ephemeral: PrivateKey, hello: wire.Hello, reveal: wire.Reveal
    ) -> Channel:
        """What the side `role`, holding `ephemeral`, knows once both keys are on the table.

        Raises:
            BadMessage: the other ephemeral key is not on the curve, or is our own.
        """
        theirs = hello.ephemeral if role is Role.TARGET else reveal.ephemeral
        if theirs == ephemeral.public:
            raise BadMessage("the other side sent our own key back")
        try:
            secret = ephemeral.agree(theirs)
        except Malformed as error:
            raise BadMessage(f"the other side's key is {error}") from None
        bound = transcript(code, commitment(reveal), hello, reveal)
        prk = crypto.hkdf_extract(secret, salt=bound)
        to_controller = crypto.hkdf_expand(prk, info=_DST + b" t2c", length=32)
        to_target = crypto.hkdf_expand(prk, info=_DST + b" c2t", length=32)
        source = crypto.hkdf_expand(prk, info=_DST + b" sas", length=_DIGITS_SOURCE_BYTES)
        number = int.from_bytes(source, "big") % 10**_DIGITS
        send, receive = (
            (to_controller, to_target) if role is Role.TARGET else (to_target, to_controller)
        )
        return cls(bound, f"{number:0{_DIGITS}d}", send, receive)

    def seal(self, message: wire.Sealed) -> tuple[wire.Box, Channel]:
        """Put `message` into our next box."""
        sealed = crypto.seal_box(
            self._send_key,
            _box_nonce(self._boxes_sent),
            wire.encode_sealed(message),
            self.transcript,
        )
        return wire.Box(sealed), replace(self, _boxes_sent=self._boxes_sent + 1)

    def open(self, box: wire.Box) -> tuple[wire.Sealed, Channel]:
        """Open the other side's next box.

        Raises:
            BadBox: not sealed by the holder of the other end, or not its next one.
            Malformed: sealed by it, but no message of this protocol.
        """
        plaintext = crypto.open_box(
            self._receive_key, _box_nonce(self._boxes_received), box.sealed, self.transcript
        )
        return (
            wire.decode_sealed(plaintext),
            replace(self, _boxes_received=self._boxes_received + 1),
        )

    def check_digits(self, typed: str) -> None:
        """Compare what a person typed with the digits of this ceremony, in constant time.

        Raises:
            WrongDigits: anything but the same six digits.
        """
        # surrogatepass: a terminal can hand in bytes that are no text, and they are just wrong.
        if not crypto.same(typed.encode("utf-8", "surrogatepass"), self.digits.encode("ascii")):
            raise WrongDigits

    def claim(self, identity: Identity, key: DeviceKey, role: Role, issued_at: str) -> wire.Claim:
        """Say who we are, in a signature that is worth nothing in any other ceremony."""
        signed = self._signed(role.value, key.public, issued_at, identity.friendly_name)
        return wire.Claim(
            role.value, key.public, identity.friendly_name, issued_at, key.sign(signed)
        )

    def check(self, claim: wire.Claim, *, ours: bytes, expected: Role) -> Peer:
        """Who the other side is.

        Raises:
            OwnKey: it presented the public key `ours`.
            BadIdentity: another role than `expected`, a name that is not a good one, or a
                signature that does not hold in this ceremony.
        """
        if claim.role != expected:
            raise BadIdentity(f"the other side is a {claim.role} as well")
        if claim.public_key == ours:
            raise OwnKey
        try:
            # The name first: it may hold what UTF-8 cannot, and what no screen may show.
            name = check_name(claim.friendly_name)
            signed = self._signed(claim.role, claim.public_key, claim.issued_at, name)
            crypto.verify(claim.public_key, claim.signature, signed)
        except Malformed as error:
            raise BadIdentity(f"the other side's name is not acceptable: {error}") from None
        except BadSignature:
            raise BadIdentity("the other side's identity was not signed for this pairing") from None
        return Peer(device_id(claim.public_key), claim.public_key, name, expected)

    def _signed(self, role: str, public_key: bytes, issued_at: str, friendly_name: str) -> bytes:
        return (
            _DST
            + b" identity "
            + role.encode("ascii")
            + b"\0"
            + self.transcript
            + public_key
            + issued_at.encode("ascii")
            + b"\0"
            + friendly_name.encode("utf-8")
        )


def _box_nonce(number: int) -> bytes:
    return bytes(4) + number.to_bytes(8, "big")

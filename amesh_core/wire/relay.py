"""The frames between a device and a relay, as text: parse -> frozen dataclass, or BadFrame.

docs/protocol.md section 4. Each frame (relay_frames.py) is one JSON object in one text frame of
at most MAX_FRAME_BYTES. Keys that a frame does not know are dropped, so nothing travels through a
relay but the listed fields.
"""

from __future__ import annotations

import json
import re
from json.encoder import encode_basestring
from typing import Any, Final

from amesh_core.errors import BadFrame as BadFrame
from amesh_core.errors import Malformed
from amesh_core.wire.encoding import load_json
from amesh_core.wire.relay_frames import ERROR_CODES as ERROR_CODES
from amesh_core.wire.relay_frames import UNKNOWN_ERROR as UNKNOWN_ERROR
from amesh_core.wire.relay_frames import Ack as Ack
from amesh_core.wire.relay_frames import BootstrapAck as BootstrapAck
from amesh_core.wire.relay_frames import BootstrapAcked as BootstrapAcked
from amesh_core.wire.relay_frames import BootstrapInit as BootstrapInit
from amesh_core.wire.relay_frames import BootstrapReject as BootstrapReject
from amesh_core.wire.relay_frames import BootstrapWatch as BootstrapWatch
from amesh_core.wire.relay_frames import BootstrapWatching as BootstrapWatching
from amesh_core.wire.relay_frames import Connect as Connect
from amesh_core.wire.relay_frames import Data as Data
from amesh_core.wire.relay_frames import DeviceFrame as DeviceFrame
from amesh_core.wire.relay_frames import Done as Done
from amesh_core.wire.relay_frames import ErrorCode as ErrorCode
from amesh_core.wire.relay_frames import Listen as Listen
from amesh_core.wire.relay_frames import PeerFound as PeerFound
from amesh_core.wire.relay_frames import Rejection as Rejection
from amesh_core.wire.relay_frames import RelayErrorFrame as RelayErrorFrame
from amesh_core.wire.relay_frames import RelayFrame as RelayFrame

MAX_FRAME_BYTES: Final = 65536
# Only a jti of a bootstrap token (docs/protocol.md section 6), a key, a signature, a good
# name, a proof or a whole token travel in bootstrap frames; the longest token has ~2 KiB.
MAX_BOOTSTRAP_FIELD_CHARACTERS: Final = 4096

_OTC: Final = re.compile(r"[0-9]{6}")
_JTI: Final = re.compile(r"bt_[0-9a-f]{32}")
_IDENTIFIER: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_OtherFrame = (
    Listen
    | Connect
    | RelayErrorFrame
    | BootstrapWatch
    | BootstrapWatching
    | BootstrapInit
    | BootstrapAck
    | BootstrapAcked
    | BootstrapReject
)


def decode_from_device(text: str | bytes) -> DeviceFrame:
    """Read a frame as a relay does; `bytes` is a binary frame, and refused.

    Raises:
        BadFrame: for anything else, its `relay_code` one of invalid_message, unknown_type,
            invalid_otc.
    """
    if (payload := _plain_payload(text)) is not None:
        return Data(payload)
    value = _load(text)
    match value:
        case {"type": "data", "payload": str(payload)}:
            return Data(_text(payload))
        case {"type": "listen"}:
            return Listen(_otc(value.get("otc")))
        case {"type": "connect"}:
            return Connect(_otc(value.get("otc")))
        case {"type": "done"}:
            return Done()
        case {"type": "bootstrap_watch", "jti": jti}:
            return BootstrapWatch(_jti(jti))
        case {"type": "bootstrap_init"}:
            return _init(value)
        case {"type": "bootstrap_ack", "jti": jti, "publicKey": key, "controllerSig": sig}:
            return BootstrapAck(_jti(jti), _field(key), _field(sig))
        case {"type": "bootstrap_reject", "jti": jti, "error": error}:
            return BootstrapReject(_jti(jti), _identifier(error))
        case {"type": "data" | "bootstrap_watch" | "bootstrap_ack" | "bootstrap_reject"}:
            raise _invalid("a frame with missing fields")
        case {"type": str()}:
            raise BadFrame(ErrorCode.UNKNOWN_TYPE, "a frame of an unknown type")
        case _:
            raise _invalid("not an object with a type")


def decode_from_relay(text: str | bytes) -> RelayFrame:
    """Read a frame as a device does; `bytes` is a binary frame, and refused.

    An error code that is not in ERROR_CODES comes out as UNKNOWN_ERROR.

    Raises:
        BadFrame: for anything that is not a frame a relay sends.
    """
    if (payload := _plain_payload(text)) is not None:
        return Data(payload)
    value = _load(text)
    match value:
        case {"type": "data", "payload": str(payload)}:
            return Data(_text(payload))
        case {"type": "ack", "message": "session_open"}:
            return Ack()
        case {"type": "peer_found"}:
            return PeerFound()
        case {"type": "done"}:
            return Done()
        case {"type": "error", "code": str(code)}:
            return RelayErrorFrame(code if code in ERROR_CODES else UNKNOWN_ERROR)
        case {"type": "bootstrap_watching", "jti": jti}:
            return BootstrapWatching(_jti(jti))
        case {"type": "bootstrap_init"}:
            return _init(value)
        case {"type": "bootstrap_ack", "jti": jti, "controllerPubKey": key, "controllerSig": sig}:
            return BootstrapAcked(_jti(jti), _field(key), _field(sig))
        case {"type": "bootstrap_reject", "jti": jti, "error": error}:
            return BootstrapReject(_jti(jti), _identifier(error))
        case _:
            raise _invalid("not a frame of a relay")


def encode(frame: DeviceFrame | RelayFrame) -> str:
    """Write a frame as the JSON text of one text frame."""
    match frame:
        # Most of what a relay writes, by far; the same text as below in a tenth of the time.
        case Data(payload):
            return f'{{"type":"data","payload":{encode_basestring(payload)}}}'
        case Ack() | PeerFound() | Done():
            return _CONSTANT[type(frame)]
        case _:
            return _ENCODER.encode(_fields(frame))


# Made once: json.dumps with options makes a new one for every frame.
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_CONSTANT: Final = {
    Ack: '{"type":"ack","message":"session_open"}',
    PeerFound: '{"type":"peer_found"}',
    Done: '{"type":"done"}',
}


def _fields(frame: _OtherFrame) -> dict[str, str]:
    match frame:
        case Listen(otc):
            return {"type": "listen", "otc": otc}
        case Connect(otc):
            return {"type": "connect", "otc": otc}
        case RelayErrorFrame(code):
            return {"type": "error", "code": code}
        case BootstrapWatch(jti):
            return {"type": "bootstrap_watch", "jti": jti}
        case BootstrapWatching(jti):
            return {"type": "bootstrap_watching", "jti": jti}
        case BootstrapInit(jti, key, name, proof, mac, token):
            optional = {"friendlyName": name, "proof": proof, "mac": mac, "token": token}
            given = {name: text for name, text in optional.items() if text is not None}
            return {"type": "bootstrap_init", "jti": jti, "targetPubKey": key, **given}
        case BootstrapAck(jti, key, sig):
            return {"type": "bootstrap_ack", "jti": jti, "publicKey": key, "controllerSig": sig}
        case BootstrapAcked(jti, key, sig):
            return {
                "type": "bootstrap_ack",
                "jti": jti,
                "controllerPubKey": key,
                "controllerSig": sig,
            }
        case BootstrapReject(jti, error):
            return {"type": "bootstrap_reject", "jti": jti, "error": error}


# A `data` frame as every known program writes it: these keys, in this order, and a payload in
# which nothing stands for anything else. Most of all frames, read in a fifth of the time; in any
# other spelling the same frame takes the long way, to the same result.
_PLAIN_DATA: Final = re.compile(r'\{"type": ?"data", ?"payload": ?"([ !#-\[\]-~]*)"\}')


def _plain_payload(text: str | bytes) -> str | None:
    if isinstance(text, bytes) or len(text) > MAX_FRAME_BYTES:
        return None
    plain = _PLAIN_DATA.fullmatch(text)
    return plain[1] if plain else None


def _load(text: str | bytes) -> Any:
    if isinstance(text, bytes):
        raise _invalid("a binary frame")
    # A lone surrogate, which no WebSocket can deliver, counts three bytes here.
    if len(text.encode("utf-8", "surrogatepass")) > MAX_FRAME_BYTES:
        raise _invalid(f"a frame over {MAX_FRAME_BYTES} bytes")
    try:
        return load_json(text)
    except Malformed as error:
        raise _invalid(str(error)) from None


def _init(value: dict[str, Any]) -> BootstrapInit:
    def optional(name: str) -> str | None:
        return _field(value[name]) if name in value else None

    return BootstrapInit(
        jti=_jti(value.get("jti")),
        target_public_key=_field(value.get("targetPubKey")),
        friendly_name=optional("friendlyName"),
        proof=optional("proof"),
        mac=optional("mac"),
        token=optional("token"),
    )


def _otc(value: object) -> str:
    if not isinstance(value, str) or not _OTC.fullmatch(value):
        raise BadFrame(ErrorCode.INVALID_OTC, "a code has six digits")
    return value


def _jti(value: object) -> str:
    if not isinstance(value, str) or not _JTI.fullmatch(value):
        raise _invalid("a jti is bt_ and 32 lower-case hexadecimal digits")
    return value


def _identifier(value: object) -> str:
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise _invalid("an error is an identifier of lower-case letters, digits and _")
    return value


def _field(value: object) -> str:
    if not isinstance(value, str):
        raise _invalid("a field is missing or not a text")
    if len(value) > MAX_BOOTSTRAP_FIELD_CHARACTERS:
        raise _invalid(f"a field over {MAX_BOOTSTRAP_FIELD_CHARACTERS} characters")
    return _text(value)


def _text(value: str) -> str:
    # `"\ud800"` is JSON but no text: it cannot be sent on as UTF-8.
    if not value.isascii() and _SURROGATE.search(value):
        raise _invalid("a lone surrogate")
    return value


def _invalid(reason: str) -> BadFrame:
    return BadFrame(ErrorCode.INVALID_MESSAGE, reason)

"""What a device and a relay say to each other; relay.py reads and writes it.

    device -> relay                            relay -> device
    Listen · Connect                           Ack · PeerFound · RelayErrorFrame
    Data · Done                                Data · Done
    BootstrapWatch                             BootstrapWatching
    BootstrapInit                              BootstrapInit, to the watcher
    BootstrapAck · BootstrapReject             BootstrapAcked · BootstrapReject

docs/protocol.md section 4. What is secret or finds a peer never shows in a repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class ErrorCode(StrEnum):
    """Why a relay refused something or ended a session; the list of section 4."""

    INVALID_MESSAGE = "invalid_message"
    UNKNOWN_TYPE = "unknown_type"
    INVALID_OTC = "invalid_otc"
    OTC_IN_USE = "otc_in_use"
    OTC_NOT_FOUND = "otc_not_found"
    OTC_EXPIRED = "otc_expired"
    PEER_ALREADY_CONNECTED = "peer_already_connected"
    PEER_DISCONNECTED = "peer_disconnected"
    RATE_LIMITED = "rate_limited"
    RELAY_CAPACITY = "relay_capacity"
    SESSION_DATA_LIMIT = "session_data_limit"
    TOO_MANY_CONNECTIONS = "too_many_connections"


ERROR_CODES: Final = frozenset(code.value for code in ErrorCode)
# What a device reads in place of an error code that is not in the list: the text is
# whatever the relay wrote, and must not reach a screen.
UNKNOWN_ERROR: Final = "unknown_relay_error"


class Rejection(StrEnum):
    """Why a relay itself refuses a bootstrap frame; watchers give reasons of their own."""

    NO_WATCHER = "no_watcher"
    ALREADY_USED = "token_already_used"
    OVERLOADED = "relay_overloaded"
    ALREADY_WATCHED = "already_watched"


@dataclass(frozen=True, slots=True)
class Listen:
    """A target waits for its controller under the code `otc`, six ASCII digits."""

    otc: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Connect:
    """A controller looks for the target that waits under the code `otc`."""

    otc: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ack:
    """The relay holds the code; it may be shown."""


@dataclass(frozen=True, slots=True)
class PeerFound:
    """Both devices are here; `Data` travels from now on."""


@dataclass(frozen=True, slots=True)
class Data:
    """Something for the other device; the relay hands on `payload` unchanged."""

    payload: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Done:
    """The session is over for both devices."""


@dataclass(frozen=True, slots=True)
class RelayErrorFrame:
    """The relay refused or ended something; `code` is in ERROR_CODES, or UNKNOWN_ERROR."""

    code: str


@dataclass(frozen=True, slots=True)
class BootstrapWatch:
    """A controller waits for the device that holds the token `jti`."""

    jti: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BootstrapWatching:
    """The relay will hand on what is announced for `jti`."""

    jti: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BootstrapInit:
    """A target announces its key to whoever watches `jti` (docs/protocol.md section 6)."""

    jti: str = field(repr=False)
    target_public_key: str
    friendly_name: str | None = None
    proof: str | None = field(default=None, repr=False)
    mac: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class BootstrapAck:
    """The watching controller has recorded the target; sent to the relay."""

    jti: str = field(repr=False)
    public_key: str
    controller_sig: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BootstrapAcked:
    """A `BootstrapAck` as the target receives it."""

    jti: str = field(repr=False)
    controller_public_key: str
    controller_sig: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BootstrapReject:
    """An announcement, or a watch, is refused; `error` is an identifier. Proves nothing."""

    jti: str = field(repr=False)
    error: str


DeviceFrame = (
    Listen | Connect | Data | Done | BootstrapWatch | BootstrapInit | BootstrapAck | BootstrapReject
)
RelayFrame = (
    Ack
    | PeerFound
    | Data
    | Done
    | RelayErrorFrame
    | BootstrapWatching
    | BootstrapInit
    | BootstrapAcked
    | BootstrapReject
)

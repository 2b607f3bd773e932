"""Words that options and arguments take; imported for `--help`, so it imports nothing heavy."""

from __future__ import annotations

from enum import StrEnum


class Pairing(StrEnum):
    """The generations of the ceremony."""

    V2 = "v2"
    V1 = "v1"


class As(StrEnum):
    """What an imported device is to this one."""

    CONTROLLER = "controller"
    TARGET = "target"


class PassphraseAction(StrEnum):
    """What `amesh passphrase` does."""

    CHANGE = "change"


class ConfigAction(StrEnum):
    """What `amesh config` does."""

    LIST = "list"
    GET = "get"
    SET = "set"
    UNSET = "unset"


class TrustAction(StrEnum):
    """What `amesh trust` does."""

    EXTEND = "extend"

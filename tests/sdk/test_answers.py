"""One table from errors to answers, and what the log says of them."""

from __future__ import annotations

import json
import logging

import pytest

from amesh_core import errors
from amesh_core.errors import (
    AllowListTampered,
    AmeshError,
    ClockSkew,
    HomeUnwritable,
    Replayed,
    Unauthenticated,
    UnknownDevice,
)
from amesh_sdk.answers import answer, record
from tests.support.errors import subclasses

# docs/protocol.md section 3, and 500 for what is our own fault.
CODES = {
    400: {"missing_header", "malformed_header", "unsupported_version", "malformed_request"},
    401: {"unauthorized"},
    413: {"payload_too_large"},
    500: {"allow_list_integrity_failure", "internal_error"},
    503: {"unavailable"},
}


ALL = sorted(set(subclasses(AmeshError)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_has_an_answer_that_refuses(kind: type[AmeshError]) -> None:
    what = answer(kind.__new__(kind))
    (key, code), *rest = json.loads(what.body).items()
    assert (key, rest) == ("error", [])
    assert code in CODES[what.status]
    headers = dict(what.headers)
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"content-length"] == str(len(what.body)).encode()
    assert (what.status == 401) == issubclass(kind, Unauthenticated)
    assert (b"www-authenticate" in headers) == (what.status == 401)


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("MissingHeader", 400, "missing_header"),
        ("MalformedHeader", 400, "malformed_header"),
        ("UnsupportedVersion", 400, "unsupported_version"),
        ("MalformedRequest", 400, "malformed_request"),
        ("PayloadTooLarge", 413, "payload_too_large"),
        ("NonceStoreFull", 503, "unavailable"),
        ("NonceStoreUnreachable", 503, "unavailable"),
        ("AllowListTampered", 500, "allow_list_integrity_failure"),
        ("AllowListRolledBack", 500, "allow_list_integrity_failure"),
        ("AllowListMissing", 500, "allow_list_integrity_failure"),
        ("NoIdentity", 500, "internal_error"),
        ("WrongPassphrase", 500, "internal_error"),
        ("UsageError", 500, "internal_error"),
    ],
)
def test_the_answers_of_the_protocol(name: str, status: int, code: str) -> None:
    kind: type[AmeshError] = getattr(errors, name)
    what = answer(kind.__new__(kind))
    assert (what.status, what.body) == (status, f'{{"error":"{code}"}}'.encode())


def test_every_401_is_the_same_byte_for_byte() -> None:
    answers = {answer(kind.__new__(kind)) for kind in subclasses(Unauthenticated)}
    assert len(answers) == 1
    assert answers.pop().body == b'{"error":"unauthorized"}'


def test_the_log_has_the_reason_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    record(ClockSkew(-45, "am_0123456789abcdef"), method="POST", target=b"/orders?token=x")
    (line,) = caplog.records
    assert line.name == "amesh.verify"
    assert line.levelno == logging.WARNING
    fields = {k: vars(line)[k] for k in ("reason", "device_id", "skew_seconds", "method", "path")}
    assert fields == {
        "reason": "clock_skew",
        "device_id": "am_0123456789abcdef",
        "skew_seconds": -45,
        "method": "POST",
        "path": "/orders",
    }


def test_facts_that_are_not_known_are_none(caplog: pytest.LogCaptureFixture) -> None:
    record(UnknownDevice("the key is not on the allow list"))
    assert vars(caplog.records[0])["device_id"] is None
    record(Replayed("am_0123456789abcdef"))
    assert vars(caplog.records[1])["skew_seconds"] is None


def test_our_own_faults_are_errors_that_say_why(caplog: pytest.LogCaptureFixture) -> None:
    record(AllowListTampered("the seal of the allow list does not fit its contents"))
    record(HomeUnwritable("/var/lib/amesh/allow_list.json: Permission denied"))
    assert [line.levelno for line in caplog.records] == [logging.ERROR] * 2
    assert "the seal of the allow list does not fit" in caplog.messages[0]
    assert "/var/lib/amesh/allow_list.json: Permission denied" in caplog.messages[1]


def test_what_a_stranger_wrote_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    evil = "\x1b[2Jx\r\n2026 amesh.verify: accepted am_AAAAAAAAAAAAAAAA\u2028\u202e"
    record(UnknownDevice(evil), method=evil, target=evil.encode() + b"?secret")
    (line,) = caplog.records
    written = [line.getMessage(), vars(line)["method"], vars(line)["path"]]
    assert all(text.isascii() and text.isprintable() for text in written)
    assert "secret" not in "".join(written)


def test_a_long_target_makes_a_short_line(caplog: pytest.LogCaptureFixture) -> None:
    record(UnknownDevice("x"), target=b"/" + b"\n" * 60_000)
    assert len(vars(caplog.records[0])["path"]) < 2_500

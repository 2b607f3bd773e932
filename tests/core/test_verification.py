"""The checks in their order, what each refuses, and how long a nonce is remembered."""

from __future__ import annotations

import asyncio
from dataclasses import FrozenInstanceError
from typing import Any, Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from amesh_core.errors import (
    AmeshError,
    BadSignature,
    ClockSkew,
    MalformedHeader,
    MalformedRequest,
    MissingHeader,
    NonceStoreFull,
    NotAController,
    PayloadTooLarge,
    Replayed,
    TrustExpired,
    UnknownDevice,
    UnsupportedVersion,
    UsageError,
)
from amesh_core.identity import Role
from amesh_core.request import canonical_string
from amesh_core.verification import AuthMeshIdentity, Policy, check_form
from amesh_core.wire import header
from amesh_core.wire.encoding import instant
from tests.support.requests import (
    CONTROLLER,
    NOW,
    STRANGER,
    Request,
    Service,
    listed,
    signed,
    trusting,
)

IDENTITY: Final = AuthMeshIdentity(CONTROLLER.identity.device_id, "laptop", NOW)
GOOD: Final = signed()
VERSION_2: Final = GOOD.changed(authorization=(GOOD.authorization[0].replace(b'v="1"', b'v="2"'),))


def test_a_signed_request_is_let_in() -> None:
    assert Service().authenticate(GOOD) == IDENTITY


def test_in_an_event_loop() -> None:
    class Store:
        """What a shared store is like."""

        def __init__(self) -> None:
            self.spent: set[tuple[str, str]] = set()

        async def spend(self, device_id: str, nonce: str, ttl_seconds: int) -> bool:
            fresh = (device_id, nonce) not in self.spent
            self.spent.add((device_id, nonce))
            return fresh

    async def twice() -> None:
        store = Store()
        verified = check_form(GOOD.head(), Policy()).admit(trusting(), NOW).verify(GOOD.body, NOW)
        assert await verified.aspend(store) == IDENTITY
        with pytest.raises(Replayed):
            await verified.aspend(store)

    asyncio.run(twice())


# --- one check each ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (GOOD.changed(authorization=()), MissingHeader),
        (GOOD.changed(authorization=(b"Bearer abc",)), MalformedHeader),
        (GOOD.changed(authorization=GOOD.authorization * 2), MalformedHeader),
        (VERSION_2, UnsupportedVersion),
        (GOOD.changed(method="post"), MalformedRequest),
        (GOOD.changed(target=b"//evil/api/orders"), MalformedRequest),
    ],
)
def test_the_form(request_: Request, error: type[AmeshError]) -> None:
    with pytest.raises(error):
        check_form(request_.head(), Policy())


def test_an_announced_body_over_the_limit() -> None:
    policy = Policy(max_body_bytes=100)
    check_form(GOOD.head(content_length=100), policy)
    with pytest.raises(PayloadTooLarge) as refusal:
        check_form(GOOD.head(content_length=101), policy)
    assert refusal.value.limit_bytes == 100


def test_a_body_over_the_limit_that_was_not_announced() -> None:
    request = signed(body=bytes(101))
    service = Service(policy=Policy(max_body_bytes=100))
    with pytest.raises(PayloadTooLarge):
        service.authenticate(request)
    assert service.nonces.asked == []


def test_who_may_call() -> None:
    for allow_list, error in (
        (trusting(listed(STRANGER)), UnknownDevice),
        (trusting(listed(CONTROLLER, role=Role.TARGET)), NotAController),
        (trusting(listed(CONTROLLER, role=None)), NotAController),
        (trusting(listed(CONTROLLER, expires_at=instant(NOW))), TrustExpired),
        (trusting(listed(CONTROLLER, expires_at="tomorrow")), TrustExpired),
    ):
        with pytest.raises(error):
            check_form(GOOD.head(), Policy()).admit(allow_list, NOW)
    later = trusting(listed(CONTROLLER, expires_at=instant(NOW + 1)))
    check_form(GOOD.head(), Policy()).admit(later, NOW)


@pytest.mark.parametrize("skew", [0, 30])
def test_clocks(skew: int) -> None:
    claim = check_form(GOOD.head(), Policy(clock_skew_seconds=skew))
    for now in (NOW - skew, NOW, NOW + skew):
        assert claim.admit(trusting(), now).skew_seconds == NOW - now
    for now in (NOW - skew - 1, NOW + skew + 1):
        with pytest.raises(ClockSkew) as refusal:
            claim.admit(trusting(), now)
        assert refusal.value.skew_seconds == NOW - now


def test_the_clock_is_looked_at_again_when_the_body_is_there() -> None:
    admitted = check_form(GOOD.head(), Policy()).admit(trusting(), NOW)
    admitted.verify(GOOD.body, NOW + 30)
    with pytest.raises(ClockSkew):
        admitted.verify(GOOD.body, NOW + 31)


def test_the_signature_is_by_the_listed_key() -> None:
    """The claim names the controller; a stranger signed it."""
    credential = header.parse(GOOD.authorization)
    message = canonical_string(
        "POST", "/api/orders?a=1&b=2", credential.timestamp, credential.nonce, GOOD.body
    )
    stolen = credential._replace(signature=STRANGER.key.sign(message))
    request = GOOD.changed(authorization=(stolen.encode().encode("ascii"),))
    with pytest.raises(BadSignature):
        Service().authenticate(request)
    # The same by the controller is good: nothing else was wrong.
    own = credential._replace(signature=CONTROLLER.key.sign(message))
    Service().authenticate(GOOD.changed(authorization=(own.encode().encode("ascii"),)))


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"target": b"/api/orders?b=2&a=2"},
        {"target": b"/api/orders/?b=2&a=1"},
        {"target": b"/api/orders"},
        {"body": b'{"amount":101}'},
        {"body": b""},
    ],
)
def test_what_is_signed_cannot_be_changed(change: dict[str, Any]) -> None:
    service = Service()
    with pytest.raises(BadSignature):
        service.authenticate(GOOD.changed(**change))
    assert service.nonces.asked == []


@pytest.mark.parametrize("field", [b'ts="', b'nonce="'])
def test_nor_can_the_timestamp_or_the_nonce(field: bytes) -> None:
    line = GOOD.authorization[0]
    at = line.index(field) + len(field) + 9
    changed = line[:at] + (b"0" if line[at : at + 1] != b"0" else b"1") + line[at + 1 :]
    with pytest.raises(BadSignature):
        Service().authenticate(GOOD.changed(authorization=(changed,)))


def test_once() -> None:
    service = Service()
    service.authenticate(GOOD)
    with pytest.raises(Replayed) as refusal:
        service.authenticate(GOOD)
    assert refusal.value.device_id == IDENTITY.device_id


def test_a_full_store_is_no_permission() -> None:
    class Full:
        def spend(self, device_id: str, nonce: str, ttl_seconds: int) -> bool:
            raise NonceStoreFull

    verified = check_form(GOOD.head(), Policy()).admit(trusting(), NOW).verify(GOOD.body, NOW)
    with pytest.raises(NonceStoreFull):
        verified.spend(Full())


# --- their order ------------------------------------------------------------------------


def test_the_order() -> None:
    """One request with every fault; each mended lets the next be seen."""
    service = Service(allow_list=trusting(listed(STRANGER)), now=NOW + 100)
    service.policy = Policy(max_body_bytes=10)
    signature_of_another = signed(body=b"another").authorization[0]
    request = Request("post", b"/a/..", b"too long a body", ())
    length = 15

    def next_error() -> type[AmeshError]:
        try:
            claim = check_form(request.head(length), service.policy)
            admitted = claim.admit(service.allow_list, service.now)
            admitted.verify(request.body, service.now).spend(service.nonces)
        except AmeshError as error:
            return type(error)
        raise AssertionError("let in")

    assert next_error() is MissingHeader
    request = request.changed(authorization=(b"AuthMesh",))
    assert next_error() is MalformedHeader
    request = request.changed(authorization=(signature_of_another.replace(b'"1"', b'"2"'),))
    assert next_error() is UnsupportedVersion
    request = request.changed(authorization=(signature_of_another,))
    assert next_error() is MalformedRequest
    request = request.changed(method="POST")
    assert next_error() is MalformedRequest
    request = request.changed(target=b"/a")
    assert next_error() is PayloadTooLarge
    length = 5
    assert next_error() is UnknownDevice
    service.allow_list = trusting(listed(CONTROLLER, role=None))
    assert next_error() is NotAController
    service.allow_list = trusting(listed(CONTROLLER, expires_at=instant(NOW)))
    assert next_error() is TrustExpired
    service.allow_list = trusting()
    assert next_error() is ClockSkew
    service.now = NOW
    assert next_error() is PayloadTooLarge
    request = request.changed(body=b"short")
    assert next_error() is BadSignature
    assert service.nonces.asked == []
    request = signed(target=b"/a", body=b"short")
    service.authenticate(request)
    assert next_error() is Replayed


def test_a_query_that_is_long_to_sort_waits_for_a_listed_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What strangers can make us do is two regular expressions and one look-up."""

    def canonical(target: str) -> str:
        raise AssertionError("canonicalised for a stranger")

    monkeypatch.setattr("amesh_core.wire.target.canonical", canonical)
    with pytest.raises(UnknownDevice):
        check_form(GOOD.head(), Policy()).admit(trusting(listed(STRANGER)), NOW)


# --- how long a nonce is remembered -----------------------------------------------------


@pytest.mark.parametrize(
    ("stamped_ahead", "ttl_seconds"),
    [
        (-30, 60),  # now + window is later
        (-3, 60),
        (-2, 60),
        (-1, 61),  # ts + 2 x 30 + 2 is later
        (0, 62),
        (30, 92),
    ],
)
def test_until_the_later_of_two_ends(stamped_ahead: int, ttl_seconds: int) -> None:
    service = Service()
    service.authenticate(signed(now=NOW + stamped_ahead))
    assert service.nonces.asked == [(IDENTITY.device_id, "AAECAwQFBgcICQoLDA0ODw", ttl_seconds)]


def test_a_longer_window_is_kept() -> None:
    service = Service(policy=Policy(nonce_window_seconds=600))
    service.authenticate(signed())
    assert service.nonces.asked[0][2] == 600


@given(
    skew=st.integers(0, 300),
    extra_window=st.integers(0, 300),
    stamped=st.integers(-300, 300),
    one=st.integers(-300, 300),
    other=st.integers(-300, 300),
)
def test_no_other_server_accepts_what_the_store_has_forgotten(
    skew: int, extra_window: int, stamped: int, one: int, other: int
) -> None:
    """Two servers with one store, their clocks within the skew of each other."""
    policy = Policy(clock_skew_seconds=skew, nonce_window_seconds=2 * skew + extra_window)
    if abs(stamped - one) > skew or abs(one - other) > skew:
        return
    service = Service(policy=policy, now=NOW + one)
    service.authenticate(signed(now=NOW + stamped))
    ttl_seconds = service.nonces.asked[0][2]
    # When the store forgets, the other's clock shows this at the earliest: a clock that
    # says a second may be at its beginning or at its end.
    other_clock = NOW + other + ttl_seconds - 1
    assert other_clock > NOW + stamped + skew


@pytest.mark.parametrize(
    "fields",
    [
        {"clock_skew_seconds": 120, "nonce_window_seconds": 60},
        {"clock_skew_seconds": 30, "nonce_window_seconds": 59},
        {"clock_skew_seconds": -1},
        {"max_body_bytes": -1},
        {"clock_skew_seconds": float("nan")},
        {"nonce_window_seconds": float("nan")},
        {"clock_skew_seconds": 0, "nonce_window_seconds": -1},
    ],
)
def test_a_policy_that_cannot_work_is_refused_at_once(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Policy(**fields)


def test_the_defaults_work() -> None:
    assert Policy() == Policy(30, 60, 1_048_576)
    Policy(clock_skew_seconds=0, nonce_window_seconds=0, max_body_bytes=0)


# --- what the types give out ------------------------------------------------------------


def test_no_step_gives_out_more_than_the_next() -> None:
    claim = check_form(GOOD.head(), Policy())
    admitted = claim.admit(trusting(), NOW)
    verified = admitted.verify(GOOD.body, NOW)
    assert public(claim) == {"admit"}
    assert public(admitted) == {"verify", "skew_seconds"}
    assert public(verified) == {"spend", "aspend"}


def public(step: object) -> set[str]:
    return {name for name in dir(step) if not name.startswith("_")}


def test_an_identity_stays_what_it_is() -> None:
    identity = Service().authenticate(GOOD)
    for name in ("device_id", "friendly_name", "verified_at"):
        with pytest.raises(FrozenInstanceError):
            setattr(identity, name, "another")


# --- every byte -------------------------------------------------------------------------

_PATHS: Final = st.from_regex(r"(/[A-Za-z0-9!$&'()*+,:;=@_~|%-]{1,6}){1,3}/?", fullmatch=True)
_QUERIES: Final = st.text("abc=&+%~*?/'1", max_size=12)


@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "M-SEARCH"]),
    path=_PATHS.filter(lambda path: "%2e" not in path.lower()),
    query=_QUERIES,
    body=st.binary(max_size=50),
    nonce=st.binary(min_size=16, max_size=16),
)
def test_whatever_is_signed_is_let_in(
    method: str, path: str, query: str, body: bytes, nonce: bytes
) -> None:
    target = f"{path}?{query}".encode("ascii")
    service = Service()
    assert service.authenticate(signed(method, target, body, nonce=nonce)) == IDENTITY


@given(at=st.integers(0, len(GOOD.authorization[0]) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_of_the_header(at: int, byte: int) -> None:
    line = GOOD.authorization[0]
    changed = line[:at] + bytes([byte]) + line[at + 1 :]
    in_id = line.index(b'id="') < at < line.index(b",ts=")
    # The one freedom there is: an id in either alphabet is the same id.
    assume(changed != line and not (in_id and in_url_alphabet(changed) == in_url_alphabet(line)))
    service = Service()
    with pytest.raises(AmeshError):
        service.authenticate(GOOD.changed(authorization=(changed,)))
    assert service.nonces.asked == []


def in_url_alphabet(line: bytes) -> bytes:
    return line.translate(bytes.maketrans(b"+/", b"-_"))


@given(
    name=st.sampled_from(["method", "target", "body"]), at=st.integers(0), byte=st.integers(0, 255)
)
def test_any_changed_byte_of_method_target_or_body(name: str, at: int, byte: int) -> None:
    parts = {"method": b"POST", "target": b"/api/orders", "body": b"some body"}
    good = parts[name]
    at %= len(good)
    assume(good[at] != byte)
    parts[name] = good[:at] + bytes([byte]) + good[at + 1 :]
    request = Request(
        parts["method"].decode("latin-1"),
        parts["target"],
        parts["body"],
        signed("POST", b"/api/orders", b"some body").authorization,
    )
    service = Service()
    with pytest.raises(AmeshError):
        service.authenticate(request)
    assert service.nonces.asked == []

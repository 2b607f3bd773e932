"""Attacks on signed requests that succeed against the Node.js original.

Each ends with what was recorded: which nonces are spent, and whether the honest device still
gets in.
"""

from __future__ import annotations

import logging
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amesh_core.errors import (
    AmeshError,
    BadSignature,
    ClockSkew,
    MalformedRequest,
    NonceStoreFull,
    NotAController,
    Replayed,
    TrustExpired,
    Unauthenticated,
    UnknownDevice,
    UsageError,
)
from amesh_core.identity import Role
from amesh_core.nonces import MemoryNonceStore
from amesh_core.verification import Policy, check_form
from amesh_core.wire import header
from amesh_core.wire.encoding import instant
from tests.support.ceremony import Device
from tests.support.requests import (
    CONTROLLER,
    NOW,
    STRANGER,
    Clock,
    Request,
    Service,
    forged,
    listed,
    signed,
    trusting,
)

LAPTOP_ID: Final = CONTROLLER.identity.device_id


# --- nonces of others -------------------------------------------------------------------


def test_a_bad_signature_does_not_spend_the_nonce_it_carries() -> None:
    service, request = Service(), signed()
    credential = header.parse(request.authorization)
    forgery = credential._replace(signature=STRANGER.key.sign(b"anything"))
    with pytest.raises(BadSignature):
        service.authenticate(request.changed(authorization=(forgery.encode().encode("ascii"),)))
    assert service.nonces.asked == []
    assert service.authenticate(request).device_id == LAPTOP_ID


def test_forgeries_fill_nothing() -> None:
    service = Service()
    for number in range(999):
        nonce = number.to_bytes(16, "big")
        # In the controller's name, signed by somebody else.
        forgery = signed(by=STRANGER, nonce=nonce)
        theirs = header.parse(forgery.authorization)
        claimed = theirs._replace(public_key=CONTROLLER.key.public)
        with pytest.raises(BadSignature):
            service.authenticate(forgery.changed(authorization=(claimed.encode().encode("ascii"),)))
        with pytest.raises(UnknownDevice):
            service.authenticate(forgery)
    assert service.nonces.asked == []
    assert service.authenticate(signed()).device_id == LAPTOP_ID


def test_a_hostile_controller_fills_its_own_share_only() -> None:
    hostile = Device.named("hostile")
    allow_list = trusting(listed(CONTROLLER), listed(hostile))
    store = MemoryNonceStore(clock=Clock(), max_nonces_per_device=50)

    def send(by: Device, number: int) -> str:
        request = signed(by=by, nonce=number.to_bytes(16, "big"))
        claim = check_form(request.head(), Policy())
        return claim.admit(allow_list, NOW).verify(request.body, NOW).spend(store).device_id

    for number in range(50):
        send(hostile, number)
    with pytest.raises(NonceStoreFull):
        send(hostile, 50)
    # The same nonces, and as many, are still the other device's to spend.
    for number in range(50):
        assert send(CONTROLLER, number) == LAPTOP_ID


# --- one path signed, another one reached -----------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        b"/public/../admin",
        b"/public/%2e%2e/admin",
        b"/public/%2E%2e/admin",
        b"/public/.%2e/admin",
        b"/./admin",
        b"/%2e/admin",
        b"//evil/admin",
        b"//admin",
        b"/public\\..\\admin",
        b"\\admin",
        b"http://host/admin",
        b"https://evil/admin",
        b"admin",
        b"/admin#",
        b"/ad\tmin",
        b" /admin",
        b"/admin\n",
    ],
)
def test_a_signature_for_admin_is_good_for_no_other_path(target: bytes) -> None:
    """A WHATWG parser makes `/admin` of each, and a router does not."""
    service = Service()
    request = forged("GET", target, "/admin")
    with pytest.raises(MalformedRequest):
        service.authenticate(request)
    assert service.nonces.asked == []
    # The signature was good, and still is, where it belongs.
    assert service.authenticate(request.changed(target=b"/admin")).device_id == LAPTOP_ID


@given(st.text("ad/.%2eE\\?#:; ", max_size=14))
def test_whatever_is_let_in_for_admin_is_admin(target: str) -> None:
    service = Service()
    request = forged("GET", target.encode("ascii"), "/admin")
    with pytest.raises((MalformedRequest, BadSignature)):
        service.authenticate(request)
    assert service.nonces.asked == []


@pytest.mark.parametrize("target", [b"//", b"/\\", b"?", b"", b"*"])
def test_a_junk_target_is_the_senders_fault(target: bytes) -> None:
    """In Node a target of `//` ends as a 500."""
    with pytest.raises(MalformedRequest):
        Service().authenticate(forged("GET", target, "/"))


def test_a_prefix_is_signed() -> None:
    """Node's middleware, mounted under a prefix, verifies the path without it."""
    request = signed("GET", b"/api/orders", b"")
    with pytest.raises(BadSignature):
        Service().authenticate(request.changed(target=b"/orders"))
    assert Service().authenticate(request).device_id == LAPTOP_ID


def test_bytes_that_are_no_utf8_collide_in_a_query() -> None:
    """An alias of AMv1 that both sides share: pinned here, named in docs/threats.md.

    The application sees the query as it was sent; that one was not the one signed.
    """
    request = signed("GET", b"/x?name=%EF%BF%BD", b"")
    assert Service().authenticate(request.changed(target=b"/x?name=%ff")).device_id == LAPTOP_ID


def test_and_not_in_a_path() -> None:
    request = signed("GET", b"/%EF%BF%BD", b"")
    with pytest.raises(BadSignature):
        Service().authenticate(request.changed(target=b"/%ff"))


# --- time -------------------------------------------------------------------------------


def test_a_skew_wider_than_the_window_is_a_configuration_error() -> None:
    """Node takes 120 s with 60 s, and then a replay after 70 s."""
    with pytest.raises(UsageError):
        Policy(clock_skew_seconds=120, nonce_window_seconds=60)
    with pytest.raises(UsageError):
        Policy(clock_skew_seconds=31)


@pytest.mark.parametrize("ahead", [30, 29, 1, 0, -1, -29, -30])
def test_a_replay_at_any_time(ahead: int) -> None:
    """Defaults; a sender whose clock is `ahead`. Node accepts one 60.03 s after the first."""
    service = Service()
    request = signed(now=NOW + ahead)
    service.authenticate(request)
    for _ in range(400):
        service.passes(0.25)
        with pytest.raises((Replayed, ClockSkew)):
            service.authenticate(request)


def test_the_moment_that_node_missed() -> None:
    service = Service()
    request = signed(now=NOW + 30)
    service.authenticate(request)
    service.passes(60.03)
    # The timestamp is still good, so only the nonce stands in the way.
    with pytest.raises(Replayed):
        service.authenticate(request)


def test_a_head_sent_in_time_and_a_body_held_back() -> None:
    """Who captured a request keeps a connection open until its nonce is forgotten."""
    service, request = Service(), signed()
    waiting = check_form(request.head(), service.policy).admit(service.allow_list, service.now)
    service.authenticate(request)
    service.passes(200)
    assert service.nonces.spend("am_other", "nonce", 1)  # time passes in the store too
    with pytest.raises(ClockSkew):
        waiting.verify(request.body, service.now).spend(service.nonces)


def test_a_body_held_back_for_less() -> None:
    service, request = Service(), signed()
    waiting = check_form(request.head(), service.policy).admit(service.allow_list, service.now)
    service.authenticate(request)
    service.passes(30)
    with pytest.raises(Replayed):
        waiting.verify(request.body, service.now).spend(service.nonces)


# --- who ----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [None, Role.TARGET])
def test_an_unknown_or_missing_role_gets_nowhere(role: Role | None) -> None:
    """In Node both count as a controller. An unknown role is None here: test_allow_list.py."""
    service = Service(allow_list=trusting(listed(CONTROLLER, role=role)))
    with pytest.raises(NotAController):
        service.authenticate(signed())
    assert service.nonces.asked == []


def test_an_expired_device() -> None:
    service = Service(allow_list=trusting(listed(CONTROLLER, expires_at=instant(NOW + 10))))
    service.authenticate(signed(nonce=bytes(16)))
    service.passes(10)
    with pytest.raises(TrustExpired):
        service.authenticate(signed())
    assert len(service.nonces.asked) == 1


def test_a_revoked_device() -> None:
    service = Service()
    service.authenticate(signed(nonce=bytes(16)))
    service.allow_list = service.allow_list.revoke(service.allow_list.devices[0])
    with pytest.raises(UnknownDevice):
        service.authenticate(signed())


def test_an_id_that_is_not_the_signers_key() -> None:
    """Requests are matched by key bytes: nothing a sender says of itself is looked up."""
    request = signed(by=STRANGER)
    with pytest.raises(UnknownDevice):
        Service().authenticate(request)


# --- bodies and signatures ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"\xff", b"\xfe"),
        (b"\xff", "\ufffd".encode()),
        (b"\x80\xc0", b"\xc0\x80"),
        (b'{"a": 1}', b'{"a":1}'),
        (b"\xef\xbb\xbf{}", b"{}"),
        (b"a\r\n", b"a\n"),
        (b"", b"\x00"),
    ],
)
def test_bodies_do_not_share_a_signature(one: bytes, other: bytes) -> None:
    request = signed(body=one)
    with pytest.raises(BadSignature):
        Service().authenticate(request.changed(body=other))
    assert Service().authenticate(request).device_id == LAPTOP_ID


def test_binary_bodies_and_none() -> None:
    for body in (bytes(range(256)), b"", b"\x00" * 1000):
        assert Service().authenticate(signed(body=body)).device_id == LAPTOP_ID


def test_the_other_signature_of_a_pair_is_not_accepted() -> None:
    """(r, n - s) verifies too: accepted, each request would have two signatures."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    request = signed()
    credential = header.parse(request.authorization)
    r, s = credential.signature[:32], int.from_bytes(credential.signature[32:], "big")
    twin = credential._replace(signature=r + (order - s).to_bytes(32, "big"))
    service = Service()
    with pytest.raises(BadSignature):
        service.authenticate(request.changed(authorization=(twin.encode().encode("ascii"),)))
    assert service.nonces.asked == []


def test_what_is_refused_says_no_more_than_that() -> None:
    """A 401 has one body; an error's text is for the log, and has nothing of the request."""
    request = signed(target=b"/secret-path?token=secret-token", body=b"secret-body")
    line = request.authorization[0].decode("ascii")
    changed = request.changed(body=b"secret-body!")
    with pytest.raises(Unauthenticated) as refusal:
        Service().authenticate(changed)
    for secret in ("secret", line, header.parse([line]).nonce):
        assert secret not in str(refusal.value)
        assert secret not in repr(refusal.value)


def test_nothing_is_logged_here(caplog: pytest.LogCaptureFixture) -> None:
    """The core is silent: what an adapter logs is its own, and is tested there."""
    caplog.set_level(logging.DEBUG)
    service, request = Service(), signed()
    service.authenticate(request)
    for bad in (request, request.changed(body=b"x"), Request("GET", b"//", b"", ())):
        with pytest.raises(AmeshError):
            service.authenticate(bad)
    assert caplog.records == []

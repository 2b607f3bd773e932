"""Which announcement leads to an entry, and which to none: the controller's table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from amesh_core import admission
from amesh_core.admission import Announced
from amesh_core.allow_list import AllowList
from amesh_core.errors import (
    AlreadyListed,
    AmeshError,
    BadAnnouncement,
    OwnKey,
    TokenNotUsable,
    TokenUsedTwice,
)
from amesh_core.identity import Role
from amesh_core.provisioning import mint
from amesh_core.wire.encoding import b64, instant
from amesh_core.wire.provisioned import Minted
from tests.support.bootstrap_target import SoftKey, TokenHolder
from tests.support.home import NOW, peer_of

CONTROLLER = SoftKey()
TEXT = mint(
    CONTROLLER,
    name="prod-server",
    relay="wss://relay.example/ws",
    ttl_seconds=3600,
    now=NOW,
    jti_random=bytes(16),
)
OTHER_TEXT = mint(
    CONTROLLER,
    name="prod-server",
    relay="wss://relay.example/ws",
    ttl_seconds=3600,
    now=NOW,
    jti_random=bytes(range(16)),
)
MINTED = admission.remember(TEXT, for_node=False)
FOR_NODE = admission.remember(TEXT, for_node=True)
EMPTY = AllowList.empty(CONTROLLER.public, NOW)
LATER = NOW + 60


@dataclass
class Target:
    """One holder of the token, and its announcement as `verify` gives it out."""

    key: SoftKey = field(default_factory=SoftKey)

    @property
    def holder(self) -> TokenHolder:
        return TokenHolder(TEXT, self.key)

    @property
    def announced(self) -> Announced:
        return admission.verify(self.holder.init(), MINTED)


def listed(target: Target, role: Role) -> AllowList:
    """A list that has the target for another reason than this token."""
    peer = peer_of(target.key.private, "an old friend", role)
    return EMPTY.record(peer, added_by="handshake", now=NOW, limit=1)


def test_what_is_kept_of_a_token() -> None:
    assert replace(MINTED, token_hash=b"") == Minted(
        jti="bt_" + "0" * 32,
        token_hash=b"",
        name="prod-server",
        relay="wss://relay.example/ws",
        minted_at=instant(int(NOW)),
        expires_at=instant(int(NOW) + 3600),
    )


def test_the_first_one_is_recorded_under_the_minted_name() -> None:
    target = Target()
    outcome = target.announced.admit(MINTED, EMPTY, LATER)
    assert outcome.minted == replace(MINTED, used_by=target.holder.key.public)
    assert outcome.allow_list.devices == (outcome.device,)
    assert outcome.device.public_key == target.holder.key.public
    assert outcome.device.device_id == target.holder.device_id
    assert outcome.device.friendly_name == "prod-server"
    assert outcome.device.role is Role.TARGET
    assert outcome.device.added_by == "bootstrap"
    assert outcome.device.pairing == "bootstrap"
    assert outcome.device.expires_at is None
    assert target.announced.friendly_name == "container 7"


def test_a_name_in_use_gets_the_id() -> None:
    first = Target().announced.admit(MINTED, EMPTY, LATER)
    second = Target()
    other = replace(MINTED, jti="bt_" + "1" * 32)
    outcome = second.announced.admit(other, first.allow_list, LATER)
    assert outcome.device.friendly_name == f"prod-server ({second.holder.device_id})"


def test_the_same_key_again_changes_nothing() -> None:
    target = Target()
    first = target.announced.admit(MINTED, EMPTY, LATER)
    recorded = replace(first.minted, recorded_at=instant(LATER))
    for minted in (first.minted, recorded):
        again = target.announced.admit(minted, first.allow_list, LATER + 60)
        assert again.minted == minted
        assert again.allow_list is first.allow_list
        assert again.device == first.device


def test_what_a_crash_cut_off_is_completed() -> None:
    target = Target()
    begun = replace(MINTED, used_by=target.holder.key.public)
    outcome = target.announced.admit(begun, EMPTY, LATER)
    assert [device.device_id for device in outcome.allow_list.devices] == [target.holder.device_id]


def cases() -> list[tuple[str, Minted, AllowList, type[AmeshError]]]:
    other = SoftKey().public
    return [
        ("cancelled", replace(MINTED, cancelled_at=instant(NOW)), EMPTY, TokenNotUsable),
        ("expired", replace(MINTED, expires_at=instant(LATER)), EMPTY, TokenNotUsable),
        ("used by another key", replace(MINTED, used_by=other), EMPTY, TokenUsedTwice),
        ("a controller", MINTED, listed(TARGET, Role.CONTROLLER), AlreadyListed),
        ("a target by pairing", MINTED, listed(TARGET, Role.TARGET), AlreadyListed),
        (
            "a controller by now",
            replace(MINTED, used_by=TARGET.holder.key.public),
            listed(TARGET, Role.CONTROLLER),
            AlreadyListed,
        ),
        (
            "revoked since",
            replace(MINTED, used_by=TARGET.holder.key.public, recorded_at=instant(NOW)),
            EMPTY,
            TokenNotUsable,
        ),
    ]


TARGET = Target()


@pytest.mark.parametrize(
    ("minted", "allow_list", "error"),
    [case[1:] for case in cases()],
    ids=[case[0] for case in cases()],
)
def test_refused(minted: Minted, allow_list: AllowList, error: type[AmeshError]) -> None:
    with pytest.raises(error):
        TARGET.announced.admit(minted, allow_list, LATER)


def test_a_device_does_not_provision_itself() -> None:
    """Who has the controller's key and the token is the controller."""
    own = TokenHolder(TEXT, CONTROLLER)
    with pytest.raises(OwnKey):
        admission.verify(own.init(), MINTED).admit(MINTED, EMPTY, LATER)


def test_an_expired_token_used_by_another_key_says_expired() -> None:
    """The order of section 6: unexpired first, then by whom it was used."""
    minted = replace(MINTED, used_by=SoftKey().public, expires_at=instant(LATER))
    with pytest.raises(TokenNotUsable):
        TARGET.announced.admit(minted, EMPTY, LATER)


# --- the sender -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"mac": b64(bytes(32))},
        {"proof": b64(bytes(64))},
        {"friendly_name": "another"},
        {"target_public_key": b64(SoftKey().public)},
        {"jti": "bt_" + "f" * 32},
        {"mac": None},
        {"proof": None},
        {"token": TEXT},
        {"mac": None, "proof": None, "token": TEXT},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_who_does_not_prove_it_is_not_heard(changes: dict[str, Any]) -> None:
    with pytest.raises(BadAnnouncement):
        admission.verify(replace(TARGET.holder.init(), **changes), MINTED)


def test_the_token_of_another_jti_proves_nothing() -> None:
    frame = replace(TokenHolder(OTHER_TEXT).init(), jti=MINTED.jti)
    with pytest.raises(BadAnnouncement):
        admission.verify(frame, MINTED)


def test_a_node_target_is_recorded_as_unproven() -> None:
    announced = admission.verify(TARGET.holder.node_init(), FOR_NODE)
    assert not announced.proven
    outcome = announced.admit(FOR_NODE, EMPTY, LATER)
    assert outcome.device.pairing == "bootstrap-unproven"
    assert outcome.device.friendly_name == "prod-server"


def test_a_node_target_may_leave_out_its_name_and_print_the_prefix() -> None:
    frame = replace(TARGET.holder.node_init(), friendly_name=None, token=f"amesh-bt-v1.{TEXT}")
    assert admission.verify(frame, FOR_NODE).friendly_name is None


def test_a_target_that_proves_its_key_does_so_with_any_token() -> None:
    assert admission.verify(TARGET.holder.init(), FOR_NODE).proven


@pytest.mark.parametrize(
    "changes",
    [
        {"token": OTHER_TEXT},
        {"token": ""},
        {"token": "\ud800"},
        {"token": None},
        {"proof": b64(bytes(64))},
        {"mac": b64(bytes(32))},
        {"target_public_key": b64(b"\x02" + b"\xff" * 32)},
        {"target_public_key": ""},
        {"jti": "bt_" + "f" * 32},
    ],
)
def test_a_node_form_without_the_token_is_nothing(changes: dict[str, Any]) -> None:
    with pytest.raises(BadAnnouncement):
        admission.verify(replace(TARGET.holder.node_init(), **changes), FOR_NODE)


def test_the_node_form_is_only_for_tokens_minted_for_it() -> None:
    with pytest.raises(BadAnnouncement):
        admission.verify(TARGET.holder.node_init(), MINTED)

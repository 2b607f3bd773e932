"""Two paired devices for each module, as real servers take a while to start."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.sdk.devices import Device, make_controller, make_stranger, make_target


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Device:
    return make_target(tmp_path_factory.mktemp("devices"))


@pytest.fixture(scope="module")
def controller(target: Device) -> Device:
    return make_controller(target)


@pytest.fixture(scope="module")
def stranger(target: Device) -> Device:
    return make_stranger(target)


@pytest.fixture
def trusted_again(target: Device, controller: Device) -> Iterator[None]:
    """For a test that changes who is trusted: afterwards it is the controller, and nobody else.

    By new entries: the old file put back would be taken for a list rolled back, as it should.
    """
    yield
    with target.home.editing_allow_list(time.time()) as edit:
        for device in edit.allow_list.devices:
            edit.allow_list = edit.allow_list.revoke(device)
    target.trust(controller)

"""A TPM in software, and a device whose keys it makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from amesh_core.keystore.tpm2.chip import chip
from tests.support.swtpm import SoftwareTpm, software_tpm
from tests.support.tpm_device import Device, Tools


@pytest.fixture
def tpm() -> Iterator[SoftwareTpm]:
    with software_tpm() as running:
        yield running
        chip(running.tcti).close()


@pytest.fixture
def device(tmp_path: Path, tpm: SoftwareTpm) -> Device:
    return Device(tmp_path, tpm.tcti)


@pytest.fixture
def tools(tmp_path: Path, tpm: SoftwareTpm) -> Tools:
    return Tools(tpm, tmp_path / "tools")

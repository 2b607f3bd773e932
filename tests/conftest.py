"""What holds for every test."""

from __future__ import annotations

import pytest

from amesh_core.keystore import tpm2


@pytest.fixture(autouse=True)
def not_the_chip_of_whoever_runs_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is made without naming a back end would leave traces in it."""
    monkeypatch.setattr(tpm2, "DEVICE", "/dev/no-such-tpm")
    for name in ("AMESH_TPM_TCTI", "TPM2TOOLS_TCTI"):
        monkeypatch.delenv(name, raising=False)

"""Signatures of a key in a TPM against the bare ESAPI call, on one simulator

Ours includes the digest, the lock, the numbers put into 64 bytes, and low-S; bare is nothing but
`ESAPI.sign` with everything made beforehand. A chip is a hundred times slower than the simulator,
and what is ours is not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from amesh_core import crypto
from amesh_core.keystore import Means, tpm2
from amesh_core.keystore.tpm2.chip import chip
from amesh_core.keystore.tpm2.connection import load_library
from amesh_core.wire.tss2 import PARENT_TEMPLATE, LoadableKey
from bench.measuring import one_core
from bench.report import Row
from tests.support.swtpm import software_tpm

ROUNDS: Final = 41
CALLS: Final = 25
MESSAGE: Final = b"what a request's signature covers has some 150 bytes" * 3


def run() -> list[Row]:
    """Both in turn, by the clock: most of the time is the simulator's."""
    with tempfile.TemporaryDirectory() as scratch, software_tpm() as tpm:
        directory = Path(scratch)
        key = tpm2.open_store(directory, Means(bytes, tpm.tcti)).create()
        (pem,) = (directory / "keys").glob("*.pem")
        chip(tpm.tcti).close()
        bare = _bare(tpm.tcti, pem)
        # One core for us; the simulator takes the other.
        with one_core():
            rounds = [(_seconds(bare), _seconds(lambda: key.sign(MESSAGE))) for _ in range(ROUNDS)]
        macs = median(_seconds(lambda: key.mac(MESSAGE)) for _ in range(5))
        chip(tpm.tcti).close()
    rounds = rounds[1:]  # the first warms up
    rates = [1 / median(column) for column in zip(*rounds, strict=True)]
    share = median(one / other for one, other in rounds)
    return [
        Row("ESAPI.sign alone", f"{rates[0]:,.0f}/s"),
        Row("a key in a TPM signs", f"{rates[1]:,.0f}/s"),
        Row("of the bare call", f"{share:.0%}", ">= 85 %", share >= 0.85),
        Row("a key in a TPM seals", f"{1 / macs:,.0f}/s"),
    ]


def _bare(tcti: str, pem: Path) -> Callable[[], object]:
    tss = load_library()
    esapi = tss.ESAPI(tcti)
    key = LoadableKey.parse(pem.read_bytes())
    area, _ = tss.TPMT_PUBLIC.unmarshal(PARENT_TEMPLATE)
    parent, *_ = esapi.create_primary(
        tss.TPM2B_SENSITIVE_CREATE(), tss.TPM2B_PUBLIC(publicArea=area), tss.ESYS_TR.OWNER
    )
    public, _ = tss.TPM2B_PUBLIC.unmarshal(key.public)
    private, _ = tss.TPM2B_PRIVATE.unmarshal(key.private)
    handle = esapi.load(parent, private, public)
    esapi.flush_context(parent)
    scheme = tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.NULL)
    unchecked = tss.TPMT_TK_HASHCHECK(tag=tss.TPM2_ST.HASHCHECK, hierarchy=tss.TPM2_RH.NULL)
    digest = crypto.sha256(MESSAGE)
    return lambda: esapi.sign(handle, digest, scheme, unchecked)


def _seconds(call: Callable[[], object]) -> float:
    begin = perf_counter()
    for _ in range(CALLS):
        call()
    return (perf_counter() - begin) / CALLS

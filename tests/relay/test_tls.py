"""A certificate that is renewed while the relay runs, and one that cannot be used."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from amesh_core.errors import UsageError
from amesh_core.wire import relay as wire
from amesh_relay.tls import Certificate as Served
from tests.support.blocking_device import device
from tests.support.relay import RelayProcess, relay_process
from tests.support.relay_commands import relay_with
from tests.support.tls import Certificate, make_certificate


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    """What the relay serves."""
    (tmp_path / "served").mkdir()
    return make_certificate(tmp_path / "served")


@pytest.fixture
def renewed(tmp_path: Path) -> Certificate:
    """What whoever renews certificates puts in its place."""
    (tmp_path / "renewed").mkdir()
    return make_certificate(tmp_path / "renewed")


def options(certificate: Certificate) -> tuple[str, ...]:
    return ("--certfile", str(certificate.certificate), "--keyfile", str(certificate.key))


def shown(relay: RelayProcess) -> str:
    """The certificate that a client sees now."""
    return ssl.get_server_certificate((relay.host, relay.port), timeout=20)


def put(source: Path, place: Path) -> None:
    """As renewals do it: a new file takes the place of the old one."""
    aside = place.with_suffix(".new")
    shutil.copy(source, aside)
    aside.replace(place)


@pytest.mark.parametrize("half", ["key", "certificate"])
def test_a_renewed_certificate_is_shown_from_then_on(
    certificate: Certificate, renewed: Certificate, half: str
) -> None:
    steps = [(renewed.key, certificate.key), (renewed.certificate, certificate.certificate)]
    first, second = steps if half == "key" else reversed(steps)
    old = certificate.certificate.read_text()
    with (
        relay_process(*options(certificate)) as relay,
        device(relay, trust=certificate.for_client()) as inside,
    ):
        assert shown(relay) == old
        put(*first)
        relay.process.send_signal(signal.SIGHUP)
        # Half of a renewal: the other half is not there yet.
        relay.says("the new certificate cannot be used, the old one stays")
        assert "the certificate is not for this key" in relay.log()
        assert shown(relay) == old
        put(*second)
        relay.process.send_signal(signal.SIGHUP)
        relay.says("the certificate was loaded again")
        assert shown(relay) == renewed.certificate.read_text()
        certificate.key.unlink()
        relay.process.send_signal(signal.SIGHUP)
        relay.says("key.pem: no such file or directory")
        assert shown(relay) == renewed.certificate.read_text()
        assert inside.listens("123456") == wire.Ack()


def test_it_is_noticed_without_a_signal(certificate: Certificate, renewed: Certificate) -> None:
    command = relay_with(process__CERTIFICATE_SECONDS=0.0)
    with relay_process(*options(certificate), command=command) as relay:
        put(renewed.key, certificate.key)
        put(renewed.certificate, certificate.certificate)
        relay.says("the certificate was loaded again")
        assert shown(relay) == renewed.certificate.read_text()


def test_both_in_one_file(certificate: Certificate) -> None:
    with certificate.certificate.open("a") as file:
        file.write(certificate.key.read_text())
    with relay_process("--certfile", str(certificate.certificate)) as relay:
        assert shown(relay) in certificate.certificate.read_text()


def test_nothing_is_loaded_that_did_not_change(
    certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    served = Served(certificate.certificate, certificate.key)
    served.refresh()
    assert caplog.text == ""
    os.utime(certificate.key, ns=(1, 1))
    served.refresh()
    assert "loaded again" in caplog.text


def encrypt(key: Path) -> None:
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )


@pytest.mark.parametrize(
    ("defect", "said"),
    [
        ("mismatch", "certificate.pem and {key}: the certificate is not for this key"),
        ("no key", "{key}: no such file or directory"),
        ("no certificate", "certificate.pem: no such file or directory"),
        ("a directory", "{key}: is a directory"),
        ("garbage", "certificate.pem and {key}: no certificate with its private key, in PEM"),
        ("no key in it", "certificate.pem: no certificate with its private key, in PEM"),
        ("encrypted", "the private key is encrypted; a relay starts without a passphrase"),
    ],
)
def test_one_that_cannot_be_used(
    certificate: Certificate, renewed: Certificate, defect: str, said: str
) -> None:
    key: Path | None = certificate.key
    match defect:
        case "mismatch":
            put(renewed.key, certificate.key)
        case "no key":
            certificate.key.unlink()
        case "no certificate":
            certificate.certificate.unlink()
        case "a directory":
            certificate.key.unlink()
            certificate.key.mkdir()
        case "garbage":
            certificate.certificate.write_text("garbage")
        case "no key in it":
            key = None
        case _:
            encrypt(certificate.key)
    with pytest.raises(UsageError) as raised:
        Served(certificate.certificate, key)
    assert str(raised.value).endswith(said.format(key=key))


def test_it_is_said_before_anything_listens(certificate: Certificate, renewed: Certificate) -> None:
    put(renewed.key, certificate.key)
    for check in ([], ["--check-config"]):
        done = subprocess.run(
            [sys.executable, "-m", "amesh_relay", *check, "--port", "0", *options(certificate)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"error: {certificate.certificate} and {certificate.key}: "
            "the certificate is not for this key\n"
        )

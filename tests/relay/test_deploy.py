"""What stands in deploy/: proxies are really run in front of a relay, the rest is looked through.

Only what differs on this machine is replaced in the snippets: ports, and where certificates are.
"""

from __future__ import annotations

import asyncio
import configparser
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from amesh_core.io import relay_line
from amesh_core.wire import relay as wire
from amesh_relay import config
from tests.support.asgi import Served
from tests.support.blocking_device import BlockingDevice
from tests.support.ports import free_port
from tests.support.proxy import wait_until_it_listens
from tests.support.relay import RelayProcess, relay_process
from tests.support.tls import make_certificate

DEPLOY: Final = Path(__file__).resolve().parents[2] / "deploy"
STOP_SECONDS: Final = 20


@contextmanager
def running(
    program: str, *argv: str, port: int, directory: Path, variables: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A proxy, from its first accepted connection to its end."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    assert path, f"this test needs {program}: make parts"
    log = directory / f"{program}.log"
    with (
        log.open("wb") as said,
        subprocess.Popen(
            [path, *argv], stdout=said, stderr=said, env={**os.environ, **(variables or {})}
        ) as process,
    ):
        try:
            try:
                wait_until_it_listens(Served("127.0.0.1", port), process)
            except AssertionError:
                raise AssertionError(log.read_text()) from None
            yield
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def changed(name: str, *pairs: tuple[str, str]) -> str:
    """A file of deploy/ with other ports and paths; each has to be in it, so that it is run."""
    text = (DEPLOY / name).read_text()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def by_nginx(relay: RelayProcess, directory: Path) -> Iterator[tuple[int, Path]]:
    port, served = free_port(), make_certificate(directory)
    site = changed(
        "nginx.conf",
        ("127.0.0.1:3001", f"127.0.0.1:{relay.port}"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("    listen [::]:443 ssl;\n", ""),
        ("/etc/letsencrypt/live/relay.example.org/fullchain.pem", str(served.certificate)),
        ("/etc/letsencrypt/live/relay.example.org/privkey.pem", str(served.key)),
    )
    places = "".join(
        f"{kind}_temp_path {directory}/{kind}; "
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;\n"
        f"events {{ }}\nhttp {{ access_log off; {places}\n{site} }}\n"
    )
    argv = ("-p", str(directory), "-c", str(directory / "nginx.conf"))
    with running("nginx", *argv, port=port, directory=directory):
        yield port, served.certificate


@contextmanager
def by_haproxy(relay: RelayProcess, directory: Path) -> Iterator[tuple[int, Path]]:
    port, served = free_port(), make_certificate(directory)
    both = directory / "relay.pem"
    both.write_bytes(served.certificate.read_bytes() + served.key.read_bytes())
    (directory / "haproxy.cfg").write_text(
        changed(
            "haproxy.cfg",
            ("127.0.0.1:3001 ", f"127.0.0.1:{relay.port} "),
            ("bind :443", f"bind 127.0.0.1:{port}"),
            ("/etc/haproxy/relay.pem", str(both)),
        )
    )
    argv = ("-db", "-f", str(directory / "haproxy.cfg"))
    with running("haproxy", *argv, port=port, directory=directory):
        yield port, served.certificate


@contextmanager
def by_haproxy_with_tls_at_the_relay(
    relay: RelayProcess, directory: Path
) -> Iterator[tuple[int, Path]]:
    """As its comment says: TLS is passed on."""
    port = free_port()
    (directory / "haproxy.cfg").write_text(
        changed(
            "haproxy.cfg",
            ("127.0.0.1:3001 ", f"127.0.0.1:{relay.port} "),
            ("bind :443 ssl crt /etc/haproxy/relay.pem", f"bind 127.0.0.1:{port}"),
            ("check check-send-proxy", "check check-send-proxy check-ssl verify none"),
        )
    )
    argv = ("-db", "-f", str(directory / "haproxy.cfg"))
    with running("haproxy", *argv, port=port, directory=directory):
        yield port, directory / "certificate.pem"


@contextmanager
def by_caddy(relay: RelayProcess, directory: Path) -> Iterator[tuple[int, Path]]:
    port = free_port()
    # A certificate of an authority of its own, as nobody outside can reach this machine.
    alone = (
        "{\n\tadmin off\n\tlocal_certs\n\tskip_install_trust\n\tauto_https disable_redirects\n}\n"
    )
    (directory / "Caddyfile").write_text(alone + changed("Caddyfile"))
    variables = {
        "RELAY_HOST": f"https://127.0.0.1:{port}",
        "RELAY_UPSTREAM": f"127.0.0.1:{relay.port}",
        "HOME": str(directory),
        "XDG_DATA_HOME": str(directory),
        "XDG_CONFIG_HOME": str(directory),
    }
    argv = ("run", "--adapter", "caddyfile", "--config", str(directory / "Caddyfile"))
    with running("caddy", *argv, port=port, directory=directory, variables=variables):
        authority = directory / "caddy/pki/authorities/local/root.crt"
        until = time.monotonic() + STOP_SECONDS
        while not has_its_certificate(port, authority):
            assert time.monotonic() < until, (directory / "caddy.log").read_text()
        yield port, authority


def has_its_certificate(port: int, authority: Path) -> bool:
    """Caddy listens first, and gets one then."""
    try:
        trust = ssl.create_default_context(cafile=authority)
        with socket.create_connection(("127.0.0.1", port), STOP_SECONDS) as raw:
            trust.wrap_socket(raw, server_hostname="127.0.0.1").close()
    except (FileNotFoundError, ssl.SSLError):
        return False
    return True


Front = Callable[[RelayProcess, Path], AbstractContextManager[tuple[int, Path]]]
HEADER: Final = ("--trusted-proxy", "127.0.0.1")
PROXY_PROTOCOL: Final = (*HEADER, "--proxy-protocol")


@pytest.mark.parametrize(
    ("front", "options"),
    [
        (by_nginx, HEADER),
        (by_caddy, HEADER),
        (by_haproxy, PROXY_PROTOCOL),
        (by_haproxy_with_tls_at_the_relay, PROXY_PROTOCOL),
    ],
)
def test_devices_pair_through_a_real_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, front: Front, options: tuple[str, ...]
) -> None:
    if front is by_haproxy_with_tls_at_the_relay:
        served = make_certificate(tmp_path)
        options += ("--certfile", str(served.certificate), "--keyfile", str(served.key))
    with (
        relay_process(*options, "--max-connections-per-address", "2") as relay,
        front(relay, tmp_path) as (port, authority),
    ):
        trust = ssl.create_default_context(cafile=authority)

        def device(address: str, forged: bytes = b"") -> BlockingDevice:
            raw = socket.create_connection(
                ("127.0.0.1", port), STOP_SECONDS, source_address=(address, 0)
            )
            lines = b"X-Forwarded-For: %b\r\n" % forged if forged else b""
            return BlockingDevice(trust.wrap_socket(raw, server_hostname="127.0.0.1"), lines=lines)

        # Each client has its own two places, and what it writes itself gives it no others.
        with (
            device("127.0.0.2") as target,
            device("127.0.0.2", b"203.0.113.9") as second,
            device("127.0.0.3") as controller,
        ):
            assert target.listens("123456") == second.listens("654321") == wire.Ack()
            with device("127.0.0.2", b"203.0.113.9") as third:
                assert third.hear() == wire.RelayErrorFrame("too_many_connections")
            controller.say(wire.Connect("123456"))
            assert controller.hear() == target.hear() == wire.PeerFound()
            controller.say(wire.Data("A" * 60_000))
            assert target.hear() == wire.Data("A" * 60_000)
            target.say(wire.Done())
            assert controller.hear() == wire.Done()

        async def meet() -> None:
            url = f"wss://127.0.0.1:{port}/ws"
            async with relay_line.connected(url) as one, relay_line.connected(url) as other:
                await one.ask(wire.Listen("111111"), wire.Ack())
                await other.ask(wire.Connect("111111"), wire.PeerFound())

        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        asyncio.run(meet())
        if front in (by_nginx, by_caddy):
            assert [status(trust, port, path) for path in ("/health", "/metrics", "/ready")] == [
                *(200, 404, 404)
            ]


def status(trust: ssl.SSLContext, port: int, path: str) -> int:
    with (
        socket.create_connection(("127.0.0.1", port), STOP_SECONDS) as raw,
        trust.wrap_socket(raw, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % path.encode())
        return int(secure.recv(65536).split()[1])


# --- systemd ----------------------------------------------------------------------------


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with the relay of this environment."""
    ours = str(Path(sys.executable).parent / "amesh-relay")
    for name in ("amesh-relay.service", "amesh-relay.socket"):
        text = (DEPLOY / name).read_text().replace("/opt/amesh/bin/amesh-relay", ours)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_systemd_understands_the_units(units: Path) -> None:
    paths = [str(units / name) for name in ("amesh-relay.service", "amesh-relay.socket")]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "amesh-relay" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_service_has_little_to_gain_from(units: Path) -> None:
    """systemd's own measure, from 0 (nothing is exposed) to 10."""
    done = subprocess.run(
        [
            *("systemd-analyze", "security", "--offline=true", "--json=short", "--threshold=20"),
            str(units / "amesh-relay.service"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    exposed = {row["name"] for row in json.loads(done.stdout) if row["exposure"]}
    for closed in ("NoNewPrivileges=", "ProtectSystem=", "PrivateDevices=", "ProtectHome="):
        assert closed not in exposed


class Unit(configparser.RawConfigParser):
    """A unit of systemd: a name may come twice, and keeps its case."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def test_the_service_waits_for_pairings_and_is_watched() -> None:
    unit = Unit(strict=False)
    unit.read(DEPLOY / "amesh-relay.service")
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert int(service["TimeoutStopSec"]) > config.Config().drain_seconds
    assert int(service["WatchdogSec"]) > 1
    assert int(service["LimitNOFILE"]) > config.Config().limits.max_connections
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"


# --- containers -------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile, continued lines put together."""
    text = (DEPLOY / "Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def test_the_image_runs_as_nobody_and_says_how_it_is() -> None:
    found = instructions()
    names = [name for name, _ in found]
    assert "ADD" not in names, "it would fetch and unpack what it is given"
    assert names.count("USER") == names.count("HEALTHCHECK") == names.count("ENTRYPOINT") == 1
    user = dict(found)["USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "Kubernetes wants numbers"
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in ("RUN", "COPY"))
    for image in [value.split()[0] for name, value in found if name == "FROM"]:
        assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", image), "a version, not whatever is new"
    assert json.loads(dict(found)["ENTRYPOINT"]) == ["/opt/amesh/bin/amesh-relay"]
    assert not [value for name, value in found if name in ("ENV", "ARG") and "TOKEN" in value]


def test_the_health_check_of_the_image_works() -> None:
    check = dict(instructions())["HEALTHCHECK"]
    interpreter, *argv = json.loads(check.partition("CMD ")[2])
    assert interpreter == "/opt/amesh/bin/python"
    with relay_process() as relay:
        variables = {**os.environ, "AMESH_RELAY_PORT": str(relay.port)}
        subprocess.run([sys.executable, *argv], env=variables, timeout=30, check=True)
    done = subprocess.run(
        [sys.executable, *argv], env=variables, timeout=30, check=False, capture_output=True
    )
    assert done.returncode != 0


def settings_of(variables: Mapping[str, str]) -> config.Config:
    """What a relay would make of these, and only of these."""
    return config.load([], {k: v for k, v in variables.items() if k.startswith("AMESH_RELAY_")})


def test_the_compose_file() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    relay = compose["services"]["relay"]
    found = settings_of(relay["environment"])
    (network,) = compose["networks"]["relay"]["ipam"]["config"]
    assert [str(trusted) for trusted in found.trusted_proxies] == [network["subnet"]]
    assert "ports" not in relay, "only Caddy reaches it, so Caddy's word is good"
    assert relay["read_only"] is True
    assert relay["cap_drop"] == ["ALL"]
    assert relay["user"] == dict(instructions())["USER"]
    assert int(relay["stop_grace_period"].removesuffix("s")) > found.drain_seconds
    assert relay["ulimits"]["nofile"] > found.limits.max_connections
    assert (DEPLOY / relay["build"]["context"] / relay["build"]["dockerfile"]).is_file()
    assert "./Caddyfile:/etc/caddy/Caddyfile:ro" in compose["services"]["caddy"]["volumes"]


def manifests() -> dict[str, Any]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in documents}


def test_the_manifests_fit_each_other() -> None:
    found = manifests()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ]
    assert selectors == [labels] * 3
    (relay,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in relay["ports"]}
    assert ports["relay"] == config.DEFAULT_PORT
    assert found["Service"]["spec"]["ports"][0]["targetPort"] in ports
    assert relay["livenessProbe"]["httpGet"] == {"path": "/health", "port": "relay"}
    assert relay["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "relay"}
    values = {entry["name"]: entry["value"] for entry in relay["env"] if "value" in entry}
    assert settings_of(values).metrics == ("0.0.0.0", ports["metrics"])  # noqa: S104 in a pod


def test_the_pod_may_do_nothing_but_relay() -> None:
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    (relay,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    # Else Kubernetes sets AMESH_RELAY_PORT=tcp://..., which is one of our settings.
    assert pod["enableServiceLinks"] is False
    stays = relay["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > stays + config.Config().drain_seconds
    assert relay["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in relay["resources"]["limits"]

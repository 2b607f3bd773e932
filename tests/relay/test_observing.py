"""What operators see: metrics and logs; and that a relay needs neither, nor uvloop."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from types import ModuleType

import httpx2
import pytest
import uvloop
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from amesh_core.wire import relay as wire
from amesh_relay import process
from amesh_relay.counts import Counts
from amesh_relay.logs import DayNumbers
from tests.support.hub import JTI
from tests.support.relay import bystanders, hear, relay_process
from tests.support.relay_commands import relay_without
from tests.support.tls import make_certificate

# --- metrics ----------------------------------------------------------------------------


def scraped(url: str) -> dict[str, float]:
    """Every sample of a relay by its name and label."""
    answer = httpx2.get(url)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return {
        sample.name + "".join(f"[{value}]" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_what_a_relay_has_done() -> None:
    with relay_process("--max-connections", "50") as relay, bystanders(relay) as pair:
        pair.check()
        with connect(relay.url, proxy=None) as guesser:
            guesser.send(wire.encode(wire.Connect("000000")))
            hear(guesser)
        with connect(relay.url, proxy=None) as announcer:
            announcer.send(wire.encode(wire.BootstrapInit(JTI, "A")))
            hear(announcer)
        found = scraped(f"http://{relay.host}:{relay.port}/metrics")
        assert {name: found[name] for name in found if name.startswith("amesh_relay_")} == {
            "amesh_relay_sockets": 3,  # the scrape itself is one
            "amesh_relay_connections": 2,
            "amesh_relay_sessions": 1,
            "amesh_relay_draining": 0,
            "amesh_relay_sockets_accepted_total": 5,
            "amesh_relay_sockets_refused_total": 0,
            "amesh_relay_tokens_refused_total": 0,
            "amesh_relay_messages_total": 6,
            "amesh_relay_forwarded_bytes_total": 2 * len("unharmed"),
            "amesh_relay_pairings_total": 1,
            "amesh_relay_sessions_done_total": 0,
            "amesh_relay_errors_total[otc_not_found]": 1,
            "amesh_relay_bootstrap_total[no_watcher]": 1,
        }


@pytest.mark.parametrize(
    ("frames", "count"),
    [
        ([wire.BootstrapInit(JTI, "A")], ("bootstrap", "announced")),
        ([wire.BootstrapAcked(JTI, "A", "s")], ("bootstrap", "acknowledged")),
        ([wire.BootstrapReject(JTI, "refused_there")], ("bootstrap", "refused_there")),
        ([wire.RelayErrorFrame("rate_limited")], ("errors", "rate_limited")),
    ],
)
def test_what_is_counted_by_kind(frames: list[wire.RelayFrame], count: tuple[str, str]) -> None:
    counts = Counts()
    for frame in frames:
        counts.told(frame)
    assert getattr(counts, count[0]) == {count[1]: 1}


def test_metrics_at_an_address_of_their_own(tmp_path: Path) -> None:
    with relay_process() as other:
        port = other.port  # one that is free in a moment
    with relay_process("--metrics", f"127.0.0.1:{port}") as relay, bystanders(relay) as pair:
        own, devices = f"http://127.0.0.1:{port}", f"http://{relay.host}:{relay.port}"
        assert scraped(f"{own}/metrics")["amesh_relay_sessions"] == 1
        assert httpx2.get(f"{own}/health").json()["status"] == "ok"
        assert httpx2.get(f"{own}/ready").text == "ready\n"
        # No devices there, and no metrics where they are.
        assert [httpx2.get(f"{own}{path}").status_code for path in ("/ws", "/")] == [404, 404]
        assert httpx2.get(f"{devices}/metrics").status_code == 404
        assert httpx2.get(f"{devices}/health").status_code == 200
        pair.check()
        taken = run("--port", "0", "--metrics", f"127.0.0.1:{port}")
        assert taken.returncode == 1
        assert taken.stderr == (
            f"error: --metrics: cannot listen on 127.0.0.1 port {port}: address already in use\n"
        )


def run(*argv: str, without: str = "nothing") -> subprocess.CompletedProcess[str]:
    """A relay that is expected to end by itself."""
    return subprocess.run(
        [*relay_without(without), *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("check", [(), ("--check-config",)])
@pytest.mark.parametrize(
    ("package", "options"),
    [
        ("prometheus_client", ("--metrics", "127.0.0.1:0")),
        ("structlog", ("--log-format", "json")),
    ],
)
def test_what_needs_an_extra_names_it(
    package: str, options: tuple[str, str], check: tuple[str, ...]
) -> None:
    done = run("--port", "0", *options, *check, without=package)
    assert (done.returncode, done.stdout) == (1, "")
    named = " ".join(options) if package == "structlog" else options[0]
    assert done.stderr == f"error: {named} needs: pip install 'authmesh[relay]'\n"


def test_a_relay_needs_none_of_them(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    bare = relay_without("prometheus_client", "structlog", "uvloop")
    with relay_process(command=bare) as relay:
        with bystanders(relay) as pair:
            pair.check()
        assert httpx2.get(f"http://{relay.host}:{relay.port}/metrics").status_code == 404
        relay.process.terminate()
        assert relay.wait() == 0
        assert re.fullmatch(
            r"[-0-9]+ [0-9:,]+ INFO amesh\.relay: stopping with 0 connections open\n", relay.log()
        )
    done = run(
        "--check-config",
        *("--certfile", str(certificate.certificate), "--keyfile", str(certificate.key)),
        *("--metrics", "127.0.0.1:0", "--log-format", "json"),
    )
    assert (done.returncode, done.stdout) == (0, "the settings are in order\n")


def test_the_faster_event_loop_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process._loop_factory() is uvloop.new_event_loop
    hidden: ModuleType | None = None
    monkeypatch.setitem(sys.modules, "uvloop", hidden)
    assert process._loop_factory() is None


# --- logs -------------------------------------------------------------------------------


def test_logs_for_programs() -> None:
    """A JSON object a line; connections by their number of the day, and nothing else of them."""
    options = ("--log-format", "json", "--log-level", "debug")
    with relay_process(*options, "--trusted-proxy", "127.0.0.1") as relay:
        headers = {"X-Forwarded-For": "198.51.100.77"}
        with connect(relay.url, additional_headers=headers, proxy=None) as device:
            device.send("half-a-secret")
            assert hear(device) == wire.RelayErrorFrame("invalid_message")
        relay.process.terminate()
        assert relay.wait() == 0
        lines = [json.loads(line) for line in relay.log().splitlines()]
    ours = [line for line in lines if line["logger"] == "amesh.relay"]
    today = str(ours[0]["timestamp"])[:10]
    assert [line["event"] for line in ours] == [
        f"connection {today}/1 is open",
        f"connection {today}/1 sent something malformed",
        f"connection {today}/1 is closed",
        "stopping with 0 connections open",
    ]
    for line in ours:
        assert line.keys() == {"timestamp", "level", "logger", "event"}
        moment = datetime.fromisoformat(line["timestamp"])
        assert moment.utcoffset() == timedelta(0)
    assert [line["level"] for line in ours] == ["debug", "debug", "debug", "info"]


def test_connections_are_numbered_by_day() -> None:
    day = date(2026, 11, 23)
    numbers = DayNumbers(day)
    first, second = numbers.next(day), numbers.next(day)
    third = numbers.next(day + timedelta(1))
    fourth = numbers.next(day + timedelta(3))
    assert len({first, second, third, fourth}) == 4, "a number is never used twice"
    assert [numbers.name(number) for number in (first, second, third, fourth)] == [
        "2026-11-23/1",
        "2026-11-23/2",
        "2026-11-24/1",
        "2026-11-26/1",
    ]


def test_a_connection_that_outlives_its_week() -> None:
    """No list grows for ever for the sake of a name."""
    day = date(2026, 11, 23)
    numbers = DayNumbers(day)
    first = numbers.next(day)
    for later in range(1, 20):
        last = numbers.next(day + timedelta(later))
    assert numbers.name(first) == "of an earlier week"
    assert numbers.name(last) == "2026-12-12/1"
    assert numbers.name(last - 7) == "2026-12-05/1"

"""`amesh doctor`: a device with one thing wrong, and servers behind proxies that change things."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote

import httpx2
import pytest

from amesh_cli import checks, courier, probes, probing
from amesh_cli.checks import Check, Verdict
from amesh_core.allow_list import AllowList
from amesh_core.allow_list import Device as Entry
from tests.sdk.devices import Device, make_controller, make_stranger, make_target
from tests.sdk.service import Service
from tests.support.asgi import Served, answer, listening, serving
from tests.support.cli import Done, amesh
from tests.support.home import make_home, make_peer, record
from tests.support.in_process import Run, runner
from tests.support.proxy import Change, Passing, nginx, proxy
from tests.support.relay import relay_url

NOWHERE = "ws://127.0.0.1:9/ws"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_home(tmp_path / "amesh")
    return tmp_path / "amesh"


@pytest.fixture(scope="module")
def relay() -> Iterator[str]:
    with relay_url() as url:
        yield url


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def examined(home: Path, *arguments: str, **env: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit status, and the checks by name."""
    return report_of(amesh(home, "doctor", "--json", *arguments, **env))


def report_of(done: Done) -> tuple[int, dict[str, dict[str, str]]]:
    """The same of a `doctor --json` that has ended."""
    report = json.loads(done.out)
    found = {check["name"]: check for check in report["checks"]}
    assert report["ok"] == (done.status == 0)
    assert (done.status == 0) == all(check["verdict"] != "fail" for check in found.values())
    return done.status, found


# --- this device ------------------------------------------------------------------------


def test_a_device_in_order_passes_every_check(home: Path, relay: str) -> None:
    status, found = examined(home, "--relay", relay)
    assert status == 0
    assert {name: check["verdict"] for name, check in found.items()} == dict.fromkeys(
        ("amesh", "directory", "files", "identity", "back end", "passphrase", "key",
         "allow list", "relay", "clock", "extras"), "ok",
    )  # fmt: skip
    assert "0700" in found["directory"]["message"]
    assert str(home / ".passphrase") in found["passphrase"]["message"]


def test_the_text_has_a_line_for_each_check_and_a_hint_for_each_failure(
    home: Path, relay: str
) -> None:
    (home / ".passphrase").unlink()
    done = amesh(home, "doctor", "--relay", relay)
    assert done.status == 12
    lines = done.out.splitlines()
    (failed,) = [number for number, text in enumerate(lines) if text.startswith("fail  passphrase")]
    assert "hint: set AUTH_MESH_PASSPHRASE" in lines[failed + 1]
    assert sum(text.startswith("ok ") for text in lines) == 8
    assert "2 of 10 checks failed" in done.err


def test_the_passphrase_is_told_by_its_place_alone(home: Path, relay: str, tmp_path: Path) -> None:
    secret = (home / ".passphrase").read_text()
    named = tmp_path / "named"
    named.write_text(secret)
    for env, place in (
        ({"AUTH_MESH_PASSPHRASE": secret}, "AUTH_MESH_PASSPHRASE"),
        ({"AMESH_PASSPHRASE_FILE": str(named)}, str(named)),
    ):
        done = amesh(home, "doctor", "--json", "--relay", relay, **env)
        (check,) = [c for c in json.loads(done.out)["checks"] if c["name"] == "passphrase"]
        assert check["message"] == f"from {place}"
        assert secret not in done.out + done.err


def open_directory(home: Path) -> None:
    home.chmod(0o755)


def no_identity(home: Path) -> None:
    (home / "identity.json").unlink()


def damaged_identity(home: Path) -> None:
    (home / "identity.json").write_text("{}")


def another_back_end(home: Path) -> None:
    path = home / "identity.json"
    path.write_text(path.read_text().replace("encrypted-file", "floppy"))


def no_key(home: Path) -> None:
    next((home / "keys").glob("*.key.json")).unlink()


def readable_passphrase(home: Path) -> None:
    (home / ".passphrase").chmod(0o444)


def tampered_list(home: Path) -> None:
    path = home / "allow_list.json"
    path.write_text(path.read_text().replace('"2026-', '"2027-'))


def no_list(home: Path) -> None:
    (home / "allow_list.json").unlink()


def broken_config(home: Path) -> None:
    (home / "config.json").write_text('{"relay": "http://x"}')


@pytest.mark.parametrize(
    ("break_it", "failed"),
    [
        (open_directory, {"directory": "chmod 700"}),
        (no_identity, {"directory": "amesh init"}),
        (damaged_identity, {"directory": "backup"}),
        (another_back_end, {"back end": "", "key": ""}),
        (no_key, {"key": "backup"}),
        (readable_passphrase, {"passphrase": "chmod 400", "key": "chmod 400"}),
        (tampered_list, {"allow list": "backup"}),
        (no_list, {"allow list": "backup"}),
        (broken_config, {"relay": ""}),
    ],
)
def test_what_is_wrong_is_named_with_the_way_out(
    home: Path,
    in_process: Run,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[Path], None],
    failed: dict[str, str],
) -> None:
    break_it(home)
    monkeypatch.setenv("AMESH_RELAY_URL", "" if break_it is broken_config else NOWHERE)
    status, found = report_of(in_process(home, "doctor", "--json"))
    assert status == 12
    wrong = {name: check for name, check in found.items() if check["verdict"] == "fail"}
    assert wrong.keys() == failed.keys()
    for name, hint in failed.items():
        assert hint in wrong[name]["hint"]


def test_a_wrong_passphrase_is_not_repeated(home: Path) -> None:
    done = amesh(
        home, "doctor", "--json", AUTH_MESH_PASSPHRASE="wrong-one-7f3c", AMESH_RELAY_URL=NOWHERE
    )
    assert done.status == 12
    assert "wrong-one-7f3c" not in done.out + done.err


@pytest.mark.parametrize(("mode", "verdict"), [(0o644, "warn"), (0o660, "fail"), (0o600, "ok")])
def test_modes_of_files_are_looked_at_one_by_one(home: Path, mode: int, verdict: str) -> None:
    (home / "allow_list.json").chmod(mode)
    _, found = examined(home, AMESH_RELAY_URL=NOWHERE)
    assert found["files"]["verdict"] == verdict
    if verdict != "ok":
        command = found["files"]["hint"].split("`")[1]
        assert command == f"chmod go= {home / 'allow_list.json'}"
        assert f"{mode:04o}" in found["files"]["message"]


def test_entries_that_let_nobody_in_are_named(home: Path) -> None:
    here = make_home(home.parent / "other")
    record(here, make_peer("laptop"))
    peer = make_peer("old")
    entry = Entry(peer.device_id, peer.public_key, "old", "2026-01-02T03:04:05.678Z", "x", None)
    allow_list = AllowList(here.identity.public_key, (entry,), "2026-01-02T03:04:05.678Z")
    (here.directory / "allow_list.json").write_bytes(
        allow_list.stamped(time.time()).encode(here.key())
    )
    status, found = examined(here.directory, AMESH_RELAY_URL=NOWHERE)
    assert (status, found["allow list"]["verdict"]) == (0, "warn")
    assert peer.device_id in found["allow list"]["message"]


def test_a_relay_must_be_there_if_it_was_named_and_is_missed_if_not(home: Path) -> None:
    status, found = examined(home, AMESH_RELAY_URL=NOWHERE)
    assert (status, found["relay"]["verdict"], found["clock"]["verdict"]) == (0, "warn", "warn")
    status, found = examined(home, "--relay", NOWHERE)
    assert (status, found["relay"]["verdict"]) == (12, "fail")
    assert NOWHERE in found["relay"]["message"]
    assert found["relay"]["hint"]


@pytest.mark.parametrize(
    ("ahead", "verdict"),
    [(0, "ok"), (5, "ok"), (6, "warn"), (-30, "warn"), (31, "fail"), (-3600, "fail")],
)
def test_the_clock_is_judged_by_the_other_side(ahead: int, verdict: str) -> None:
    now = 1_795_435_200.0
    check = checks.of_clock(formatdate(now - ahead, usegmt=True), now, "the relay")
    assert check.verdict == verdict
    assert bool(check.hint) == (verdict != "ok")
    if verdict == "fail":
        assert f"{abs(ahead)} s {'ahead of' if ahead > 0 else 'behind'}" in check.message


@pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 99 Foo 2026 99:99:99 GMT"])
def test_a_clock_that_cannot_be_compared_is_no_failure(date: str | None) -> None:
    assert checks.of_clock(date, 0, "the relay").verdict is Verdict.WARN


def test_extras_are_those_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        checks,
        "_extras",
        lambda: {"full": ["httpx2"], "half": ["httpx2", "no-such"], "none": ["no-such"]},
    )
    check = checks.of_extras()
    assert check.verdict is Verdict.WARN
    assert "installed: full; not installed: none; incomplete: half" in check.message
    assert "authmesh[half]" in check.hint


def test_the_extras_are_read_from_the_metadata() -> None:
    named = set(metadata.metadata("authmesh").get_all("Provides-Extra") or [])
    found = checks._extras()
    assert found.keys() == named - {"dev"}
    assert found["demo"] == ["fastapi", "uvicorn"]


# --- the way to a service ---------------------------------------------------------------


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> tuple[Device, Device]:
    target = make_target(tmp_path_factory.mktemp("devices"))
    return target, make_controller(target)


@pytest.fixture(scope="module")
def service(devices: tuple[Device, Device]) -> Iterator[Served]:
    """Everything but /health is verified."""
    target, _ = devices
    app = target.protect(Service().app, exclude=("/health",))
    with serving(app, http="httptools") as served:
        yield served


def probed(url: str, device: Device) -> dict[str, Check]:
    return {
        check.name: check for check in probing.probe(probing.parse_place(url), device.home.key())
    }


def failed(found: dict[str, Check]) -> dict[str, Check]:
    return {name: check for name, check in found.items() if check.verdict is not Verdict.OK}


def test_nothing_changes_on_a_straight_way(devices: tuple[Device, Device], service: Served) -> None:
    found = probed(f"{service.url}/orders", devices[1])
    assert failed(found) == {}
    assert found.keys() == {
        "server", "clock", "path", "query", "encoded slash", "encoded letter", "double slash",
        "slash at end", "method HEAD", "JSON body", "binary body", "gzip body", "redirect",
    }  # fmt: skip


def path_of(change: Callable[[str], str]) -> Change:
    def changed(passing: Passing) -> Passing:
        path, mark, query = passing.target.partition("?")
        return replace(passing, target=change(path) + mark + query)

    return changed


def query_of(change: Callable[[str], str]) -> Change:
    def changed(passing: Passing) -> Passing:
        path, _, query = passing.target.partition("?")
        query = change(query)
        return replace(passing, target=f"{path}?{query}" if query else path)

    return changed


def body_of(change: Callable[[bytes], bytes]) -> Change:
    return lambda passing: replace(passing, body=change(passing.body))


def reserialised(body: bytes) -> bytes:
    return (
        json.dumps(json.loads(body), separators=(",", ":")).encode() if body[:1] == b"{" else body
    )


def unpacked(body: bytes) -> bytes:
    return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body


EVERY_PATH = {"encoded slash", "encoded letter", "double slash"}
BODIES = {"JSON body", "binary body", "gzip body"}


@pytest.mark.parametrize(
    ("change", "wrong", "says"),
    [
        (path_of(lambda p: p.removeprefix("/api")), {"path"}, "prefix /api was taken off"),
        (path_of(lambda p: p.removeprefix("/api/v1") or "/"), {"path"}, "/api/v1 was taken off"),
        (path_of(lambda p: f"/api{p}"), {"path"}, "prefix /api was put in front"),
        (path_of(lambda p: p.replace("%2F", "/")), {"encoded slash"}, "%2F was decoded to a slash"),
        (
            path_of(lambda p: p.replace("%2F", "%2f").replace("%2D", "%2d")),
            {"encoded slash", "encoded letter"},
            "spelled in another case",
        ),
        (path_of(lambda p: p.replace("%", "%25")), {"encoded slash", "encoded letter"}, "second"),
        (path_of(lambda p: p.replace("//", "/")), {"double slash"}, "follow each other"),
        (path_of(lambda p: p.rstrip("/")), {"slash at end"}, "slash at the end"),
        (query_of(lambda q: ""), {"query"}, "dropped"),
        (query_of(lambda q: q.replace("%2B", "+")), {"query"}, "plus sign became a space in plus"),
        (query_of(lambda q: q.replace("&empty=", "")), {"query"}, "without a value"),
        (query_of(lambda q: q.replace("b=2&", "")), {"query"}, "dropped on the way: b"),
        (query_of(lambda q: q.replace("&b=1", "")), {"query"}, "dropped on the way: b"),
        (query_of(lambda q: q.replace("%2525", "%25")), {"query"}, "percent was decoded twice"),
        (query_of(lambda q: q.replace("%", "%25")), {"query"}, "encoded a second time"),
        (
            lambda p: replace(p, method="GET") if p.method == "HEAD" else p,
            {"method HEAD"},
            "HEAD",
        ),
        (lambda p: replace(p, method="GET", body=b""), {"method HEAD", *BODIES}, "GET"),
        (body_of(lambda b: b""), BODIES, "no body arrived"),
        (body_of(reserialised), {"JSON body"}, "parsed and written anew"),
        (body_of(unpacked), {"gzip body"}, "unpacked on the way"),
        (body_of(lambda b: b.decode("utf-8", "replace").encode()),
         {"binary body", "gzip body"}, ""),
        (body_of(lambda b: b.rstrip(b"\r\n")), {"JSON body", "binary body"}, "line ends"),
    ],
)  # fmt: skip
def test_each_change_is_found_and_named(
    devices: tuple[Device, Device], service: Served, change: Change, wrong: set[str], says: str
) -> None:
    with proxy(service, change) as hop:
        found = probed(f"{hop.url}/api/v1/orders", devices[1])
    assert failed(found).keys() - {"method HEAD", "redirect"} == wrong - {"method HEAD"}
    for name in wrong:
        assert found[name].verdict is Verdict.FAIL
        assert says in found[name].hint


def test_harmless_changes_are_no_finding(devices: tuple[Device, Device], service: Served) -> None:
    """The order of other names, and a space as a plus, are not signed."""
    change = query_of(
        lambda q: "&".join(sorted(q.replace("%20", "+").split("&"), key=lambda p: p[:1]))
    )
    with proxy(service, change) as hop:
        assert failed(probed(f"{hop.url}/orders", devices[1])) == {}


def test_what_is_learned_of_the_path_holds_for_what_follows(
    devices: tuple[Device, Device], service: Served
) -> None:
    change = path_of(lambda p: unquote(p.removeprefix("/api")).replace("//", "/"))
    with proxy(service, change) as hop:
        found = probed(f"{hop.url}/api/orders", devices[1])
    assert failed(found).keys() == {"path", *EVERY_PATH}
    assert "/api/orders arrives as /orders" in found["path"].message
    assert (
        "/api/orders/amesh%2Fdoctor arrives as /orders/amesh/doctor"
        in found["encoded slash"].message
    )
    assert found["query"].message == "arrives as it was sent, but for the prefix"


def test_a_change_that_nobody_guesses_is_left_to_explain(
    devices: tuple[Device, Device], service: Served
) -> None:
    with proxy(service, body_of(lambda b: b[::-1])) as hop:
        found = probed(f"{hop.url}/orders", devices[1])
    assert failed(found).keys() == BODIES
    assert "amesh explain" in found["JSON body"].hint


def test_a_device_that_is_not_trusted_is_told_so(
    devices: tuple[Device, Device], service: Served
) -> None:
    found = probed(f"{service.url}/orders", make_stranger(devices[0]))
    assert failed(found).keys() == {"path"}
    assert "amesh list" in found["path"].hint


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p.with_header("authorization", None), "taken off on the way"),
        (lambda p: replace(p, headers=(*p.headers, ("authorization", "Basic eA=="))), "adds"),
    ],
)
def test_a_header_that_is_taken_off_or_added_is_named(
    devices: tuple[Device, Device], service: Served, change: Change, says: str
) -> None:
    with proxy(service, change) as hop:
        found = probed(f"{hop.url}/orders", devices[1])
    ((_, check),) = failed(found).items()
    assert says in check.message
    assert "Authorization" in check.hint


def test_a_header_that_is_changed_is_named(devices: tuple[Device, Device], service: Served) -> None:
    def change(passing: Passing) -> Passing:
        value = dict(passing.headers).get("authorization")
        return passing.with_header("authorization", value.lower()) if value else passing

    with proxy(service, change) as hop:
        found = probed(f"{hop.url}/orders", devices[1])
    assert "changed on the way" in failed(found)["path"].message


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (answer("200 OK", body=b"hello"), "answers 200 without a signature"),
        (answer("200 OK", body=b'{"error":"missing_header"}'), "answers 200"),
        (answer("400 Bad", body=b'{"error":"else"}'), "answers 400"),
        (answer("400 Bad", body=b'{"error":"missing_header","at":1}'), "answers 400"),
        (answer("400 Bad", body=b"[" * 60), "answers 400"),
        (answer("404 No", "Server: nginx"), 'by way of "nginx"'),
        (answer("502 Bad", "Server: \x1bevil"), "502"),
        (answer("401 No", "WWW-Authenticate: Basic"), "asks for a password"),
        (answer("301 Go", "Location: https://other.example/"), "leads to https://other.example/"),
        (answer("500 No", body=b'{"error":"allow_list_integrity_failure"}'), "cannot verify"),
    ],
)
def test_whoever_answers_in_the_place_of_authmesh_is_named(
    devices: tuple[Device, Device], reply: bytes, says: str
) -> None:
    with listening(lambda _: reply) as server:
        found = probed(f"{server.url}/x", devices[1])
    assert found.keys() == {"server"}
    assert found["server"].verdict is Verdict.FAIL
    if b"\x1b" not in reply:
        assert says in found["server"].message
    assert found["server"].message.isprintable()


def test_a_path_that_is_left_open_cannot_be_judged(
    devices: tuple[Device, Device], service: Served
) -> None:
    found = probed(f"{service.url}/health", devices[1])
    assert failed(found).keys() == {"server"}
    assert "exclude" in found["server"].hint


def test_an_answer_that_never_ends_is_not_read_to_its_end(
    devices: tuple[Device, Device], service: Served
) -> None:
    assert "path" not in failed(probed(f"{service.url}/forever", devices[1]))
    long = answer("400 Bad", body=b"x" * 200).replace(b"Length: 200", b"Length: 2000000000")
    with listening(lambda _: long) as server:
        assert "answers 400" in probed(server.url, devices[1])["server"].message


def test_nobody_there_is_a_failure_in_words(devices: tuple[Device, Device]) -> None:
    found = probed("http://127.0.0.1:9/", devices[1])
    assert "cannot be reached" in found["server"].message


def test_a_clock_that_is_wrong_hides_nothing_else(
    devices: tuple[Device, Device], service: Served
) -> None:
    """The probes are stamped by the server's clock, so they still find what they look for."""
    with httpx2.Client(trust_env=False) as client:
        sending = courier.Courier(
            service.url, devices[1].home.key(), client, clock=lambda: time.time() - 600
        )
        place = probing.Place(service.url, "/orders")
        found = {check.name: check for check in probing.Prober(sending).run(place)}
    assert failed(found).keys() == {"clock"}
    assert "behind" in found["clock"].message


def test_what_is_kept_from_authmesh_is_a_warning(
    devices: tuple[Device, Device], service: Served
) -> None:
    """Apache answers 404 for every %2F, unless it is told not to."""

    def change(passing: Passing) -> Passing | bytes:
        return answer("404 Not Found", "Server: Apache") if "%2F" in passing.target else passing

    with proxy(service, change) as hop:
        found = probed(f"{hop.url}/orders", devices[1])
    assert failed(found).keys() - {"query"} == {"encoded slash"}
    assert found["encoded slash"].verdict is Verdict.WARN
    assert "does not reach AuthMesh: answered 404 before" in found["encoded slash"].message


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Later"])
def test_a_proxy_that_fails_has_let_nothing_in(
    devices: tuple[Device, Device], service: Served, status: str
) -> None:
    def change(passing: Passing) -> Passing | bytes:
        return answer(status) if "authorization" in dict(passing.headers) else passing

    with proxy(service, change) as hop:
        found = probed(f"{hop.url}/orders", devices[1])
    assert failed(found).keys() == {"path"}
    assert f"answered {status[:3]}" in found["path"].message


def test_a_server_that_cannot_verify_is_not_taken_for_one_that_refuses(
    devices: tuple[Device, Device], service: Served
) -> None:
    def change(passing: Passing) -> Passing | bytes:
        broken = answer("503 Later", body=b'{"error":"unavailable"}')
        return broken if "authorization" in dict(passing.headers) else passing

    with proxy(service, change) as hop:
        found = probed(f"{hop.url}/orders", devices[1])
    assert "cannot verify: unavailable" in failed(found)["path"].message


@pytest.mark.parametrize(
    ("location", "verdict", "says"),
    [
        ("/orders", Verdict.OK, "signed anew"),
        ("http://elsewhere.example/orders", Verdict.FAIL, "where no signature goes"),
        ("/health", Verdict.FAIL, "where AuthMesh does not answer"),
    ],
)
def test_where_redirects_lead_is_looked_at(
    devices: tuple[Device, Device], service: Served, location: str, verdict: Verdict, says: str
) -> None:
    def change(passing: Passing) -> Passing | bytes:
        is_it = passing.target == "/orders/"
        return answer("307 Go", f"Location: {location}") if is_it else passing

    with proxy(service, change) as hop:
        check = probed(f"{hop.url}/orders", devices[1])["redirect"]
    assert check.verdict is verdict
    assert says in check.message


@pytest.mark.parametrize("url", ["ws://x/", "x", "http://a:b@c/", "http://x/a/../b", "http://x//y"])
def test_what_cannot_be_probed_is_wrong_usage(in_process: Run, home: Path, url: str) -> None:
    done = in_process(home, "doctor", "--against", url)
    assert (done.status, done.out) == (2, "")


def test_the_command_puts_both_together(devices: tuple[Device, Device], service: Served) -> None:
    directory = devices[1].home.directory
    with proxy(service, path_of(lambda p: p.replace("//", "/"))) as hop:
        done = amesh(directory, "doctor", "--against", f"{hop.url}/orders", NO_PROXY="*")
    assert done.status == 12
    assert re.search(r"^ok +key +unlocked", done.out, re.MULTILINE)
    assert re.search(
        r"^fail +double slash +/orders/amesh//doctor arrives as", done.out, re.MULTILINE
    )
    assert "1 of 21 checks failed" in done.err
    broken = amesh(directory.parent / "nowhere", "doctor", "--json", "--against", hop.url)
    assert broken.status == 12
    assert [check["name"] for check in json.loads(broken.out)["checks"]] == ["amesh", "directory"]


def test_every_guess_differs_from_what_was_sent() -> None:
    """One that did not would call a refusal for another reason a change."""
    for probe in (probes.plain("/api/orders/"), *probes.all_others("/api/orders")):
        guesses = list(probe.arrivals(probe.request))
        assert guesses
        assert all(guess != probe.request for guess in guesses)
        assert all(probes.cause(probe.request, guess) for guess in guesses)


# --- nginx ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "path", "wrong"),
    [
        ("location / { proxy_pass {upstream}; }", "/orders", {}),
        (
            "location /api/ { proxy_pass {upstream}/; }",
            "/api/orders",
            {
                "path": "prefix /api",
                "encoded slash": "%2F was decoded",
                "encoded letter": "decoded",
                "double slash": "merged",
            },
        ),
        (
            "location / { proxy_pass {upstream}$uri; }",
            "/orders",
            {
                "query": "dropped",
                "encoded slash": "%2F was decoded",
                "encoded letter": "decoded",
                "double slash": "merged",
            },
        ),
        (
            'location / { proxy_set_header Authorization ""; proxy_pass {upstream}; }',
            "/orders",
            {"path": "proxy_set_header"},
        ),
        (
            "location / { return 301 https://elsewhere.example$request_uri; }",
            "/orders",
            {"server": "use that URL"},
        ),
        (
            "location / { proxy_method GET; proxy_pass {upstream}; }",
            "/orders",
            {"method HEAD": "HEAD", **dict.fromkeys(BODIES, "GET")},
        ),
    ],
)  # fmt: skip
def test_a_real_nginx_is_seen_through(
    devices: tuple[Device, Device],
    service: Served,
    tmp_path: Path,
    location: str,
    path: str,
    wrong: dict[str, str],
) -> None:
    with nginx(service, tmp_path, location) as hop:
        found = probed(f"{hop.url}{path}", devices[1])
    assert failed(found).keys() == wrong.keys()
    for name, says in wrong.items():
        assert says in found[name].hint
    assert "nginx" in found["server"].message

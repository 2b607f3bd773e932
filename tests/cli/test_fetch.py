"""`amesh fetch` against real servers: what goes out, what comes back, and how it ends."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from amesh_core.wire import header
from tests.sdk.devices import Device, make_controller, make_stranger, make_target
from tests.sdk.senders import Wire, recording
from tests.sdk.service import Service
from tests.support.asgi import Served, answer, listening, serving
from tests.support.cli import AtTerminal, environment
from tests.support.in_process import Run, runner

BINARY = bytes(range(256)) + b"\x00\r\n\xff"


@dataclass(frozen=True)
class Fetched:
    status: int
    out: bytes
    err: str


def fetch(device: Device, *arguments: str, stdin: bytes = b"", **env: str) -> Fetched:
    done = subprocess.run(
        [sys.executable, "-m", "amesh_cli", "fetch", *arguments],
        input=stdin,
        capture_output=True,
        env=environment(device.home.directory, NO_PROXY="*", **env),
        timeout=60,
        check=False,
    )
    return Fetched(done.returncode, done.stdout, done.stderr.decode())


@pytest.fixture
def target(tmp_path: Path) -> Device:
    return make_target(tmp_path)


@pytest.fixture
def controller(target: Device) -> Device:
    return make_controller(target)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture
def service(target: Device) -> Iterator[Served]:
    with serving(target.protect(Service().app)) as served:
        yield served


def test_a_request_is_signed_and_its_answer_passed_on(controller: Device, service: Served) -> None:
    done = fetch(controller, f"{service.url}/health?a=1&b=%2F")
    assert done == Fetched(0, b'{"known":true}', "")


@pytest.mark.parametrize("how", ["stdin", "file", "text"])
def test_bodies_go_out_and_come_back_byte_for_byte(
    controller: Device, service: Served, tmp_path: Path, how: str
) -> None:
    body = BINARY if how != "text" else "grün\n".encode()
    (tmp_path / "body").write_bytes(body)
    data = {"stdin": "@-", "file": f"@{tmp_path / 'body'}", "text": body.decode(errors="ignore")}
    done = fetch(controller, f"{service.url}/x", "--data-binary", data[how], stdin=body)
    assert (done.status, done.out) == (0, body)


def test_what_is_sent_is_what_was_typed(controller: Device) -> None:
    arrived, take = recording(answer("200 OK"))
    with listening(take) as server:
        fetch(
            controller, f"{server.url}/a%2Fb?z=1&a=b%20c", "-X", "patch", "-d", "{}",
            "-H", "Content-Type: application/json", "-H", "X-Two:  2 ",
        )  # fmt: skip
    (wire,) = arrived
    wire.verified(by=controller)
    assert (wire.method, wire.target, wire.body) == (b"PATCH", b"/a%2Fb?z=1&a=b%20c", b"{}")
    assert wire.headers[b"content-type"] == b"application/json"
    assert wire.headers[b"x-two"] == b"2"
    assert wire.headers[b"accept-encoding"] == b"identity"


def test_without_a_body_it_is_a_get_and_with_one_a_post(controller: Device) -> None:
    for arguments, wanted in (((), b"GET"), (("-d", ""), b"POST"), (("-d", "x"), b"POST")):
        arrived, take = recording(answer("200 OK"))
        with listening(take) as server:
            fetch(controller, server.url, *arguments)
        assert arrived[0].method == wanted
        assert b"content-type" not in arrived[0].headers
        arrived[0].verified(by=controller)


@pytest.mark.parametrize(
    ("line", "status"),
    [("201 Created", 0), ("204 No Content", 0), ("304 Not Modified", 10), ("404 Not Found", 10),
     ("500 Oh", 10)],
)  # fmt: skip
def test_the_exit_status_tells_2xx_from_the_rest(
    controller: Device, line: str, status: int
) -> None:
    has_body = not line.startswith(("204", "304"))
    with listening(lambda _: answer(line, body=b"why" if has_body else b"")) as server:
        done = fetch(controller, server.url)
    assert (done.status, done.out) == (status, b"why" if has_body else b"")
    assert ("error: the server answered" in done.err) == (status != 0)


def test_a_refused_signature_says_where_to_look(target: Device, service: Served) -> None:
    stranger = make_stranger(target)
    done = fetch(stranger, f"{service.url}/orders")
    assert (done.status, done.out) == (10, b'{"error":"unauthorized"}')
    assert "amesh doctor --against" in done.err
    elsewhere = answer("401 No", "WWW-Authenticate: Basic")
    with listening(lambda _: elsewhere) as server:
        assert "doctor" not in fetch(stranger, server.url).err


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:9/", "cannot be reached"),
        ("http://name.invalid/", "cannot be reached"),
    ],
)
def test_no_answer_has_a_status_of_its_own(controller: Device, url: str, says: str) -> None:
    done = fetch(controller, url)
    assert (done.status, done.out) == (11, b"")
    assert says in done.err
    assert "Traceback" not in done.err
    assert "Errno" not in done.err


def test_nothing_is_sent_whose_answer_has_no_place(controller: Device, tmp_path: Path) -> None:
    done = fetch(controller, "http://127.0.0.1:9/", "-o", str(tmp_path / "none" / "file"))
    assert done.status == 2
    assert "no such directory" in done.err


def test_a_server_that_says_nothing_is_not_waited_for(controller: Device) -> None:
    with listening(lambda _: b"", connections=1) as server:
        assert fetch(controller, server.url).status == 11


def test_tls_where_there_is_none_is_no_answer(controller: Device, service: Served) -> None:
    done = fetch(controller, service.url.replace("http:", "https:"))
    assert done.status == 11
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["ftp://host/"],
        ["/orders"],
        ["http://"],
        ["http://user:secret@host/"],
        ["http://host:99999/"],
        ["http://[::1/"],
        ["http://host/", "-H", "no colon"],
        ["http://host/", "-H", "A: b\nC: d"],
        ["http://host/", "-H", "authorization: Basic x"],
        ["http://host/", "-d", "@/does/not/exist"],
        ["http://host/", "--timeout", "0"],
        ["http://host/", "-X", "G T"],
    ],
)
def test_wrong_usage_sends_nothing(
    in_process: Run, controller: Device, arguments: list[str]
) -> None:
    done = in_process(controller.home.directory, "fetch", *arguments)
    assert (done.status, done.out) == (2, "")
    assert "secret" not in done.err
    assert "Traceback" not in done.err


def test_without_an_identity_it_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "amesh_cli", "fetch", "http://127.0.0.1:9/"],
        capture_output=True,
        text=True,
        env=environment(tmp_path / "nothing"),
        check=False,
    )
    assert done.returncode == 3
    assert "amesh init" in done.stderr


# --- the answer -------------------------------------------------------------------------


def test_i_prints_the_head_before_the_body(controller: Device) -> None:
    with listening(lambda _: answer("200 Fine", "X-A: 1", "X-B: é", body=b"body")) as server:
        done = fetch(controller, server.url, "-i")
    head, _, body = done.out.partition(b"\r\n\r\n")
    assert body == b"body"
    assert head.split(b"\r\n")[:3] == [b"HTTP/1.1 200 Fine", b"X-A: 1", "X-B: é".encode("latin-1")]


def test_what_the_server_packs_is_passed_on_packed(controller: Device) -> None:
    packed = answer("200 OK", "Content-Encoding: gzip", body=b"\x1f\x8b not really")
    with listening(lambda _: packed) as server:
        assert fetch(controller, server.url).out == b"\x1f\x8b not really"


def test_o_replaces_a_file_only_by_a_good_and_whole_answer(
    controller: Device, tmp_path: Path
) -> None:
    file = tmp_path / "report"
    file.write_bytes(b"old")
    file.chmod(0o640)
    with listening(lambda _: answer("500 No", body=b"an error page")) as server:
        done = fetch(controller, server.url, "-o", str(file))
    assert (done.status, done.out, file.read_bytes()) == (10, b"an error page", b"old")
    cut = answer("200 OK", body=b"half").replace(b"Content-Length: 4", b"Content-Length: 9")
    with listening(lambda _: cut) as server:
        done = fetch(controller, server.url, "-o", str(file))
    assert (done.status, file.read_bytes()) == (11, b"old")
    with listening(lambda _: answer("200 OK", body=BINARY)) as server:
        done = fetch(controller, server.url, "-o", str(file))
    assert (done.status, done.out, file.read_bytes()) == (0, b"", BINARY)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["report"]


def test_o_writes_through_a_link_and_into_a_device(controller: Device, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with listening(lambda _: answer("200 OK", body=b"x")) as server:
        assert fetch(controller, server.url, "-o", str(tmp_path / "link")).status == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"x"
    with listening(lambda _: answer("200 OK", body=b"x")) as server:
        done = fetch(controller, server.url, "-o", "/dev/stdout")
    assert (done.status, done.out) == (0, b"x")


def test_o_that_cannot_be_written_is_wrong_usage(controller: Device) -> None:
    with listening(lambda _: answer("200 OK", body=b"x")) as server:
        done = fetch(controller, server.url, "-o", "/dev/full")
    assert done.status == 2
    assert "-o /dev/full: No space left" in done.err


def test_a_terminal_is_not_driven_by_what_the_server_sends(controller: Device) -> None:
    body = b"\x1b[2Jred \xc2\x9b31m gr\xc3\xbcn\n\x07"
    with listening(lambda _: answer("200 \x1b[31mOK", "X: \x1b]0;x\x07", body=body)) as server:
        terminal = AtTerminal(
            controller.home.directory, "fetch", server.url, "-i", "-v", NO_PROXY="*"
        )
        assert terminal.ends() == 0
    assert "200 \\x1b[31mOK" in terminal.seen
    assert "\\x1b]0;x\\x07" in terminal.seen
    assert not {"\x9b", "\x07"} & set(terminal.seen)
    assert "\x1b" not in terminal.seen
    with listening(lambda _: answer("200 OK", body=body)) as server:
        terminal = AtTerminal(controller.home.directory, "fetch", server.url, NO_PROXY="*")
        assert terminal.ends() == 0
    assert "\\x1b[2Jred \\x9b31m grün" in terminal.seen
    assert not {"\x1b", "\x9b", "\x07"} & set(terminal.seen)


# --- redirects and -v -------------------------------------------------------------------


def test_each_hop_within_the_origin_has_a_signature_of_its_own(controller: Device) -> None:
    replies = [answer("307 Go", "Location: /there?x=1"), answer("200 OK", body=b"done")]
    arrived: list[Wire] = []

    def take(data: bytes) -> bytes:
        arrived.append(Wire(data))
        return replies[len(arrived) - 1]

    with listening(take, connections=2) as server:
        done = fetch(controller, f"{server.url}/here", "-d", "body", "-i")
    assert (done.status, done.out.count(b"HTTP/1.1"), done.out[-4:]) == (0, 1, b"done")
    one, other = [wire.verified(by=controller) for wire in arrived]
    assert one.nonce != other.nonce
    assert arrived[1].body == b"body"


def test_another_origin_gets_no_signature(controller: Device) -> None:
    arrived, take = recording(answer("200 OK", body=b"there"))
    with listening(take) as there:
        away = answer("302 Go", f"Location: http://localhost:{there.port}/x")
        with listening(lambda _: away) as here:
            assert fetch(controller, here.url).out == b"there"
    assert arrived[0].authorization == []


def test_redirects_can_be_left_alone(controller: Device) -> None:
    with listening(lambda _: answer("302 Go", "Location: /x", body=b"moved")) as server:
        done = fetch(controller, server.url, "--no-redirects")
    assert (done.status, done.out) == (10, b"moved")


def test_a_circle_of_redirects_ends(controller: Device) -> None:
    again = answer("302 Go", "Location: /")
    with listening(lambda _: again, connections=21) as server:
        done = fetch(controller, server.url)
    assert done.status == 11
    assert "circles" in done.err


def test_v_says_what_is_sent_and_shows_no_secret(controller: Device) -> None:
    arrived, take = recording(answer("200 OK", "Set-Cookie: session=cookie-secret"))
    with listening(take) as server:
        done = fetch(
            controller, f"{server.url}/a?b=1", "-v", "-d", "body-secret",
            "-H", "X-Api-Key: key-secret", "-H", "Cookie: c=jar-secret",
            "-H", "Content-Type: text/plain",
        )  # fmt: skip
    assert "> POST /a?b=1" in done.err
    assert "> X-Api-Key: (not shown)" in done.err
    assert "> Content-Type: text/plain" in done.err
    assert "< HTTP/1.1 200 OK" in done.err
    credential = arrived[0].verified(by=controller)
    assert credential.nonce in done.err
    assert "secret" not in done.err
    (value,) = arrived[0].authorization
    signature = value.decode().split('sig="')[1].rstrip('"')
    assert signature not in done.err


# --- for amesh explain ------------------------------------------------------------------


def test_the_debug_variable_writes_the_request_down(controller: Device) -> None:
    arrived, take = recording(answer("200 OK"))
    with listening(take) as server:
        done = fetch(controller, f"{server.url}/a?b=1", "-d", "x", AMESH_DEBUG_REQUESTS="1")
    line = json.loads(done.err)
    (value,) = arrived[0].authorization
    credential = header.parse([value])
    assert (line["side"], line["method"], line["target"]) == ("sent", "POST", "/a?b=1")
    assert (line["nonce"], line["ts"]) == (credential.nonce, credential.timestamp)
    assert line["body"]["length"] == 1


@pytest.mark.parametrize("value", ["", "0"])
def test_without_it_nothing_is_written(controller: Device, value: str) -> None:
    with listening(lambda _: answer("200 OK")) as server:
        assert fetch(controller, server.url, AMESH_DEBUG_REQUESTS=value).err == ""

"""`amesh explain` on the logs that a real client and a real server wrote."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from amesh_core import sighting
from amesh_core.settings import Settings
from amesh_core.sighting import Side, Sighting
from amesh_sdk import Amesh
from amesh_sdk.asgi import AuthMeshMiddleware
from tests.sdk.devices import Device, make_controller, make_target
from tests.sdk.recorder import Recorder
from tests.support.asgi import App, body_of, run, scope_of
from tests.support.cli import amesh
from tests.support.in_process import Run, runner


@pytest.fixture
def target(tmp_path: Path) -> Device:
    return make_target(tmp_path)


@pytest.fixture
def controller(target: Device) -> Device:
    return make_controller(target)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def debugged(device: Device) -> Settings:
    return Settings(device.home.directory, debug_requests=True)


def protected(device: Device) -> App:
    return AuthMeshMiddleware(Recorder(), settings=debugged(device))


def signed(
    device: Device, method: str, target: str, body: bytes = b""
) -> list[tuple[bytes, bytes]]:
    made = Amesh(debugged(device)).sign(method, f"http://service{target}", body)
    return [(b"authorization", made["Authorization"].encode())]


def line(side: Side, target: bytes = b"/x", **more: Any) -> str:
    facts: dict[str, Any] = {"timestamp": "1", "nonce": "n", "device_id": "am_x", "at": 1}
    return Sighting.of(side, "GET", target, b"", **(facts | more)).encode()


def test_both_sides_write_down_one_request(
    target: Device, controller: Device, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    headers = signed(controller, "POST", "/api/orders?a=1", b'{"a": 1}')
    # What a proxy that takes off a prefix, and a body parser, make of it.
    result = run(protected(target), scope_of("POST", "/orders?a=1", headers), body_of(b'{"a":1}'))
    assert result.status == 401
    records = [record for record in caplog.records if record.levelno == logging.DEBUG]
    assert [record.name for record in records] == ["amesh.sign", "amesh.verify"]
    sent, seen = sighting.find(caplog.text)
    assert (sent.side, seen.side) == (Side.SENT, Side.SEEN)
    assert sent.nonce == seen.nonce

    log = tmp_path / "log"
    log.write_text(caplog.text)
    done = amesh(tmp_path, "explain", str(log))
    assert done.status == 12
    assert "first difference at byte 11 of what is signed, the target" in done.out
    assert "path: /api/orders -> /orders" in done.out
    assert "the prefix /api was taken off" in done.out
    assert "parsed and written anew" in done.out
    signed_line, arrived_line, caret = [
        text for text in done.out.splitlines() if text.startswith("    ")
    ][:3]
    assert signed_line[caret.index("^")] == "a"
    assert arrived_line[caret.index("^")] == "o"
    assert "1 of 1 requests" in done.err


def test_no_line_holds_a_secret(
    target: Device, controller: Device, caplog: pytest.LogCaptureFixture
) -> None:
    headers = signed(controller, "POST", "/x", b"secret body")
    run(protected(target), scope_of("POST", "/x", headers), body_of(b"secret body"))
    signature = headers[0][1].decode().split('sig="')[1].rstrip('"')
    assert len(sighting.find(caplog.text)) == 2
    assert signature not in caplog.text
    assert "secret body" not in caplog.text


def test_without_the_setting_nothing_is_written_down(
    target: Device, controller: Device, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made = controller.amesh.sign("GET", "http://service/x")
    headers = [(b"authorization", made["Authorization"].encode())]
    assert run(target.protect(Recorder()), scope_of("GET", "/x", headers), body_of()).status == 200
    assert "canonical" not in caplog.text


def test_what_is_refused_before_its_body_is_written_down_too(
    target: Device, caplog: pytest.LogCaptureFixture
) -> None:
    """A stranger, and a clock that is wrong: the body was never read."""
    unknown = make_controller(make_target(target.home.directory / "elsewhere"))
    headers = signed(unknown, "POST", "/x", b"body")
    result = run(protected(target), scope_of("POST", "/x", headers))
    assert (result.status, result.messages_read) == (401, 0)
    _, seen = sighting.find(caplog.text)
    assert (seen.body, seen.canonical) == (None, None)


def test_what_has_no_credential_is_not_written_down(
    target: Device, caplog: pytest.LogCaptureFixture
) -> None:
    for headers in ([], [(b"authorization", b"Basic x")]):
        assert run(protected(target), scope_of("GET", "/x", headers)).status == 400
    assert sighting.find(caplog.text) == []


def test_where_nothing_handles_logs_it_goes_to_stderr(
    controller: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application that never heard of logging needs the variable and nothing else."""
    errors = io.StringIO()
    monkeypatch.setattr("sys.stderr", errors)
    monkeypatch.setattr(logging.getLogger("amesh.sign"), "propagate", False)
    signed(controller, "GET", "/x")
    (one,) = sighting.find(errors.getvalue())
    assert one.target == "/x"


# --- the command ------------------------------------------------------------------------


def test_logs_come_from_files_or_standard_input_in_any_order(tmp_path: Path) -> None:
    client, server = tmp_path / "client", tmp_path / "server"
    client.write_text(f"starting\n{line(Side.SENT)}\n")
    server.write_text(f"{line(Side.SEEN)} (guard.py)\nmore\n")
    for arguments, stdin in (
        ([str(client), str(server)], ""),
        ([str(server), str(client)], ""),
        ([str(client), "-"], server.read_text()),
        ([], client.read_text() + server.read_text()),
    ):
        done = amesh(tmp_path, "explain", *arguments, stdin=stdin)
        assert (done.status, done.err) == (0, "")
        assert "nothing differs" in done.out


def test_several_requests_are_told_apart(tmp_path: Path) -> None:
    log = "\n".join(
        line(side, target, nonce=nonce)
        for side, target, nonce in (
            (Side.SENT, b"/a", "1"),
            (Side.SENT, b"/b", "2"),
            (Side.SENT, b"/never-arrived", "3"),
            (Side.SEEN, b"/a", "1"),
            (Side.SEEN, b"/b/", "2"),
            (Side.SEEN, b"/a", "1"),
        )
    )
    done = amesh(tmp_path, "explain", "--json", stdin=log)
    assert done.status == 12
    assert "1 of 3 requests" in done.err
    shown = json.loads(done.out)["requests"]
    assert [(one["nonce"], one["same"], one["arrived"]) for one in shown] == [
        ("1", True, 2), ("2", False, 1), ("1", True, 2),
    ]  # fmt: skip
    assert shown[1]["differences"][0]["part"] == "path"
    assert shown[1]["firstByte"] == {"offset": 11, "part": "target"}
    text = amesh(tmp_path, "explain", stdin=log)
    assert "It arrived 2 times, and is let in once" in text.out


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("", "no request in the input"),
        (line(Side.SENT), "the log of the server is needed"),
        (line(Side.SEEN), "the log of the client is needed"),
        ("\n".join([line(Side.SENT), *[line(Side.SEEN, nonce=n) for n in "ab"]]), "none has"),
        (line(Side.SENT)[:-5], "cut off"),
    ],
)
def test_what_cannot_be_compared_is_wrong_usage(
    in_process: Run, tmp_path: Path, log: str, says: str
) -> None:
    done = in_process(tmp_path, "explain", stdin=log)
    assert (done.status, done.out) == (2, "")
    assert says in done.err


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    done = amesh(tmp_path, "explain", str(tmp_path / "nothing"))
    assert done.status == 2
    assert "No such file" in done.err


def test_what_strangers_sent_reaches_the_terminal_escaped(tmp_path: Path) -> None:
    log = "\n".join(
        [line(Side.SENT), line(Side.SEEN, b"/\x1b[2J", nonce="\x07n", device_id="\x9b")]
    )
    done = amesh(tmp_path, "explain", stdin=log)
    assert done.status == 12
    assert "\\x1b[2J" in done.out
    assert not {"\x1b", "\x9b", "\x07"} & set(done.out + done.err)

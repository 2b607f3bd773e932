"""The WSGI adapter, request by request, in this process."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from amesh_core.allow_list import AllowList
from amesh_core.errors import NoIdentity, NonceStoreUnreachable, UsageError
from amesh_core.identity import DeviceKey
from amesh_core.nonces import MemoryNonceStore
from amesh_core.settings import Settings
from amesh_sdk.wsgi import AuthMeshMiddleware
from tests.sdk.devices import Device
from tests.sdk.servers.processes import together


class Recorder:
    """An application that keeps what reaches it."""

    def __init__(self) -> None:
        self.environs: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.environs.append(environ)
        self.bodies.append(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return [b"ok"]


class Input(io.BytesIO):
    """The body of a request, which counts what is read of it."""

    def __init__(self, data: bytes, *, fails: bool = False) -> None:
        super().__init__(data)
        self.bytes_read = 0
        self._fails = fails

    def read(self, size: int | None = -1, /) -> bytes:
        if self._fails:
            raise ConnectionResetError
        data = super().read(size)
        self.bytes_read += len(data)
        return data


def environ_of(
    method: str = "GET", target: str = "/", body: bytes = b"", **more: Any
) -> dict[str, Any]:
    path, _, query = target.partition("?")
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "RAW_URI": target,
        "wsgi.input": Input(body),
        "wsgi.multiprocess": False,
    }
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    return environ | more


def signed(
    device: Device, method: str = "GET", target: str = "/", body: bytes = b"", **more: Any
) -> dict[str, Any]:
    value = device.sign(method, target, body).decode()
    return environ_of(method, target, body, HTTP_AUTHORIZATION=value, **more)


def ask(app: AuthMeshMiddleware, environ: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
        started.append((int(status[:3]), dict(headers)))

    body = b"".join(app(environ, start_response))
    ((status, headers),) = started
    return status, headers, body


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def app(recorder: Recorder, target: Device, controller: Device) -> AuthMeshMiddleware:
    return AuthMeshMiddleware(recorder, settings=target.settings)


# --- the answers ------------------------------------------------------------------------


def test_every_401_is_the_same(
    app: AuthMeshMiddleware, controller: Device, stranger: Device, recorder: Recorder
) -> None:
    good = signed(controller)
    assert ask(app, dict(good))[0] == 200
    late = controller.sign("GET", "/", clock=lambda: time.time() - 45).decode()
    cases = [
        good,
        signed(stranger),
        good | {"RAW_URI": "/x", "PATH_INFO": "/x"},
        environ_of(HTTP_AUTHORIZATION=late),
    ]
    answers = [ask(app, case) for case in cases]
    assert answers == [
        (
            401,
            {
                "Content-Type": "application/json",
                "Content-Length": "24",
                "Cache-Control": "no-store",
                "Www-Authenticate": "AuthMesh",
            },
            b'{"error":"unauthorized"}',
        )
    ] * len(cases)
    assert len(recorder.environs) == 1


def test_an_answer_to_head_has_no_body(app: AuthMeshMiddleware) -> None:
    status, headers, body = ask(app, environ_of("HEAD"))
    assert (status, body) == (400, b"")
    assert headers["Content-Length"] == str(len(b'{"error":"missing_header"}'))


class Lost:
    def spend(self, device_id: str, nonce: str, ttl_seconds: int) -> bool:
        raise NonceStoreUnreachable("no connection")


def test_a_lost_nonce_store_answers_503(target: Device, controller: Device) -> None:
    recorder = Recorder()
    app = AuthMeshMiddleware(recorder, settings=target.settings, nonce_store=Lost())
    assert ask(app, signed(controller))[::2] == (503, b'{"error":"unavailable"}')
    assert not recorder.environs


class ForEventLoops:
    async def spend(self, device_id: str, nonce: str, ttl_seconds: int) -> bool:
        raise AssertionError("never called")


def test_a_store_for_event_loops_lets_nobody_in(
    target: Device, controller: Device, caplog: pytest.LogCaptureFixture
) -> None:
    """A coroutine that nobody awaits is true, whatever it would have said."""
    recorder = Recorder()
    app = AuthMeshMiddleware(recorder, settings=target.settings, nonce_store=ForEventLoops())
    assert ask(app, signed(controller))[0] == 500
    assert "this nonce store needs an event loop" in caplog.text
    assert not recorder.environs


# --- the body ---------------------------------------------------------------------------


def test_nothing_is_read_before_the_head_is_good(
    app: AuthMeshMiddleware, controller: Device, stranger: Device, recorder: Recorder
) -> None:
    forged = b"x" * 1_000_000
    late = controller.sign("POST", "/", clock=lambda: time.time() - 45).decode()
    for environ, status in [
        (environ_of("POST", "/", forged), 400),
        (environ_of("POST", "/", forged, HTTP_AUTHORIZATION="AuthMesh junk"), 400),
        (signed(stranger, "POST", "/", forged), 401),
        (environ_of("POST", "/", forged, HTTP_AUTHORIZATION=late), 401),
        (signed(controller, "POST", "/", forged, CONTENT_LENGTH="2000000"), 413),
        (signed(controller, "POST", "/", forged, CONTENT_LENGTH="+5"), 400),
        (signed(controller, "POST", "/", forged, CONTENT_LENGTH="5, 5"), 400),
    ]:
        assert ask(app, environ)[0] == status
        assert environ["wsgi.input"].bytes_read == 0
    assert not recorder.environs


def test_a_body_without_length_is_read_up_to_the_limit(target: Device, controller: Device) -> None:
    recorder = Recorder()
    app = AuthMeshMiddleware(recorder, settings=target.settings, max_body_bytes=100_000)
    endless = Input(b"x" * 1_000_000)
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    environ = signed(controller, "POST") | chunked | {"wsgi.input": endless}
    assert ask(app, environ)[0] == 413
    assert endless.bytes_read == 100_001
    assert not recorder.environs


@pytest.mark.parametrize("over", [0, 1])
def test_the_limit_is_exact(target: Device, controller: Device, over: int) -> None:
    app = AuthMeshMiddleware(Recorder(), settings=target.settings, max_body_bytes=100)
    environ = signed(controller, "POST", "/", b"x" * (100 + over))
    assert ask(app, environ)[0] == (413 if over else 200)


def test_the_application_reads_what_was_verified(
    app: AuthMeshMiddleware, controller: Device, recorder: Recorder
) -> None:
    body = bytes(range(256))
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    environ = signed(controller, "POST", "/", body) | chunked
    del environ["CONTENT_LENGTH"]
    assert ask(app, environ)[0] == 200
    assert recorder.bodies == [body]
    (seen,) = recorder.environs
    assert (seen["CONTENT_LENGTH"], seen["wsgi.input_terminated"]) == ("256", True)
    assert "HTTP_TRANSFER_ENCODING" not in seen, "it is a body of known length now"


def test_bytes_behind_the_content_length_are_not_the_bodys(
    app: AuthMeshMiddleware, controller: Device, recorder: Recorder
) -> None:
    """A server whose input does not end: what follows is the next request."""
    environ = signed(controller, "POST", "/", b"body")
    environ["wsgi.input"] = Input(b"bodyGET /next HTTP/1.1")
    assert ask(app, environ)[0] == 200
    assert recorder.bodies == [b"body"]
    without = signed(controller, "POST", "/") | {
        "wsgi.input": Input(b"GET /next"),
        "CONTENT_LENGTH": "",
    }
    assert ask(app, without)[0] == 200
    assert recorder.bodies[1] == b""


def test_a_chunked_body_that_nobody_ends_is_refused(
    app: AuthMeshMiddleware, controller: Device, caplog: pytest.LogCaptureFixture
) -> None:
    environ = signed(controller, "POST", "/", HTTP_TRANSFER_ENCODING="chunked")
    assert ask(app, environ)[0] == 500
    assert "wsgi.input_terminated" in caplog.text


@pytest.mark.parametrize(
    "broken", [Input(b"short"), Input(b"", fails=True)], ids=["short", "reset"]
)
def test_a_body_that_is_not_whole(
    app: AuthMeshMiddleware, controller: Device, recorder: Recorder, broken: Input
) -> None:
    environ = signed(controller, "POST", "/", b"whole body") | {"wsgi.input": broken}
    assert ask(app, environ)[::2] == (400, b'{"error":"malformed_request"}')
    assert not recorder.environs


# --- what an application sees -----------------------------------------------------------


def test_nobody_else_says_who_the_caller_is(target: Device, controller: Device) -> None:
    recorder = Recorder()
    app = AuthMeshMiddleware(recorder, settings=target.settings, exclude=("/health",))
    assert ask(app, environ_of(target="/health", auth_mesh="root"))[0] == 200
    assert "auth_mesh" not in recorder.environs[0]
    ask(app, signed(controller, auth_mesh="root"))
    assert recorder.environs[1]["auth_mesh"].device_id == controller.device_id


def start_nothing(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
    raise AssertionError("the application answers, not we")


def test_an_answer_that_streams_is_the_applications_own(target: Device, controller: Device) -> None:
    class Stream:
        """With a `close` that the server calls, as PEP 3333 wants."""

        def __iter__(self) -> Iterator[bytes]:
            yield b"one"

    stream = Stream()
    app = AuthMeshMiddleware(lambda environ, start: stream, settings=target.settings)
    assert app(signed(controller), start_nothing) is stream


def test_an_open_path_keeps_its_body(target: Device) -> None:
    recorder = Recorder()
    app = AuthMeshMiddleware(
        recorder, settings=target.settings, exclude=("/health",), max_body_bytes=1
    )
    environ = environ_of("POST", "/health", b"as it is")
    stream = environ["wsgi.input"]
    assert ask(app, environ)[0] == 200
    assert recorder.environs[0]["wsgi.input"] is stream


# --- the list ---------------------------------------------------------------------------


def test_the_list_is_read_once_until_it_changes(
    app: AuthMeshMiddleware, target: Device, controller: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By eight threads: one reading, and one check of the seal, for each change."""
    read: list[bytes] = []
    real = AllowList.parse

    def counting(data: bytes, key: DeviceKey) -> AllowList:
        read.append(data)
        return real(data, key)

    monkeypatch.setattr(AllowList, "parse", staticmethod(counting))
    target.revoke(controller)
    target.trust(controller)
    read.clear()

    def eight() -> list[int]:
        return together(8, lambda n: ask(app, signed(controller, "GET", f"/{n}"))[0])

    assert eight() == [200] * 8
    assert len(read) == 1
    assert eight() == [200] * 8
    assert len(read) == 1
    target.revoke(controller)
    read.clear()
    assert eight() == [401] * 8
    assert len(read) == 1
    target.trust(controller)
    assert eight() == [200] * 8


def test_a_tampered_list_answers_500_until_it_is_mended(
    app: AuthMeshMiddleware, target: Device, controller: Device
) -> None:
    assert ask(app, signed(controller))[0] == 200
    whole = target.list_file.read_bytes()
    forged = json.loads(whole)
    forged["devices"] = []
    target.list_file.write_text(json.dumps(forged))
    for _ in range(3):
        answer = ask(app, signed(controller))
        assert answer[::2] == (500, b'{"error":"allow_list_integrity_failure"}')
    target.list_file.unlink()
    assert ask(app, signed(controller))[0] == 500
    target.list_file.write_bytes(whole)
    assert ask(app, signed(controller))[0] == 200


# --- the start --------------------------------------------------------------------------


def test_the_key_is_unlocked_when_it_is_asked_for(
    target: Device, controller: Device, derivations: list[int]
) -> None:
    # Other settings than everybody's, so that nothing is unlocked yet.
    settings = Settings(target.home.directory, relay_url="wss://elsewhere.example/ws")
    app = AuthMeshMiddleware(Recorder(), settings=settings)
    assert derivations == []
    app.prepare()
    assert len(derivations) == 1
    header = controller.sign("GET", "/").decode()
    derivations.clear()
    assert ask(app, environ_of(HTTP_AUTHORIZATION=header))[0] == 200
    assert derivations == []


def test_a_program_without_identity_can_end_at_its_start(target: Device) -> None:
    nowhere = Settings(target.home.directory / "nothing-here")
    app = AuthMeshMiddleware(Recorder(), settings=nowhere)
    with pytest.raises(NoIdentity):
        app.prepare()


def test_without_that_the_first_request_says_why(
    target: Device, controller: Device, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    nowhere = Settings(target.home.directory / "nothing-here")
    app = AuthMeshMiddleware(recorder, settings=nowhere)
    assert ask(app, signed(controller))[::2] == (500, b'{"error":"internal_error"}')
    assert "no identity in" in caplog.text
    assert not recorder.environs


def test_a_broken_list_does_not_stop_the_start(
    target: Device, controller: Device, caplog: pytest.LogCaptureFixture
) -> None:
    whole = target.list_file.read_bytes()
    target.list_file.write_bytes(whole.replace(b'"laptop"', b'"mallet"'))
    AuthMeshMiddleware(Recorder(), settings=target.settings).prepare()
    assert [vars(line)["reason"] for line in caplog.records] == ["allow_list_tampered"]
    target.list_file.write_bytes(whole)


@pytest.mark.parametrize(
    "options",
    [
        {"nonce_window_seconds": 59},
        {"clock_skew_seconds": -1},
        {"max_body_bytes": -1},
        {"exclude": "/health"},
        {"include": ("health",)},
    ],
)
def test_options_that_cannot_work_stop_the_program(target: Device, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        AuthMeshMiddleware(Recorder(), settings=target.settings, **options)


def test_every_option_arrives(target: Device, controller: Device) -> None:
    """Each changes what happens; none is dropped on the way to the guard."""
    early = controller.sign("GET", "/", clock=lambda: time.time() + 45).decode()
    wide: dict[str, Any] = {"clock_skew_seconds": 60, "nonce_window_seconds": 120}
    store = MemoryNonceStore(clock=time.monotonic, max_nonces_per_device=1)
    app = AuthMeshMiddleware(Recorder(), settings=target.settings, nonce_store=store, **wide)
    assert ask(app, environ_of(HTTP_AUTHORIZATION=early))[0] == 200
    assert ask(app, signed(controller))[0] == 503
    included = AuthMeshMiddleware(Recorder(), settings=target.settings, include=("/admin",))
    assert ask(included, environ_of(target="/public"))[0] == 200
    assert ask(included, environ_of(target="/admin"))[0] == 400


# --- several processes ------------------------------------------------------------------


def test_several_processes_are_warned_about_once(
    target: Device, controller: Device, caplog: pytest.LogCaptureFixture
) -> None:
    app = AuthMeshMiddleware(Recorder(), settings=target.settings)
    ask(app, signed(controller))
    assert not caplog.records
    for _ in range(3):
        ask(app, signed(controller) | {"wsgi.multiprocess": True})
    assert [vars(line)["reason"] for line in caplog.records] == ["nonce_store_not_shared"]
    caplog.clear()
    shared = AuthMeshMiddleware(Recorder(), settings=target.settings, nonce_store=Lost())
    ask(shared, environ_of() | {"wsgi.multiprocess": True})
    assert [vars(line)["reason"] for line in caplog.records] == ["missing_header"]


def test_one_request_in_sixteen_threads_is_let_in_once(
    app: AuthMeshMiddleware, controller: Device, recorder: Recorder
) -> None:
    value = controller.sign("POST", "/", b"x").decode()
    lock = threading.Lock()
    statuses: list[int] = []

    def one(_: int) -> None:
        status = ask(app, environ_of("POST", "/", b"x", HTTP_AUTHORIZATION=value))[0]
        with lock:
            statuses.append(status)

    together(16, one)
    assert sorted(statuses) == [200] + [401] * 15
    assert len(recorder.environs) == 1

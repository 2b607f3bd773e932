"""The Flask extension, in this process."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, g, request

from amesh_core.errors import UsageError
from amesh_sdk.flask import AuthMesh
from tests.sdk.devices import Device


def make_app(**config: Any) -> Flask:
    app = Flask(__name__)
    app.config.update(config)

    @app.route("/orders", methods=["GET", "POST"])
    def orders() -> dict[str, Any]:
        amount = request.form.get("amount")
        return {"from": g.auth_mesh.device_id, "amount": amount, "raw": request.get_data().hex()}

    @app.get("/open")
    def health() -> dict[str, bool]:
        return {"known": "auth_mesh" in g}

    return app


def post(app: Flask, device: Device, body: bytes, **more: Any) -> Any:
    value = device.sign("POST", "/orders", body).decode()
    headers = {"Authorization": value, "Content-Type": "application/x-www-form-urlencoded"}
    return app.test_client().post("/orders", data=body, headers=headers, **more)


def test_an_application_factory(target: Device, controller: Device) -> None:
    extension = AuthMesh(settings=target.settings, exclude=("/open",))
    one, other = make_app(), make_app()
    extension.init_app(one)
    extension.init_app(other)
    for app in (one, other):
        answer = post(app, controller, b"amount=100")
        assert answer.json == {
            "from": controller.device_id,
            "amount": "100",
            "raw": b"amount=100".hex(),
        }
        assert app.test_client().get("/open").json == {"known": False}
        assert app.test_client().get("/orders").status_code == 400


def test_hooks_that_were_there_before_know_who_calls(target: Device, controller: Device) -> None:
    app = make_app()
    callers: list[str] = []
    app.before_request(lambda: callers.append(g.auth_mesh.friendly_name))
    AuthMesh(app, settings=target.settings)
    assert post(app, controller, b"").status_code == 200
    assert app.test_client().get("/orders").status_code == 400
    assert callers == ["laptop"], "and nothing runs for who is refused"


def test_what_was_planted_is_nobody(target: Device) -> None:
    app = make_app()
    AuthMesh(app, settings=target.settings, exclude=("/open",))
    planted = {"auth_mesh": "root"}
    assert app.test_client().get("/open", environ_overrides=planted).json == {"known": False}


def test_the_apps_own_limit_counts_too(target: Device, controller: Device) -> None:
    app = make_app(MAX_CONTENT_LENGTH=5)
    AuthMesh(app, settings=target.settings)
    assert post(app, controller, b"a=100").status_code == 200
    assert post(app, controller, b"a=1000").status_code == 413


def test_a_view_that_reads_the_stream(target: Device, controller: Device) -> None:
    app = Flask(__name__)

    @app.post("/orders")
    def orders() -> dict[str, str]:
        read = b"".join(iter(lambda: request.stream.read(3), b""))
        return {"streamed": read.decode(), "kept": request.get_data(as_text=True)}

    AuthMesh(app, settings=target.settings)
    assert post(app, controller, b"amount=100").json == {
        "streamed": "amount=100",
        "kept": "amount=100",
    }


def test_a_view_may_raise_the_apps_limit_for_itself(target: Device, controller: Device) -> None:
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 5

    @app.post("/orders")
    def orders() -> bytes:
        request.max_content_length = 10
        return request.get_data()

    AuthMesh(app, settings=target.settings)
    assert post(app, controller, b"amount=100").data == b"amount=100"
    assert post(app, controller, b"amount=1000").status_code == 413


def test_an_error_of_the_app_stays_its_own(target: Device, controller: Device) -> None:
    app = Flask(__name__)
    AuthMesh(app, settings=target.settings)
    answer = post(app, controller, b"")
    assert answer.status_code == 404
    assert b"error" not in answer.data


@pytest.mark.parametrize(
    "options",
    [
        {"clock_skew_seconds": 31},
        {"exclude": "/x"},
        {"max_body_bytes": -1},
        {"nonce_stor": None},
        {"exclude": ("/x",), "included": ("/y",)},
    ],
)
def test_options_that_cannot_work_stop_the_program(target: Device, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        AuthMesh(make_app(), settings=target.settings, **options)

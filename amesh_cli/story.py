"""The demo: the whole story on localhost, with the parts a user would run.

Every step is checked; `tell` raises at the first that does not come out as it must, and
whatever was started or written is gone afterwards.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from amesh_cli import serving, terminal
from amesh_cli.actors import Actor, run
from amesh_core.errors import AmeshError, UsageError

SERVER: Final = """\
from fastapi import FastAPI, Request
from amesh_sdk.asgi import AuthMeshMiddleware

app = FastAPI()
app.add_middleware(AuthMeshMiddleware)

@app.post("/orders")
async def orders(request: Request):
    device = request.state.auth_mesh
    return {"from": device.friendly_name, "device": device.device_id}
"""

CLIENT: Final = """\
import sys
from amesh_sdk import amesh

response = amesh.fetch(sys.argv[1], method="POST", json={"amount": 100})
print(response.status_code, response.text)
"""

# Not shown: signs without sending, so that the story can send the same bytes twice.
SIGNER: Final = """\
import json, sys
from amesh_sdk import amesh

print(json.dumps(amesh.sign("POST", sys.argv[1], sys.argv[2].encode())))
"""

BODY: Final = b'{"amount":100}'
OTHER_BODY: Final = b'{"amount":999}'


class StoryFailed(AmeshError):
    """A step of the demo did not come out as it must."""

    code = "demo_failed"


def tell() -> None:
    """Run the whole story.

    Raises:
        UsageError: FastAPI or uvicorn is not installed.
        StoryFailed: a step came out wrong.
    """
    for module in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"the demo needs {module}: pip install 'authmesh[demo]'")
    with tempfile.TemporaryDirectory(prefix="amesh-demo-") as scratch, contextlib.ExitStack() as on:
        _tell(Path(scratch), on)
    terminal.result()
    terminal.result("Every step came out as it must; the demo's files and processes are gone.")
    terminal.result("Your turn: amesh init --name NAME", style="bold")


def _tell(scratch: Path, on: contextlib.ExitStack) -> None:
    terminal.result("amesh: two devices, one code, one signed request", style="bold")

    _heading(1, "Every device makes a key of its own; it never leaves the device")
    laptop, prod_api, stranger = (
        Person(name, scratch / name) for name in ("laptop", "prod-api", "stranger")
    )
    for person in (laptop, prod_api, stranger):
        person.init()
    _note("with --backend encrypted-file: nothing is left behind")

    _heading(
        2, "Two of them pair, once: a relay introduces them, six digits prove no one is between"
    )
    command = ("-m", "amesh_relay", "--host", "127.0.0.1", "--port", "0")
    relay = on.enter_context(Actor(*command, env=serving.environment()))
    relay_url = relay.expect(r"(ws://\S+)")
    _pair(laptop, prod_api, relay_url, on)
    relay.stop()
    _line("the relay is stopped", "it is not needed any more")

    _heading(3, "A service lets in who is paired (server.py, run by uvicorn on prod-api)")
    _code(SERVER)
    url, server = _serve(prod_api, scratch, on)
    _check("without a signature", _send(url, BODY, {}), 400, server)

    _heading(4, "The laptop calls it (client.py)")
    _code(CLIENT)
    answer = laptop.python(CLIENT, url)
    _expect(answer.startswith("200 ") and '"from":"laptop"' in answer, f"got {answer}")
    _line("signed by the laptop", f"✓ {answer}")

    _heading(
        5, "Nobody else gets in: one answer for every reason, the reason only in the server's log"
    )
    signed = json.loads(laptop.python(SIGNER, url, BODY.decode()))
    _check("a signed request, sent by hand", _send(url, BODY, signed), 200, server)
    _check("the same request again", _send(url, BODY, signed), 401, server)
    signed = json.loads(laptop.python(SIGNER, url, BODY.decode()))
    _check("another body under the signature", _send(url, OTHER_BODY, signed), 401, server)
    foreign = json.loads(stranger.python(SIGNER, url, BODY.decode()))
    _check("a device that was never paired", _send(url, BODY, foreign), 401, server)

    _heading(6, "Trust ends with one command, from the next request on")
    prod_api.amesh("revoke", "laptop", "--yes")
    _command(prod_api, "amesh revoke laptop", "no longer trusted")
    signed = json.loads(laptop.python(SIGNER, url, BODY.decode()))
    _check("signed by the revoked laptop", _send(url, BODY, signed), 401, server)


class Person:
    """One device and its directory; runs commands as its owner would."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        # Nothing of the caller's own amesh may reach the demo, or the other way round.
        self.environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("AMESH_", "AUTH_MESH_")) and key != "CREDENTIALS_DIRECTORY"
        } | {"AUTH_MESH_DIR": str(directory)}

    def amesh(self, *arguments: str) -> str:
        """Run an amesh command to its end; returns its stdout."""
        return self._run("-m", "amesh_cli", *arguments)

    def python(self, program: str, *arguments: str) -> str:
        """Run a small program that uses the SDK; returns its stdout without the newline."""
        return self._run("-c", program, *arguments).rstrip("\n")

    def _run(self, *arguments: str) -> str:
        status, out, err = run(*arguments, env=self.environment)
        _expect(
            status == 0, f"python {' '.join(arguments[:3])} exited with {status}: {err.strip()}"
        )
        return out

    def init(self) -> None:
        """Make the identity and show what a person would keep in mind."""
        # Not the best back end: what the demo makes is thrown away, and a chip or keychain is not.
        in_files = ("--backend", "encrypted-file")
        made = json.loads(self.amesh("init", "--name", self.name, *in_files, "--json"))
        _command(self, f"amesh init --name {self.name}", made["deviceId"])


def _pair(controller: Person, target: Person, relay_url: str, on: contextlib.ExitStack) -> None:
    listen = on.enter_context(
        Actor(
            "-m",
            "amesh_cli",
            "listen",
            "--relay",
            relay_url,
            "--digits-stdin",
            env=target.environment,
        )
    )
    code = listen.expect(r"amesh invite (\d{6})")
    _command(target, "amesh listen", f"code {code}")
    invite = on.enter_context(
        Actor(
            *("-m", "amesh_cli", "invite", code, "--relay", relay_url, "--assume-match"),
            env=controller.environment,
        )
    )
    digits = invite.expect(r"digits:? *(\d{3} ?\d{3})")
    _command(controller, f"amesh invite {code}", f"digits {digits}")
    listen.write(f"{digits}\n")
    listen.expect("matched")
    _command(target, digits.replace(" ", ""), "typed here, and they match")
    for side in (listen, invite):
        _expect(side.wait() == 0, f"pairing failed: {side.said}")
    _line(f'"{controller.name}" may now call "{target.name}"', "and not the other way round")


def _serve(target: Person, scratch: Path, on: contextlib.ExitStack) -> tuple[str, Actor]:
    (scratch / "server.py").write_text(SERVER)
    (scratch / "log.json").write_text(json.dumps(_LOG))
    server = on.enter_context(
        Actor(
            *("-m", "uvicorn", "server:app", "--host", "127.0.0.1", "--port", "0"),
            *("--app-dir", str(scratch), "--log-config", str(scratch / "log.json")),
            env=target.environment,
        )
    )
    return server.expect(r"running on (http://\S+)") + "/orders", server


# What uvicorn says at the start, and why a request was refused; no line per request.
_LOG: Final[dict[str, Any]] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {
        "uvicorn.error": {"handlers": ["stderr"], "level": "INFO"},
        "amesh": {"handlers": ["stderr"], "level": "INFO"},
    },
}


def _send(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    scheme_and_host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(scheme_and_host, timeout=10)
    with contextlib.closing(connection):
        kind = {"Content-Type": "application/json"}
        connection.request("POST", f"/{path}", body=body, headers=headers | kind)
        response = connection.getresponse()
        return response.status, response.read().decode()


def _check(what: str, answer: tuple[int, str], wanted: int, server: Actor) -> None:
    status, text = answer
    _expect(status == wanted, f"{what}: {status} {text} instead of {wanted}")
    _line(what, f"✓ {status} {text}")
    if status >= 400:
        _note(f"  its log: {server.expect(r'amesh.verify refused: (.*)')}")


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise StoryFailed(otherwise)


def _heading(number: int, text: str) -> None:
    terminal.result()
    terminal.result(f"{number}. {text}", style="bold")


def _command(person: Person, typed: str, outcome: str) -> None:
    terminal.result(f"   {person.name:>8} $ {typed:<29}{outcome}")


def _line(label: str, text: str) -> None:
    terminal.result(f"   {label:<40}{text}")


def _note(text: str) -> None:
    terminal.result(f"   {'':<40}{text}", style="dim")


def _code(text: str) -> None:
    for line in text.splitlines():
        terminal.result(f"   │ {line}", style="cyan")

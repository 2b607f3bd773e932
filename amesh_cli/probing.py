"""`amesh doctor --against URL`: probe a server that verifies, and say what changes on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urljoin, urlsplit

import httpx2

from amesh_cli import checks, probes, terminal, web
from amesh_cli.checks import Check, fail, ok, warn
from amesh_cli.courier import GATEWAY_ERRORS, TIMEOUT_SECONDS, Answer, Courier
from amesh_cli.probes import Probe, Request
from amesh_core.errors import MalformedRequest, NoAnswer, UsageError
from amesh_core.identity import DeviceKey
from amesh_core.wire.target import canonical_target

_LOOK_CLOSER: Final = (
    "let both sides write down the request (AMESH_DEBUG_REQUESTS=1) and give both logs to "
    "`amesh explain`"
)
_NO_HEADER_OF_ITS_OWN: Final = (
    "let the proxy neither set nor add an Authorization header: a request has one, the signature"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where to probe: an origin such as https://api.example, and a path there."""

    origin: str
    path: str


def parse_place(url: str) -> Place:
    """Read the URL to probe.

    Raises:
        UsageError: not http:// or https://, or a path that no signature covers.
    """
    parts = urlsplit(web.check_url(url))
    path = parts.path or "/"
    try:
        canonical_target(path.encode("utf-8"))
    except MalformedRequest:
        raise UsageError(
            "the path of the URL must be percent-encoded, without dots or //"
        ) from None
    return Place(f"{parts.scheme}://{parts.netloc}", path)


def probe(place: Place, key: DeviceKey) -> Iterator[Check]:
    """Look at the way to a server that verifies, from the first answer to the last detail."""
    with httpx2.Client(timeout=TIMEOUT_SECONDS) as client:
        yield from Prober(Courier(place.origin, key, client)).run(place)


class Prober:
    """One run of all probes; what the first ones find out, the later ones build on."""

    def __init__(self, courier: Courier) -> None:
        self._courier = courier
        self._prefix: tuple[str, str] = ("", "")  # taken off, put in its place

    def run(self, place: Place) -> Iterator[Check]:
        """Every check in order; ends early when nothing more could be learned."""
        first = probes.plain(place.path)
        try:
            answer = self._courier.unsigned(first.request)
        except NoAnswer as error:
            yield checks.of_error("server", error)
            return
        yield (reached := self._reached(place, answer))
        if reached.verdict is checks.Verdict.FAIL:
            return
        yield self._clock(answer)
        yield (found := self._try(first))
        if found.verdict is checks.Verdict.FAIL and self._prefix == ("", ""):
            return
        for other in probes.all_others(place.path):
            yield self._try(other)
        yield self._redirect(place)

    def _reached(self, place: Place, answer: Answer) -> Check:
        name, where = "server", f"{place.origin}{place.path}"
        match answer:
            case Answer(code="missing_header"):
                return ok(name, f"AuthMesh answers at {where}{_by(answer)}")
            case Answer(code="malformed_header"):
                message = f"something on the way adds an Authorization header{_by(answer)}"
                return fail(name, message, _NO_HEADER_OF_ITS_OWN)
            case Answer(code=str(code)):
                hint = "look at its log, logger `amesh.verify`, and run `amesh doctor` there"
                return fail(name, f"AuthMesh at {where} cannot verify anything: {code}", hint)
            case Answer(status=status, location=str(location)) if 300 <= status < 400:
                to = terminal.printable(urljoin(where, location))
                return fail(name, f"{where} leads to {to}{_by(answer)}", "use that URL instead")
            case Answer(status=status) if status in GATEWAY_ERRORS:
                hint = "start the application, and see whom the proxy asks"
                return fail(name, f"{where} answers {status}{_by(answer)}", hint)
            case Answer(status=401):
                hint = (
                    "credentials of its own cannot share the Authorization header with a signature"
                )
                message = f"{where} asks for a password before AuthMesh does{_by(answer)}"
                return fail(name, message, hint)
            case _:
                hint = (
                    "AuthMesh is not there, leaves this path open (exclude, include), or something "
                    "in front answers; name a URL that it protects"
                )
                message = f"{where} answers {answer.status} without a signature{_by(answer)}"
                return fail(name, message, hint)

    def _clock(self, answer: Answer) -> Check:
        now = self._courier.clock()
        ahead = checks.skew_of(answer.date, now)
        if ahead is not None:
            # Whatever the clocks say, the probes that follow are about something else.
            self._courier.behind_seconds = -ahead
        return checks.of_clock(answer.date, now, "the server")

    def _try(self, one: Probe) -> Check:
        try:
            return self._tried(one)
        except NoAnswer as error:
            return checks.of_error(one.name, error)

    def _tried(self, one: Probe) -> Check:
        sent, expected = one.request, self._arriving(one.request)
        control = self._courier.unsigned(sent)
        if control.code is None:
            return warn(
                one.name,
                f"{sent.method} {sent.target.decode()} does not reach AuthMesh: answered "
                f"{control.status} before{_by(control)}",
                "let the proxy pass it on, if your application needs it",
            )
        answer = self._courier.signed(sent, expected)
        if answer.let_in:
            but = "" if expected == sent else ", but for the prefix"
            return ok(one.name, f"arrives as it was sent{but}")
        if answer.code != "unauthorized":
            return self._not_judged(one, answer)
        tried = 0
        for arriving in one.arrivals(expected):
            tried += 1
            if self._is_let_in(sent, arriving):
                self._learn(one, expected, arriving)
                message = f"{probes.shown(sent, expected, arriving)}{_by(answer)}"
                return fail(one.name, message, probes.cause(expected, arriving))
        message = f"refused, and none of {tried} usual changes on the way explains it"
        if one.name == "path":
            hint = (
                "see on the server whether `amesh list` has this device as one that may call it, "
                f"and what its log says (amesh.verify); if that is no help, {_LOOK_CLOSER}"
            )
            return fail(one.name, message, hint)
        return fail(one.name, message, _LOOK_CLOSER)

    def _is_let_in(self, sent: Request, arriving: Request) -> bool:
        try:
            return self._courier.signed(sent, arriving).let_in
        except MalformedRequest:  # nothing that could ever be signed
            return False

    def _not_judged(self, one: Probe, answer: Answer) -> Check:
        match answer.code:
            case "missing_header":
                message = "the Authorization header is taken off on the way"
                hint = (
                    "let the proxy pass it on (nginx: proxy_set_header Authorization "
                    "$http_authorization)"
                )
            case "malformed_header" | "unsupported_version":
                message = "the Authorization header is changed on the way, or a second one added"
                hint = _NO_HEADER_OF_ITS_OWN
            case "malformed_request":
                message = "what arrives cannot be signed: dots or // in the path, an absolute URL"
                hint = _LOOK_CLOSER
            case None:
                message = f"answered {answer.status}{_by(answer)}"
                hint = "start the application, and see whom the proxy asks"
            case code:
                message = f"AuthMesh cannot verify: {code}"
                hint = "look at its log, logger `amesh.verify`, and run `amesh doctor` there"
        return fail(one.name, message, hint)

    def _learn(self, one: Probe, sent: Request, arriving: Request) -> None:
        if one.name != "path":
            return
        if sent.path.endswith(arriving.path):
            self._prefix = (sent.path.removesuffix(arriving.path), "")
        elif arriving.path.endswith(sent.path):
            self._prefix = ("", arriving.path.removesuffix(sent.path))
        elif arriving.path == "/":
            self._prefix = (sent.path, "")

    def _arriving(self, request: Request) -> Request:
        taken_off, put_in_front = self._prefix
        path = put_in_front + (request.path.removeprefix(taken_off) or "/")
        return replace(request, path=path)

    def _redirect(self, place: Place) -> Check:
        """Ask for what may be redirected: the path with or without its last slash."""
        name = "redirect"
        if place.path == "/":
            return ok(name, "none to try")
        path = place.path.rstrip("/") if place.path.endswith("/") else f"{place.path}/"
        request = Request("GET", path)
        answer = self._courier.signed(request, self._arriving(request))
        if answer.location is None or not 300 <= answer.status < 400:
            return ok(name, f"none at {path}")
        here = f"{place.origin}{path}"
        there = urljoin(here, answer.location)
        shown = terminal.printable(there)
        parts = urlsplit(there)
        if parts[:2] == urlsplit(here)[:2]:
            following = Request("GET", parts.path or "/", parts.query)
            if self._courier.unsigned(following).code is not None:
                return ok(name, f"{path} leads to {shown}, which is signed anew")
            hint = "tell the server which prefix is taken off on the way (uvicorn --root-path)"
            return fail(name, f"{path} leads to {shown}, where AuthMesh does not answer", hint)
        hint = (
            "tell the application how it was called: pass Host and X-Forwarded-Proto on (nginx: "
            "proxy_set_header Host $http_host), and let the server believe them (uvicorn "
            "--proxy-headers)"
        )
        return fail(name, f"{path} leads to {shown}, where no signature goes{_by(answer)}", hint)


def _by(answer: Answer) -> str:
    """Who gave the answer, as far as it says: it may be a hop in front of the application."""
    return f', by way of "{terminal.printable(answer.server)}"' if answer.server else ""

"""What the documents say is so: their examples are recomputed, what they name exists."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from amesh_core import crypto, identity, provisioning, rotation
from amesh_core.card import introduce
from amesh_core.channel import Channel, commitment, transcript
from amesh_core.errors import MalformedRequest
from amesh_core.identity import Role
from amesh_core.keystore.encrypted_file import COST, software_key
from amesh_core.request import canonical_string
from amesh_core.wire import header, relay
from amesh_core.wire import pairing as pairing_wire
from amesh_core.wire.announce import AnnounceFile
from amesh_core.wire.card import Card
from amesh_core.wire.encoding import b64, b64u, instant, unb64
from amesh_core.wire.files import AllowListFile, KeyFile
from amesh_core.wire.mark import MarkFile, sealed_bytes
from amesh_core.wire.target import canonical_target
from amesh_relay import limits
from amesh_relay.connection import MAX_FRAGMENTS
from tests.sdk.servers.processes import Program, call, running
from tests.support.cli import environment
from tests.support.home import make_home, record

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENTS: Final = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
)
PACKAGES: Final = ("amesh_core", "amesh_relay", "amesh_cli", "amesh_sdk")

_EXAMPLE: Final = re.compile(
    r"^<!-- example: (?P<name>[a-z-]+) -->\n"
    r"(?:```\w+\n(?P<block>.*?)\n```|(?P<table>(?:\|[^\n]*\n)+))",
    re.DOTALL | re.MULTILINE,
)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def protocol_examples() -> dict[str, str]:
    """The worked examples of docs/protocol.md by name."""
    found = list(_EXAMPLE.finditer(read("docs/protocol.md")))
    assert len(found) == read("docs/protocol.md").count("<!-- example:") - 1  # and the one in prose
    return {match["name"]: match["block"] or match["table"] for match in found}


def example(name: str) -> Any:
    """A JSON example."""
    return json.loads(protocol_examples()[name])


# --- docs/protocol.md -------------------------------------------------------------------


def test_every_example_is_recomputed_below() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    used = set(re.findall(r"(?:protocol_examples\(\)\[|example\()\"([a-z-]+)\"", source))
    assert used == set(protocol_examples())


def test_the_identity_example() -> None:
    shown = example("identity")
    key = crypto.PrivateKey.from_scalar(bytes.fromhex(shown["privateScalar"]))
    assert shown["publicKey"] == b64(key.public)
    assert shown["deviceId"] == identity.device_id(key.public)


def test_the_bootstrap_example() -> None:
    shown = example("bootstrap")
    claims = provisioning.accept(shown["token"], shown["now"]).claims
    assert crypto.sha256(shown["token"].encode()).hex() == shown["tokenHash"]
    assert provisioning.hash_of(shown["token"]).hex() == shown["tokenHash"]
    target = shown["targetPublicKey"]
    parts = ("amesh-bootstrap-init-v1", target, claims.jti, shown["friendlyName"])
    assert shown["init"] == "\n".join(parts)
    mac = crypto.hmac_sha256(bytes.fromhex(shown["tokenHash"]), shown["init"].encode())
    assert shown["mac"] == b64(mac)
    assert shown["ack"] == "\n".join(("amesh-bootstrap-ack-v1", target, claims.jti))
    crypto.verify(claims.public_key, unb64(shown["controllerSig"]), shown["ack"].encode())
    provisioning.check_acknowledgement(
        claims.public_key,
        unb64(target),
        claims.jti,
        b64(claims.public_key),
        shown["controllerSig"],
    )


def test_the_announcement_example_is_that_of_the_bootstrap_example() -> None:
    text, bootstrap = protocol_examples()["announcement"], example("bootstrap")
    claims = provisioning.accept(bootstrap["token"], bootstrap["now"]).claims
    file = AnnounceFile.parse(text.encode())
    assert file.encode().decode() == text
    assert (file.relay_url, file.expires_at) == (claims.relay, instant(claims.expires_at))
    assert file.controller_public_key == claims.public_key
    announcement = provisioning.Announcement.parse(file.frame)
    provisioning.check_announcement(announcement, provisioning.hash_of(bootstrap["token"]))


def test_the_key_file_example_opens_with_its_passphrase() -> None:
    shown = example("key-file")
    file = KeyFile.parse(json.dumps(shown["file"]).encode())
    assert file.cost == COST
    key = crypto.argon2id(
        shown["passphrase"].encode(), file.salt, t=file.cost.t, m=file.cost.m, p=file.cost.p
    )
    scalar = crypto.aes_gcm_decrypt(key, file.nonce, file.ciphertext)
    assert scalar.hex() == shown["privateScalar"]
    assert crypto.PrivateKey.from_scalar(scalar).public == file.public_key


def test_the_seal_example_under_the_key_of_the_key_file_example() -> None:
    shown = example("seal")
    scalar = bytes.fromhex(example("key-file")["privateScalar"])
    key = software_key(crypto.PrivateKey.from_scalar(scalar), shown["keyAlias"])
    assert shown["owner"] == identity.device_id(key.public)
    # The two steps by hand, the seal by the code that seals.
    material = crypto.hkdf(
        scalar, salt=b"amesh-hmac-material-v1", info=shown["keyAlias"].encode("ascii")
    )
    seal_key = crypto.hkdf(
        material, salt=b"amesh-allow-list-integrity-v1", info=shown["owner"].encode("ascii")
    )
    assert (shown["material"], shown["sealKey"]) == (material.hex(), seal_key.hex())
    file = json.loads(shown["sealed"]) | {"hmac": shown["hmac"]}
    parsed = AllowListFile.parse(json.dumps(file).encode())
    assert parsed.sealed_bytes() == shown["sealed"].encode()
    assert parsed.seal == key.mac(parsed.sealed_bytes())
    assert parsed.seal == crypto.hmac_sha256(seal_key, parsed.sealed_bytes())


def test_the_mark_example_under_the_key_of_the_seal_example() -> None:
    shown = example("mark")
    mark = MarkFile.parse(json.dumps(shown).encode())
    seal_key = bytes.fromhex(example("seal")["sealKey"])
    assert mark.seal == crypto.hmac_sha256(
        seal_key, b"amesh-newest/1\0" + shown["updatedAt"].encode()
    )
    assert sealed_bytes(mark.updated_at) == b"amesh-newest/1\0" + shown["updatedAt"].encode()


def test_the_rotation_example() -> None:
    shown = example("rotation")
    statement = rotation.read(json.dumps(shown["statement"]).encode(), 1795435200.0)
    assert b64(statement.old_key) == example("key-file")["file"]["publicKey"]
    assert b64(statement.new_key) == example("identity")["publicKey"]
    body = statement.old_key + statement.new_key + b"2026-11-23T12:00:00.000Z\0laptop"
    for which, name in (("old", "signedByOld"), ("new", "signedByNew")):
        assert shown[name] == statement.signed_bytes(which).hex()
        assert shown[name] == (f"amesh-rotation/1 {which}\0".encode() + body).hex()


def test_the_canonical_string_example() -> None:
    assert '`POST /orders?to=b%20c&from=a` with the body `{"amount":100}`, at 1795435200' in read(
        "docs/protocol.md"
    )
    shown = protocol_examples()["canonical"]
    nonce = shown.split("\n")[4]
    target = canonical_target(b"/orders?to=b%20c&from=a")
    body = b'{"amount":100}'
    assert canonical_string("POST", target, "1795435200", nonce, body) == shown.encode()


def test_the_header_example_signs_the_canonical_string_example() -> None:
    scheme, _, value = protocol_examples()["header"].partition(": ")
    assert scheme == "Authorization"
    credential = header.parse([value])
    assert credential.encode() == value
    assert b64(credential.public_key) == example("identity")["publicKey"]
    signed = protocol_examples()["canonical"].encode()
    assert credential.nonce.encode() in signed
    crypto.verify(credential.public_key, credential.signature, signed)


def test_the_query_examples() -> None:
    shown = example("query")
    assert len(shown) > 5
    for sent, signed in shown:
        assert canonical_target(sent.encode()) == signed


def test_the_targets_said_to_be_refused_are_refused() -> None:
    for target in (
        *(b"*", b"http://evil/admin", b"//host/admin", b"admin", b"/a/../b", b"/a/%2e%2E/b"),
        *(b"/.", b"/a\\b", b'/a"b', b"/a^b", b"/a?b#c", b"/a?b c", b"/a\x7f", b"/a?\xc3\xa9"),
    ):
        with pytest.raises(MalformedRequest):
            canonical_target(target)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("?a", "?a="), ("?", ""), ("??a", "?a"), ("?a=+", "?a=%20"), ("?%61=1", "?a=1"),
        ("?a=%c3%a9", "?a=%C3%A9"), ("?a&b", "?b&a"), ("?a&&b", "?a&b"), ("?%FF", "?%EF%BF%BD"),
    ],
)  # fmt: skip
def test_the_aliases_said_to_exist_exist(one: str, other: str) -> None:
    assert canonical_target(f"/{one}".encode()) == canonical_target(f"/{other}".encode())


def test_paths_have_no_aliases() -> None:
    assert canonical_target(b"/a%2Fb") != canonical_target(b"/a/b")
    assert canonical_target(b"/a%2Fb") != canonical_target(b"/a%2fb")


def test_the_frame_examples_are_frames() -> None:
    for line in protocol_examples()["frames"].splitlines():
        sender, _, frame = line.partition(" -> ")
        decode = relay.decode_from_relay if sender == "relay" else relay.decode_from_device
        assert relay.encode(decode(frame)) == frame


def test_the_error_codes_are_all_listed() -> None:
    rows = protocol_examples()["error-codes"].splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [code.value for code in relay.ErrorCode]


def test_the_limits_of_the_relay_are_the_ones_it_has() -> None:
    text = " ".join(read("docs/protocol.md").split())
    settings = limits.Limits()
    for sentence in (
        f"A code waits {limits.WAIT_SECONDS:.0f} s for its controller",
        f"A session may idle {limits.IDLE_SECONDS:.0f} s and live 5 minutes",
        f"says what it is here for is closed after {limits.SILENT_SECONDS:.0f} s",
        f"{limits.FAILED_ATTEMPTS} failed attempts per client and minute; {limits.FAILED_ATTEMPTS} "
        f"per code, then the code is out of use for {limits.BURNED_CODE_SECONDS / 60:.0f} minutes",
        f"{limits.MAX_SESSION_BYTES // 1024**2} MiB per session",
        f"{settings.max_sessions:,} sessions".replace(",", " "),
        f"{settings.max_connections:,} connections,".replace(",", " ", 1),
        f"{settings.max_connections_per_address} connections per client",
        f"A client waits under {settings.max_sessions_per_address} codes at a time",
        f"a socket watches {settings.max_watches} tokens",
        f"After {settings.max_messages_per_second} messages in a second a socket is not read from",
        f"A message comes in fewer than {MAX_FRAGMENTS + 1} pieces",
        f"frames of at most {relay.MAX_FRAME_BYTES:,} bytes".replace(",", " "),
        f"At most {limits.INITS_PER_JTI} announcements for a jti per minute",
        f"burned for {limits.BURNED_JTI_SECONDS / 3600:.0f} hours",
    ):
        assert sentence in text
    assert limits.LIFE_SECONDS == 5 * 60
    assert limits.ADDRESS_WINDOW_SECONDS == limits.INIT_WINDOW_SECONDS == 60


def _ceremony() -> tuple[dict[str, str], pairing_wire.Hello, pairing_wire.Reveal]:
    shown = example("keys")
    hello = pairing_wire.Hello(bytes.fromhex(shown["Ec"]), bytes.fromhex(shown["Nc"]))
    reveal = pairing_wire.Reveal(bytes.fromhex(shown["Et"]), bytes.fromhex(shown["Nt"]))
    return shown, hello, reveal


def _sides() -> tuple[Channel, Channel]:
    """The channel of the example ceremony, seen by the target and by the controller."""
    shown, hello, reveal = _ceremony()
    ours = crypto.PrivateKey.from_scalar(bytes.fromhex(shown["targetEphemeralScalar"]))
    theirs = crypto.PrivateKey.from_scalar(bytes.fromhex(shown["controllerEphemeralScalar"]))
    assert (ours.public, theirs.public) == (reveal.ephemeral, hello.ephemeral)
    return (
        Channel.derive(Role.TARGET, shown["otc"], ours, hello, reveal),
        Channel.derive(Role.CONTROLLER, shown["otc"], theirs, hello, reveal),
    )


def test_the_pairing_keys_example() -> None:
    shown, hello, reveal = _ceremony()
    committed = commitment(reveal)
    assert committed.hex() == shown["K"]
    assert transcript(shown["otc"], committed, hello, reveal).hex() == shown["TH"]
    ours = crypto.PrivateKey.from_scalar(bytes.fromhex(shown["targetEphemeralScalar"]))
    secret = ours.agree(hello.ephemeral)
    assert secret.hex() == shown["Z"]
    assert crypto.hkdf_extract(secret, salt=bytes.fromhex(shown["TH"])).hex() == shown["PRK"]
    for side, send, receive in zip(
        _sides(), ("key_t2c", "key_c2t"), ("key_c2t", "key_t2c"), strict=True
    ):
        assert side.digits == shown["SAS"]
        assert side._send_key.hex() == shown[send]
        assert side._receive_key.hex() == shown[receive]


def test_the_first_messages_of_that_ceremony() -> None:
    shown, hello, reveal = _ceremony()
    committed = pairing_wire.Commit(bytes.fromhex(shown["K"]))
    frames: list[pairing_wire.Commit | pairing_wire.Hello | pairing_wire.Reveal]
    frames = [committed, hello, reveal]
    messages = example("messages")
    assert [message["from"] for message in messages] == ["target", "controller", "target"]
    for frame, message in zip(frames, messages, strict=True):
        assert pairing_wire.encode(frame) == message["payload"]
        assert pairing_wire.decode(message["payload"]) == frame
        assert unb64(message["payload"]).decode() == message["json"]


def test_the_box_example_holds_an_identity_of_that_ceremony() -> None:
    shown = example("box")
    target, controller = _sides()
    assert (shown["direction"], shown["number"]) == ("t2c", 0)
    frame = pairing_wire.decode(shown["payload"])
    assert isinstance(frame, pairing_wire.Box)
    claim, _ = controller.open(frame)
    assert pairing_wire.encode_sealed(claim).decode() == shown["plaintext"]
    assert isinstance(claim, pairing_wire.Claim)
    assert target.seal(claim)[0] == frame
    peer = controller.check(claim, ours=bytes(33), expected=Role.TARGET)
    assert peer.device_id == example("seal")["owner"]
    assert peer.friendly_name == "prod-api"


def test_the_card_example() -> None:
    text = protocol_examples()["card"]
    shown = Card.parse(text.encode())
    assert shown.encode() == text
    assert introduce(shown, Role.CONTROLLER, ours=b"").friendly_name == "laptop"


def test_a_signers_nonce_has_sixteen_bytes_as_said() -> None:
    nonce = protocol_examples()["canonical"].split("\n")[4]
    assert nonce == b64u(unb64(nonce.replace("-", "+").replace("_", "/") + "==", length=16))


# --- README.md --------------------------------------------------------------------------


def test_the_service_and_the_client_of_the_readme_do_what_it_shows(tmp_path: Path) -> None:
    """Five minutes, from where two devices are paired: as copied, on another port."""
    readme = read("README.md")
    app, client = re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    (shown,) = re.findall(r"^\$ python client\.py\n(.*)\n```", readme, re.MULTILINE)
    homes = {name: make_home(tmp_path / name, name=name) for name in ("server", "laptop")}
    for at, other, role in (
        ("server", "laptop", Role.CONTROLLER),
        ("laptop", "server", Role.TARGET),
    ):
        them = homes[other].identity
        peer = identity.Peer(them.device_id, them.public_key, them.friendly_name, role)
        record(homes[at], peer, now=time.time())
    (tmp_path / "app.py").write_text(app)
    arguments = ("-m", "uvicorn", "--app-dir", str(tmp_path), "app:app", "--port", "0")
    with running(Program("uvicorn", arguments), homes["server"].directory) as server:
        assert client.count("localhost:8000") == 1
        program = client.replace("localhost:8000", f"127.0.0.1:{server.port}")

        def called() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-c", program],
                env=environment(homes["laptop"].directory, PYTHONPATH=str(ROOT)),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        done = called()
        assert done.stdout == f"{shown}\n", done.stderr
        assert call(server, "POST", "/orders", body=b"{}").status == 400
        with homes["server"].editing_allow_list(time.time()) as edit:
            edit.allow_list = edit.allow_list.revoke(edit.allow_list.find("laptop"))
        assert called().stdout.startswith("401 ")


def test_the_readme_begins_with_what_it_is_and_the_two_commands() -> None:
    """One screen: what, for whom, how two devices pair, how to see it."""
    screen = "\n".join(read("README.md").splitlines()[:40])
    for needed in (
        "without shared secrets",
        "It is for",
        "amesh listen",
        "amesh invite",
        "make demo",
    ):
        assert needed in screen


# --- docs/architecture.md ---------------------------------------------------------------


def _modules() -> set[str]:
    """Every module of the packages, as a path; a package's own is its directory."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {_module(path.relative_to(ROOT)) for path in paths}


def _module(path: Path) -> str:
    if path.name == "__init__.py":
        return f"{path.parent}/"
    return str(path)


def _tree_of_the_document() -> set[str]:
    """The paths in the tree of docs/architecture.md, which is indented by four a level."""
    block = re.search(r"```text tree\n(.*?)```", read("docs/architecture.md"), re.DOTALL)
    assert block
    named: set[str] = set()
    above: list[str] = []
    for line in block[1].splitlines():
        found = re.match(r"( *)([\w/.]+?)(/?)(?= {2}|$)", line)
        if not line.strip() or found is None or line.startswith(" " * 24):
            continue
        depth = len(found[1]) // 4
        above = above[:depth]
        path = "/".join([*above, found[2]])
        named.add(f"{path}/" if found[3] else path)
        if found[3]:
            above.append(found[2])
    return named


def test_the_tree_of_the_document_is_the_tree() -> None:
    ours = {path for path in _tree_of_the_document() if path.startswith(PACKAGES)}
    assert ours == _modules()


# --- docs/threats.md --------------------------------------------------------------------


def _named_tests() -> list[tuple[str, str]]:
    """Every `tests/...py::test` of the documents."""
    return [
        (path, name)
        for document in DOCUMENTS
        for path, name in re.findall(
            r"`(tests/[\w/]+\.py)(?:::([\w:]+))?`", document.read_text(encoding="utf-8")
        )
    ]


def _tests_in(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name, body=body):
                yield name
                yield from (f"{name}::{m.name}" for m in body if isinstance(m, ast.FunctionDef))


def test_every_test_that_a_document_names_exists() -> None:
    named = _named_tests()
    assert len(named) > 30
    files = {path for path, _ in named if (ROOT / path).is_file()}
    there = {f"{path}::{name}" for path in files for name in ["", *_tests_in(ROOT / path)]}
    missing = [f"{path}::{name}" for path, name in named if f"{path}::{name}" not in there]
    assert not missing


def test_every_threat_says_what_stops_it_what_proves_it_and_what_is_left() -> None:
    threats = re.split(r"^### ", read("docs/threats.md"), flags=re.MULTILINE)[1:]
    assert len(threats) > 20
    for threat in threats:
        title = threat.splitlines()[0]
        assert "**Stopped by**" in threat or "**Not stopped**" in threat, title
        if "**Stopped by**" in threat:
            assert re.search(r"\*\*Proof\*\*.*`tests/", threat, re.DOTALL), title


# --- all of them ------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        leads_to = document.parent / path if path else document
        assert leads_to.exists(), link
        assert not anchor or anchor in _anchors(leads_to), link


def _anchors(document: Path) -> set[str]:
    """What a page of GitHub calls its headings."""
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_in_the_documents_is_python(document: Path) -> None:
    for block in re.findall(
        r"^```python\n(.*?)^```", document.read_text("utf-8"), re.DOTALL | re.MULTILINE
    ):
        compile(block, str(document), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_named_in_the_documents_exist(document: Path) -> None:
    """A path of a package that a document names is there."""
    names = re.findall(
        r"`((?:amesh_\w+|tests|tools|docs|man)/[\w./-]*\w(?:\.\w+)?/?)`",
        document.read_text("utf-8"),
    )
    for name in names:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs/decisions").glob("*.md")), ids=lambda p: p.stem
)
def test_a_decision_has_its_three_parts_and_is_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.match(r"\d{4}-[a-z0-9-]+\.md", path.name)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Consequence"]
    assert len(text.splitlines()) <= 40

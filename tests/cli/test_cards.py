"""`export` and `import`: two devices pair without any relay."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import zxingcpp

from amesh_cli import qr
from amesh_core.errors import UsageError
from amesh_core.wire.card import MAX_BYTES
from tests.support.cli import AtTerminal, environment
from tests.support.home import make_home
from tests.support.in_process import Run, runner


@pytest.fixture
def amesh(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path]:
    service, caller = tmp_path / "service", tmp_path / "caller"
    make_home(service, name="prod-api")
    make_home(caller, name="laptop")
    return service, caller


def own_id(home: Path) -> str:
    text = json.loads((home / "identity.json").read_bytes())["deviceId"]
    assert isinstance(text, str)
    return text


def listed(amesh: Run, home: Path) -> dict[str, str]:
    devices = json.loads(amesh(home, "list", "--json").out)["devices"]
    return {device["deviceId"]: device["role"] for device in devices}


def card(amesh: Run, home: Path, tmp_path: Path) -> Path:
    path = tmp_path / f"{home.name}.card"
    path.write_text(amesh(home, "export").out)
    return path


def fingerprint(screen: str) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", screen)
    found = re.findall(r"^ {4}((?:[0-9a-f]{4} ?){4})\r?$", plain, re.MULTILINE)
    assert len(found) == 4, screen
    return " ".join(found)


def test_two_devices_pair_by_hand(homes: tuple[Path, Path], tmp_path: Path, amesh: Run) -> None:
    service, caller = homes
    for at, other, role in ((service, caller, "controller"), (caller, service, "target")):
        exported = amesh(other, "export")
        command = AtTerminal(at, "import", str(card(amesh, other, tmp_path)), "--role", role)
        command.sees(r"\[y/N\]")
        assert fingerprint(command.seen) == fingerprint(exported.err)
        assert own_id(other) in command.seen
        command.types("y")
        assert command.ends() == 0
    assert listed(amesh, service) == {own_id(caller): "controller"}
    assert listed(amesh, caller) == {own_id(service): "target"}
    (entry,) = json.loads(amesh(service, "list", "--json").out)["devices"]
    assert entry["addedBy"] == "import"
    assert entry["pairing"] is None


def test_a_card_needs_no_key_and_no_passphrase(homes: tuple[Path, Path], amesh: Run) -> None:
    service, _ = homes
    (service / ".passphrase").unlink()
    assert json.loads(amesh(service, "export").out)["deviceId"] == own_id(service)


@pytest.mark.parametrize("answer", ["n", "", "no"])
def test_no_is_the_default(
    homes: tuple[Path, Path], tmp_path: Path, answer: str, amesh: Run
) -> None:
    service, caller = homes
    command = AtTerminal(
        service, "import", str(card(amesh, caller, tmp_path)), "--role", "controller"
    )
    command.sees(r"\[y/N\]")
    command.types(answer)
    assert command.ends() == 1
    assert "nothing was changed" in command.seen
    assert listed(amesh, service) == {}


def test_a_card_that_was_exchanged_on_the_way(
    homes: tuple[Path, Path], tmp_path: Path, amesh: Run
) -> None:
    """The attacker can sign what he likes: only the fingerprint of the right key shows it."""
    service, caller = homes
    attacker = make_home(tmp_path / "attacker", name="laptop").directory
    known = fingerprint(amesh(caller, "export").err)
    done = amesh(
        service,
        *("import", str(card(amesh, attacker, tmp_path)), "--role", "controller"),
        *("--fingerprint", known),
    )
    assert done.status == 9
    assert "another key" in done.err
    assert listed(amesh, service) == {}
    done = amesh(
        service,
        *("import", str(card(amesh, caller, tmp_path)), "--role", "controller"),
        *("--fingerprint", known.upper(), "--trust-for", "90d"),
    )
    assert done.status == 0
    assert listed(amesh, service) == {own_id(caller): "controller"}
    assert "90 days left" in amesh(service, "list").out


@pytest.mark.parametrize("part", ["", "ab12", "ab12 " * 15, "xyzw" * 16])
def test_part_of_a_fingerprint_is_none(
    homes: tuple[Path, Path], tmp_path: Path, part: str, amesh: Run
) -> None:
    service, caller = homes
    path = card(amesh, caller, tmp_path)
    done = amesh(service, "import", str(path), "--role", "controller", "--fingerprint", part)
    assert done.status == 2
    assert listed(amesh, service) == {}


def test_from_a_pipe_and_pasted(homes: tuple[Path, Path], amesh: Run) -> None:
    service, caller = homes
    exported = amesh(caller, "export")
    piped = ("import", "-", "--role", "controller")
    done = amesh(service, *piped, stdin=exported.out)
    assert done.status == 2
    assert "--fingerprint" in done.err
    command = AtTerminal(service, *piped)
    command.sees("Paste the card")
    command.types(exported.out.strip())
    command.sees(r"\[y/N\]")
    command.types("y")
    assert command.ends() == 0
    again = amesh(service, *piped, "--fingerprint", fingerprint(exported.err), stdin=exported.out)
    assert again.status == 0  # the same key again is refreshed
    assert listed(amesh, service) == {own_id(caller): "controller"}


def test_what_is_no_card(homes: tuple[Path, Path], tmp_path: Path, amesh: Run) -> None:
    service, caller = homes
    good = json.loads(amesh(caller, "export").out)
    path = tmp_path / "card"
    for text in (
        "",
        "null",
        "[]",
        "\x00",
        json.dumps({**good, "publicKey": "AAAA"}),
        json.dumps({**good, "deviceId": own_id(service)}),
        json.dumps({**good, "friendlyName": "\x1b[2J"}),
        json.dumps(good) + " " * MAX_BYTES,
    ):
        path.write_text(text)
        done = amesh(service, "import", str(path), "--role", "target", "--fingerprint", "0" * 64)
        assert done.status == 2, text
        assert "Traceback" not in done.err
        assert "\x1b[2J" not in done.err
    assert listed(amesh, service) == {}


@pytest.mark.parametrize("name", ["none", "."])
def test_a_file_that_cannot_be_read(
    homes: tuple[Path, Path], tmp_path: Path, name: str, amesh: Run
) -> None:
    done = amesh(
        homes[0], "import", str(tmp_path / name), "--role", "target", "--fingerprint", "0" * 64
    )
    assert done.status == 2
    assert "Traceback" not in done.err


def test_what_the_list_refuses(homes: tuple[Path, Path], tmp_path: Path, amesh: Run) -> None:
    service, caller = homes
    third = make_home(tmp_path / "third", name="third").directory

    def brought(other: Path, role: str, *more: str) -> tuple[int, str]:
        known = fingerprint(amesh(other, "export").err)
        path = card(amesh, other, tmp_path)
        done = amesh(service, "import", str(path), "--role", role, "--fingerprint", known, *more)
        return done.status, done.err

    assert brought(service, "controller")[0] == 9  # our own
    assert brought(caller, "controller")[0] == 0
    assert brought(caller, "target")[0] == 9  # the other role
    status, said = brought(third, "controller")  # one more than may be
    assert status == 9
    assert "as many controllers as it may have: 1" in said
    status, said = brought(third, "target", "--trust-for", "1d")
    assert status == 2
    assert "--role controller" in said
    assert listed(amesh, service) == {own_id(caller): "controller"}


def test_the_role_has_to_be_said(homes: tuple[Path, Path], tmp_path: Path, amesh: Run) -> None:
    assert amesh(homes[0], "import", str(card(amesh, homes[1], tmp_path))).status == 2
    assert (
        amesh(homes[0], "import", str(card(amesh, homes[1], tmp_path)), "--role", "admin").status
        == 2
    )


# --- the QR code ------------------------------------------------------------------------


def read_code(lines: list[str]) -> str:
    """What a reader makes of a code drawn in half blocks, dark modules drawn."""
    dots = {"█": (0, 0), "▀": (0, 255), "▄": (255, 0), " ": (255, 255)}
    scale = 3
    rows = [
        bytes(dots[character][half] for character in line for _ in range(scale))
        for line in lines
        for half in (0, 1)
        for _ in range(scale)
    ]
    image = memoryview(b"".join(rows)).cast("B", (len(rows), len(rows[0])))
    (found,) = zxingcpp.read_barcodes(image)
    return str(found.text)


def test_a_reader_reads_the_code_on_the_screen(homes: tuple[Path, Path], amesh: Run) -> None:
    done = amesh(homes[0], "export", "--qr")
    code = [line for line in done.err.splitlines() if re.fullmatch("[█▀▄ ]{40,}", line)]
    assert read_code(code) == done.out.strip()
    frame = " " * 4  # modules, as wide as two lines are high
    assert not "".join(code[:2] + code[-2:]).strip()
    assert all(line.startswith(frame) and line.endswith(frame) for line in code)


def test_the_code_is_black_on_white_whatever_the_terminal(homes: tuple[Path, Path]) -> None:
    command = AtTerminal(homes[0], "export", "--qr")
    assert command.ends() == 0
    drawn = [line for line in command.seen.splitlines() if re.search("[█▀▄]", line)]
    assert drawn
    assert all("\x1b[30;47m" in line for line in drawn)
    code = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip("\r") for line in drawn]
    assert max(map(len, code)) < 80


def test_codes_of_every_length() -> None:
    for length in (1, 100, 300, 1000):
        text = "Zz9 " * (length // 4) + "x"
        assert read_code(qr.lines(text)) == text


def test_without_segno_the_extra_is_named(
    homes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "segno", None)
    with pytest.raises(UsageError, match=r"pip install 'authmesh\[qr\]'"):
        qr.lines("x")


def test_nothing_is_loaded_for_a_card_alone(homes: tuple[Path, Path], amesh: Run) -> None:
    code = (
        "import sys; sys.argv = ['amesh', 'export']\n"
        "from amesh_cli.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit('segno' in sys.modules or 'argon2' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(homes[0]),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "data", ["root:x:0:0", "", "{}", "[1]", '{"type":"amesh-card"', "\x00\xff" * 3000]
)
def test_what_is_no_card_is_named_with_the_way_to_one(
    homes: tuple[Path, Path], tmp_path: Path, data: str, amesh: Run
) -> None:
    service, _ = homes
    path = tmp_path / "notes.txt"
    path.write_text(data)
    options = ("--role", "target", "--fingerprint", "00" * 32)
    done = amesh(service, "import", str(path), *options)
    assert done.status == 2
    assert f"{path} holds no card of a device" in done.err
    assert "amesh export" in done.err
    piped = amesh(service, "import", "-", *options, stdin=data)
    assert piped.status == 2
    assert "the input holds no card of a device" in piped.err

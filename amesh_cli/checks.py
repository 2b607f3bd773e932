"""`amesh doctor`: the checks of this device, each a line of its own.

A check never stops the next one, unless there is nothing to look at. Nothing that is shown
is a secret: of a passphrase, the place it comes from.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import re
import shlex
import stat
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from amesh_cli import failures, here, protection, unacknowledged
from amesh_core import keystore
from amesh_core.errors import AmeshError, RelayError
from amesh_core.explain import CLOCK_SKEW_SECONDS
from amesh_core.identity import device_id
from amesh_core.io import relay_line, rotating
from amesh_core.io.home import Home
from amesh_core.io.passphrase import FILE as PASSPHRASE_FILE
from amesh_core.wire.rotation import Pending, Retiring

if TYPE_CHECKING:
    from amesh_core.allow_list import AllowList
    from amesh_core.settings import Settings

DISTRIBUTION: Final = "authmesh"
# A Date header has whole seconds, and its answer took a moment.
_CLOCK_NOTICED_SECONDS: Final = 5
_SET_THE_CLOCK: Final = "set the clocks by the network on both machines: `timedatectl set-ntp true`"
_OTHERS_WRITE: Final = 0o022
_OTHERS: Final = 0o077


class Verdict(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; `hint` says what mends a warning or a failure."""

    name: str
    verdict: Verdict
    message: str
    hint: str = ""


def ok(name: str, message: str) -> Check:
    """A check that came out well."""
    return Check(name, Verdict.OK, message)


def warn(name: str, message: str, hint: str) -> Check:
    """A check that came out well enough to go on."""
    return Check(name, Verdict.WARN, message, hint)


def fail(name: str, message: str, hint: str) -> Check:
    """A check that found what must be mended."""
    return Check(name, Verdict.FAIL, message, hint)


def of_error(name: str, error: AmeshError, verdict: Verdict = Verdict.FAIL) -> Check:
    """What an error says, in the words of every other command."""
    return Check(name, verdict, failures.sentence(error), failures.failure(error).hint)


def of_device(settings: Settings) -> Generator[Check, None, Home | None]:
    """Look at the directory, the key and the list; gives the directory if its key can be used."""
    yield ok("amesh", f"{metadata.version(DISTRIBUTION)}, Python {platform.python_version()}")
    try:
        home = Home.open(settings)
    except AmeshError as error:
        yield of_error("directory", error)
        return None
    mode = stat.S_IMODE(home.directory.stat().st_mode)
    yield ok("directory", f"{home.directory}, mode {mode:04o}")
    yield _files(home.directory)
    me = home.identity
    yield ok("identity", f"{me.device_id}, since {home.created_at[:10]}")
    yield _attempt("back end", lambda: _back_end(home))
    yield _attempt("passphrase", lambda: _passphrase(home))
    yield (unlocked := _attempt("key", lambda: _key(home)))
    if unlocked.verdict is not Verdict.OK:
        return None
    yield _list(home)
    yield from _announcement(home)
    yield from _rotation(home)
    return home


def of_extras() -> Check:
    """Say which optional parts are installed, by what the distribution says of itself."""
    present: list[str] = []
    missing: list[str] = []
    torn: list[str] = []
    for extra, packages in _extras().items():
        there = [package for package in packages if _is_installed(package)]
        if len(there) == len(packages):
            present.append(extra)
        else:
            (torn if there else missing).append(extra)
    message = f"installed: {', '.join(present) or 'none'}"
    if missing:
        message += f"; not installed: {', '.join(missing)}"
    if torn:
        wanted = f"{DISTRIBUTION}[{','.join(torn)}]"
        return warn(
            "extras", f"{message}; incomplete: {', '.join(torn)}", f"run `pip install '{wanted}'`"
        )
    return ok("extras", message)


def of_relay(relay: str | None, settings: Settings) -> Iterator[Check]:
    """Connect to the relay as a pairing does, and compare its clock with ours."""
    home, date = None, None
    with contextlib.suppress(AmeshError):  # that there is none was said before
        home = Home.open(settings)
    try:
        url = here.relay_url(home, relay)
        date = asyncio.run(_date_of_relay(url, relay_line.access_token(settings)))
        yield ok("relay", f"{url} answers")
    except RelayError as error:
        # A paired device works without: only what was asked for by name must be there.
        yield of_error("relay", error, Verdict.FAIL if relay else Verdict.WARN)
    except AmeshError as error:
        yield of_error("relay", error)
    yield of_clock(date, time.time(), "the relay")


async def _date_of_relay(url: str, access_token: str | None) -> str | None:
    async with relay_line.connected(url, access_token) as line:
        return line.date


def of_clock(date: str | None, now: float, whose: str) -> Check:
    """Compare our clock with the Date header of an answer that came just now."""
    skew_seconds = skew_of(date, now)
    if skew_seconds is None:
        return warn(
            "clock",
            f"not compared: {whose} does not say what time it is",
            "`amesh doctor --against URL` compares it with the clock of a service",
        )
    ahead = "ahead of" if skew_seconds > 0 else "behind"
    message = f"{abs(skew_seconds):.0f} s {ahead} the clock of {whose}"
    if abs(skew_seconds) > CLOCK_SKEW_SECONDS:
        return fail("clock", f"{message}; {CLOCK_SKEW_SECONDS} s are allowed", _SET_THE_CLOCK)
    if abs(skew_seconds) > _CLOCK_NOTICED_SECONDS:
        return warn("clock", f"{message}; {CLOCK_SKEW_SECONDS} s are allowed", _SET_THE_CLOCK)
    return ok("clock", f"as that of {whose}, to a few seconds")


def skew_of(date: str | None, now: float) -> float | None:
    """How many seconds `now` is ahead of a Date header (RFC 9110 section 5.6.7)."""
    try:
        return now - parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None


def _attempt(name: str, look: Callable[[], str]) -> Check:
    try:
        return ok(name, look())
    except AmeshError as error:
        return of_error(name, error)


def open_to_others(directory: Path) -> dict[Path, int]:
    """The directory and what is in it, as far as others may get at it, with their modes."""
    inside = [*directory.glob("*.json"), directory / "keys", *directory.glob("keys/*")]
    modes = {
        path: stat.S_IMODE(path.stat().st_mode)
        for path in [directory, *inside, directory / PASSPHRASE_FILE]
        if path.exists()
    }
    return {path: mode for path, mode in modes.items() if mode & _OTHERS}


def _files(directory: Path) -> Check:
    """Modes of what is in the directory; one that lets others write is a failure."""
    open_to = open_to_others(directory)
    if not open_to:
        return ok("files", "for their owner alone")
    message = ", ".join(f"{path} has mode {mode:04o}" for path, mode in open_to.items())
    hint = f"run `chmod go= {shlex.join(map(str, open_to))}`"
    is_writable = any(mode & _OTHERS_WRITE for mode in open_to.values())
    return Check("files", Verdict.FAIL if is_writable else Verdict.WARN, message, hint)


def _back_end(home: Home) -> str:
    keystore.open_store(
        home.backend, home.directory, keystore.Means(bytes, here.settings().tpm_tcti)
    )
    return protection.place(home.backend)


def _passphrase(home: Home) -> str:
    source = home.passphrase_source()
    if source is None:
        return "none is needed"
    if protection.passphrase_beside_key(home) is not None:
        return f"from {source}, beside the key: who can copy this directory has the key"
    return f"from {source}"


def _key(home: Home) -> str:
    start = time.perf_counter()
    home.key()
    return f"unlocked in {(time.perf_counter() - start) * 1000:.0f} ms"


def _list(home: Home) -> Check:
    try:
        allow_list = home.allow_list()
    except AmeshError as error:
        return of_error("allow list", error)
    return _of_entries(allow_list, time.time())


def _announcement(home: Home) -> Iterator[Check]:
    """Nothing to say but for a device that was made from a token and is not known yet."""
    try:
        file = unacknowledged.announcement(home)
    except AmeshError as error:
        yield of_error("bootstrap", error, Verdict.WARN)
        return
    if file is not None:
        yield warn(
            "bootstrap",
            unacknowledged.sentence(file, time.time()),
            "it may call this device all the same; to have it listed there, run `amesh bootstrap` "
            "here while `amesh provision --watch` runs there, or pair the two by hand",
        )


def _of_entries(allow_list: AllowList, now: float) -> Check:
    devices = [device for device in allow_list.devices if not device.is_former]
    useless = [device.device_id for device in devices if not device.role or device.is_expired(now)]
    controllers = sum(device.role == "controller" for device in devices)
    targets = sum(device.role == "target" for device in devices)
    message = (
        f"its seal fits; devices that may call this one: {controllers}, it may call: {targets}"
    )
    if useless:
        return warn(
            "allow list",
            f"{message}; expired or without a role: {', '.join(useless)}",
            "pair them again, or `amesh revoke` them",
        )
    return ok("allow list", message)


def _rotation(home: Home) -> Iterator[Check]:
    """Whether a key waits to take over, or one that gave its place away to be destroyed."""
    try:
        file = rotating.find(home)
    except AmeshError as error:
        yield of_error("rotation", error)
        return
    match file:
        case Pending(new, statement):
            yield warn(
                "rotation",
                f"{device_id(new.public_key)} waits to take over since {statement.issued_at[:10]}",
                "`amesh rotate` shows what paired devices are to accept; then `--finish`",
            )
        case Retiring(old):
            yield warn(
                "rotation",
                f"the old key, {device_id(old.public_key)}, is not destroyed yet",
                "run `amesh rotate --finish`",
            )


def _extras() -> dict[str, list[str]]:
    """Extra -> the packages it asks for, but for the one of development."""
    info = metadata.metadata(DISTRIBUTION)
    extras: dict[str, list[str]] = {
        name: [] for name in info.get_all("Provides-Extra") or [] if name != "dev"
    }
    for line in metadata.requires(DISTRIBUTION) or []:
        named = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if named and extra and extra[1] in extras:
            extras[extra[1]].append(named[0])
    return extras


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True

"""Items in the keychain of this user, through `keyring`: read, add, delete, in our words.

The back end of keyring is named, never looked for: what `keyring.get_keyring()` finds may be
one that keeps secrets in plain text, or nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Protocol, cast

from amesh_core.errors import KeychainLocked, KeyStoreError

SERVICE: Final = "amesh"

# keyring has no error of its own for errSecInteractionNotAllowed: the keychain is locked, and
# nobody sits at the screen to be asked.
_NO_INTERACTION: Final = -25308


class Keyring(Protocol):
    """What we use of a back end of keyring."""

    priority: float

    def get_password(self, service: str, username: str) -> str | None:
        """The text, or None."""

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep a text; where there is one, macOS deletes it before."""

    def delete_password(self, service: str, username: str) -> None:
        """Forget a text."""


@dataclass(frozen=True, slots=True)
class Keychain:
    """The keychain of one platform.

    `errors` are exceptions, by module and name, that its back end lets through.
    """

    name: str
    module: str
    errors: tuple[tuple[str, str], ...]
    remedy: str


KEYCHAINS: Final[dict[str, Keychain]] = {
    "darwin": Keychain(
        name="the macOS keychain",
        module="keyring.backends.macOS",
        errors=(),
        remedy="unlock it with `security unlock-keychain`, and answer its question with Allow",
    ),
    "linux": Keychain(
        name="the keyring of this user (Secret Service)",
        module="keyring.backends.SecretService",
        errors=(
            ("secretstorage.exceptions", "SecretStorageException"),
            ("jeepney", "DBusErrorResponse"),
        ),
        # The daemon takes a line end for a part of the password.
        remedy="unlock it in your desktop session, or give its password, without a line end, to "
        "the standard input of `gnome-keyring-daemon --replace --unlock`",
    ),
}


def why_not(platform: str) -> str | None:
    """Why there is no keychain to use, or None if there is one; it may be locked."""
    keychain = KEYCHAINS.get(platform)
    if keychain is None:
        return f"there is none that amesh knows on {platform}"
    try:
        _ = _keyring(keychain).priority  # raises with a reason; its value does not matter
    except ImportError as error:
        return f"{error.name} is not installed"
    except (RuntimeError, OSError) as error:
        reason = str(error).removeprefix("Unable to initialize SecretService: ")
        return f"{keychain.name} cannot be reached: {reason}"
    return None


class Items:
    """The texts that amesh keeps in the keychain, each under an account."""

    def __init__(self, platform: str) -> None:
        self._keychain = KEYCHAINS[platform]

    @property
    def where(self) -> str:
        """What to call the keychain in a sentence."""
        return self._keychain.name

    def read(self, account: str) -> str | None:
        """The text, or None if there is none.

        Raises:
            KeychainLocked: nobody unlocked it, or somebody said no.
            KeyStoreError: it cannot be asked.
        """
        with self._in_words("be read"):
            try:
                return self._ring().get_password(SERVICE, account)
            except UnicodeDecodeError:
                return ""  # bytes of another program; who parses it says that it is none of ours

    def write(self, account: str, text: str) -> None:
        """Keep a text; one of the same account goes first.

        Raises:
            KeychainLocked, KeyStoreError: as `read`.
        """
        with self._in_words("be written"):
            self._ring().set_password(SERVICE, account, text)

    def delete(self, account: str) -> None:
        """Forget a text; it may be gone already.

        Raises:
            KeychainLocked, KeyStoreError: as `read`, or it is still there.
        """
        from keyring.errors import PasswordDeleteError

        # A missing item and one that cannot be deleted are the same error.
        with self._in_words("be changed"), suppress(PasswordDeleteError):
            self._ring().delete_password(SERVICE, account)
        if self.read(account) is not None:
            raise KeyStoreError(f"{self.where} does not let the item {account} be deleted")

    def _ring(self) -> Keyring:
        return cast(Keyring, _keyring(self._keychain)())

    @contextmanager
    def _in_words(self, what: str) -> Iterator[None]:
        from keyring.errors import KeyringError, KeyringLocked

        theirs = [getattr(import_module(module), name) for module, name in self._keychain.errors]
        foreseen: tuple[type[Exception], ...] = (KeyringError, OSError, *theirs)
        try:
            yield
        except foreseen as error:
            if isinstance(error, KeyringLocked) or _status(error) == _NO_INTERACTION:
                raise KeychainLocked(self.where, self._keychain.remedy) from None
            raise KeyStoreError(f"{self.where} cannot {what}: {error}") from error


def _keyring(keychain: Keychain) -> Any:
    # 150 ms of import, so only when there is a key in a keychain.
    return import_module(keychain.module).Keyring


def _status(error: BaseException) -> object:
    # keyring's macOS back end raises its own errors from ones that begin with an OSStatus.
    return next(iter(getattr(error.__cause__, "args", ())), None)

"""The calls that keyring makes to the keychain of a Mac, over a dictionary.

Everything above them is keyring's own code: only what `keyring.backends.macOS.api` does in C
is here. As there, setting a text deletes the old item before it adds the new one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest


class Error(Exception):
    """As `api.Error`: its first argument is an OSStatus."""


class NotFound(Error):
    """errSecItemNotFound"""


class KeychainDenied(Error):
    """errSecUserCanceled"""


@dataclass
class MacKeychain:
    """The generic passwords of one login keychain.

    `status` other than 0 is what every call comes to; `between` runs after a `set` deleted
    and before it adds.
    """

    items: dict[tuple[str, str], str] = field(default_factory=dict)
    status: int = 0
    between: Callable[[], None] = lambda: None

    def find_generic_password(self, keychain: None, service: str, username: str) -> str:
        self._check()
        try:
            return self.items[service, username]
        except KeyError:
            raise NotFound(-25300, "Item not found") from None

    def set_generic_password(
        self, keychain: None, service: str, username: str, password: str
    ) -> None:
        self._check()
        self.items.pop((service, username), None)
        self.between()
        self.items[service, username] = password

    def delete_generic_password(self, keychain: None, service: str, username: str) -> None:
        self.find_generic_password(keychain, service, username)
        del self.items[service, username]

    def accounts(self) -> set[str]:
        """Of what amesh keeps there."""
        return {account for service, account in self.items if service == "amesh"}

    def _check(self) -> None:
        if self.status == -128:
            raise KeychainDenied(self.status, "Keychain Access Denied")
        if self.status:
            raise Error(self.status, "Unknown Error")

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let keyring's macOS back end find it, and think that this is a Mac."""
        from keyring.backends import macOS

        api = SimpleNamespace(
            Error=Error,
            NotFound=NotFound,
            KeychainDenied=KeychainDenied,
            find_generic_password=self.find_generic_password,
            set_generic_password=self.set_generic_password,
            delete_generic_password=self.delete_generic_password,
        )
        monkeypatch.setattr(macOS, "api", api, raising=False)
        monkeypatch.setattr("platform.system", lambda: "Darwin")
        monkeypatch.setattr(macOS.Keyring, "keychain", None)

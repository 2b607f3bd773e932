"""Keys in the Secure Enclave of a Mac, which never leave it; not yet run on a Mac.

The enclave keeps no keys: it gives out each one wrapped, so that nothing but this enclave can
unwrap it. The wrapped key is the file `keys/<alias>.enclave.json`; it needs no entitlement
and no entry in a keychain. The enclave makes no HMACs, so the secret that seals the allow
list is in the keychain, protected by software.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NoReturn

from amesh_core import crypto, disk
from amesh_core.errors import KeychainLocked, KeyFileDamaged, KeyMissing, KeyStoreError, Malformed
from amesh_core.identity import DeviceKey, device_id
from amesh_core.keystore import Means, keyring_items, keyring_mark
from amesh_core.keystore.apple_security import Security, framework
from amesh_core.keystore.keychain import account_of, delete_items, kept, read_item
from amesh_core.keystore.keyring_items import Items
from amesh_core.keystore.material import new_material, node_material, seal_key
from amesh_core.wire.key_items import EnclaveFile, KeychainItem

# kSecAttrTokenOID of Apple's sources has this value and is not in the public headers.
_WRAPPED_KEY: Final = "toid"
_KEY_BITS: Final = 256
_NO_INTERACTION: Final = -25308  # errSecInteractionNotAllowed

_POINT_BYTES: Final = 65  # SEC 1 uncompressed point: 4, x, y


def why_not(means: Means) -> str | None:
    """This is no Mac, pyobjc is not installed, or the Mac has no enclave."""
    if means.platform != "darwin":
        return "this is not a Mac"
    try:
        security = framework()
    except ImportError:
        return "pyobjc is not installed: `pip install 'authmesh[macos]'`"
    try:
        # Nothing else tells whether there is an enclave; a key that nobody keeps is gone.
        _Enclave(security).new_key()
    except KeyStoreError as error:
        return str(error)
    return keyring_items.why_not(means.platform)


def open_store(directory: Path, means: Means) -> SecureEnclaveStore:
    """The keys in `<directory>/keys` that this Mac's enclave wrapped."""
    return SecureEnclaveStore(directory, framework(), Items(means.platform))


class SecureEnclaveStore:
    """Keys that only this Mac's enclave can use."""

    hardware_bound: Final = True

    def __init__(self, directory: Path, security: Security, items: Items) -> None:
        self._keys = directory / "keys"
        self._enclave = _Enclave(security)
        self._items = items

    def create(self) -> DeviceKey:
        """Make a key in the enclave, its secret in the keychain, and its file last."""
        private = self._enclave.new_key()
        public, material = self._enclave.public(private), new_material()
        key, alias = EnclaveKey(self._enclave, private, public, material), device_id(public)
        file = EnclaveFile(public, self._enclave.token_object(private))
        with kept(self._items, key, alias, KeychainItem(public, None, material)):
            disk.make_subdirectory(self._keys)
            disk.write_new(self._path(alias), file.encode())
            disk.sync_directory(self._keys)
        return key

    def load(self, alias: str, public: bytes) -> DeviceKey:
        """Let the enclave unwrap the key.

        Raises:
            KeyMissing: there is no file, or the keychain has lost the secret.
            KeyFileDamaged: it is no such file, or another key.
            UnsafePermissions: others may read it.
            KeychainLocked: the Mac, or its keychain, was not unlocked yet.
            KeyStoreError: the enclave refuses; it may be that of another Mac.
        """
        path = self._path(alias)
        data = disk.read_private(path)
        if data is None:
            raise KeyMissing(f"there is no {path}")
        try:
            file = EnclaveFile.parse(data)
        except Malformed as error:
            raise KeyFileDamaged(f"{path} is no key of an enclave: {error}") from None
        if file.public_key != public:
            raise KeyFileDamaged(f"{path} is the file of another key")
        private = self._enclave.key_of(file.token_object)
        # The framework makes a new key where it does not find the one it is asked for.
        if self._enclave.public(private) != public:
            raise KeyFileDamaged(f"the Secure Enclave made another key of {path}")
        item = read_item(self._items, alias, public)
        material = item.hmac_secret or node_material(self._keys, alias)
        return EnclaveKey(self._enclave, private, public, material)

    def delete(self, alias: str) -> None:
        """Delete the wrapped key and its secret; a copy of both still works on this Mac."""
        disk.destroy(self._path(alias))
        delete_items(self._items, alias)

    def newest(self, key: DeviceKey, alias: str) -> str | None:
        """The newest allow list, as the keychain remembers it.

        Raises:
            AllowListMarkBroken: it has lost it, or it cannot be believed.
        """
        return keyring_mark.read(self._items, key, account_of(alias))

    def remember(self, key: DeviceKey, alias: str, updated_at: str) -> None:
        """Let the keychain remember it, unless it remembers a newer one."""
        keyring_mark.remember(self._items, key, account_of(alias), updated_at)

    def _path(self, alias: str) -> Path:
        return self._keys / f"{account_of(alias)}.enclave.json"


class EnclaveKey:
    """A key that the enclave uses for this process; prints as nothing."""

    def __init__(self, enclave: _Enclave, private: Any, public: bytes, material: bytes) -> None:
        self.public: Final = public
        self._enclave = enclave
        self._private = private
        self._seal_key = seal_key(material, public)

    def sign(self, message: bytes) -> bytes:
        """64 bytes r || s, low-S, ECDSA over SHA-256(message)."""
        return crypto.low_s(self._enclave.signature(self._private, message))

    def mac(self, message: bytes) -> bytes:
        """32 bytes HMAC-SHA256 under the allow list's key."""
        return crypto.hmac_sha256(self._seal_key, message)

    def __repr__(self) -> str:
        return f"EnclaveKey({device_id(self.public)})"

    def __reduce__(self) -> str:
        raise TypeError("a private key is not pickled")


class _Enclave:
    """Security.framework, with exceptions and bytes."""

    def __init__(self, security: Security) -> None:
        self._security = security

    def new_key(self) -> Any:
        """A key that nothing keeps (no kSecAttrIsPermanent, so no entitlement is asked for)."""
        api = self._security
        control, error = api.SecAccessControlCreateWithFlags(
            None,
            # A service signs while nobody is logged in at the screen.
            api.kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly,
            api.kSecAccessControlPrivateKeyUsage,
            None,
        )
        if control is None:
            _refuse("cannot make a key", error)
        private = {api.kSecAttrAccessControl: control}
        key, error = api.SecKeyCreateRandomKey(
            self._kind() | {api.kSecPrivateKeyAttrs: private}, None
        )
        if key is None:
            _refuse("cannot make a key", error)
        return key

    def token_object(self, key: Any) -> bytes:
        """The wrapped key."""
        attributes = self._security.SecKeyCopyAttributes(key) or {}
        wrapped = attributes.get(_WRAPPED_KEY)
        if not wrapped:
            raise KeyStoreError("the Secure Enclave does not give out its key wrapped")
        return bytes(wrapped)

    def key_of(self, token_object: bytes) -> Any:
        """The key that was wrapped, or, from anything else, perhaps a new one."""
        api = self._security
        kept_of_it = {
            api.kSecAttrKeyClass: api.kSecAttrKeyClassPrivate,
            _WRAPPED_KEY: token_object,
        }
        key, error = api.SecKeyCreateWithData(b"", self._kind() | kept_of_it, None)
        if key is None:
            _refuse("does not take this key, which may be that of another Mac", error)
        return key

    def public(self, key: Any) -> bytes:
        """The 33-byte compressed point."""
        half = self._security.SecKeyCopyPublicKey(key)
        if half is None:
            raise KeyStoreError("the Secure Enclave does not give out the public key")
        data, error = self._security.SecKeyCopyExternalRepresentation(half, None)
        if data is None:
            _refuse("does not give out the public key", error)
        point = bytes(data)
        if len(point) != _POINT_BYTES or point[0] != 4:
            raise KeyStoreError("the Secure Enclave gives out no uncompressed point")
        return bytes([2 + point[-1] % 2]) + point[1:33]

    def signature(self, key: Any, message: bytes) -> bytes:
        """A signature in DER, with either s."""
        algorithm = self._security.kSecKeyAlgorithmECDSASignatureMessageX962SHA256
        der, error = self._security.SecKeyCreateSignature(key, algorithm, message, None)
        if der is None:
            _refuse("does not sign", error)
        return bytes(der)

    def _kind(self) -> dict[str, Any]:
        api = self._security
        return {
            api.kSecAttrKeyType: api.kSecAttrKeyTypeECSECPrimeRandom,
            api.kSecAttrKeySizeInBits: _KEY_BITS,
            api.kSecAttrTokenID: api.kSecAttrTokenIDSecureEnclave,
        }


def _refuse(what: str, error: Any) -> NoReturn:
    if error is not None and error.code() == _NO_INTERACTION:
        raise KeychainLocked("this Mac", "log in at its screen once after it was started")
    why = f": {error.localizedDescription()} ({error.code()})" if error is not None else ""
    raise KeyStoreError(f"the Secure Enclave {what}{why}")

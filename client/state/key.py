"""The device's signing key: a file of its state, encrypted like the rest where the state is."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from filelock import FileLock

from zkapex.client.state.vault import Vault
from zkapex.errors import StorageError
from zkapex.proofs.records.signing import load_or_create_private_key

KEY: Final = "key.pem"


def device_key(vault: Vault) -> Ed25519PrivateKey:
    """The device's key; made when there is none.

    Raises
    ------
    InputError, StorageError
        It is damaged, open to others, or cannot be written.
    """
    if vault.cipher is None:
        return load_or_create_private_key(vault.folder / KEY)
    with FileLock(vault.folder / ".key.lock", mode=0o600):
        if not vault.has(KEY):
            made = Ed25519PrivateKey.generate()
            vault.put(KEY, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        try:
            key = load_pem_private_key(vault.get(KEY), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise StorageError("the device's signing key is damaged", why=str(error)[:200]) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise StorageError("the device's signing key is of another kind", fix="restore it from a backup")
    return key

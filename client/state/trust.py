"""Whom a device obeys: the first provider whose request it has carried out, or one that was put on it beforehand."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from zkapex.client.state.vault import Vault
from zkapex.errors import ProtocolError, SignatureError
from zkapex.proofs.records.sealed import Introduction, unseal, unseal_introduction
from zkapex.proofs.records.signing import Envelope, key_id, public_key_from_hex

SERVER_KEY = "server.pub"


class Trust:
    """The provider's key on a device.

    Parameters
    ----------
    vault : Vault
        The device's folder.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def introduced(self, kind: type[Introduction], blobs: Mapping[str, bytes]) -> Introduction:
        """A signed request of the pinned provider or, on a device that knows none yet, of the one it names."""
        data = blobs.get("envelope", b"")
        if not self._vault.has(SERVER_KEY):
            return unseal_introduction(kind, data).record
        pinned = self.key()
        if {signature.keyid for signature in Envelope.from_bytes(data).signatures} != {key_id(pinned)}:
            raise SignatureError(
                "this device is pinned to another provider",
                why="the server's key is not the one it personalised or enrolled with first",
                fix=f"if the provider has a new key, replace {self._vault.folder / SERVER_KEY}",
            )
        return unseal(kind, data, [pinned]).record

    def pin(self, server_key: str) -> None:
        """Trust the first provider whose request this device has carried out, or one put on it beforehand, only."""
        if not self._vault.has(SERVER_KEY):
            self._vault.put(SERVER_KEY, server_key.encode())

    def key(self) -> Ed25519PublicKey:
        """The pinned key. Raises ProtocolError if there is none."""
        if not self._vault.has(SERVER_KEY):
            raise ProtocolError("this device has not enrolled with any provider yet")
        return public_key_from_hex(self._vault.get(SERVER_KEY).decode().strip())

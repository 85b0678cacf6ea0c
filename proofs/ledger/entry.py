"""What is logged: a hash that says nothing to whoever lacks the random bytes that went into it."""

from __future__ import annotations

import hashlib
import secrets

from zkapex.proofs.records.record import encode_parts

NONCE_BYTES = 32
ENTRY_BYTES = 32


def new_nonce() -> bytes:
    """32 random bytes, to be kept with what is logged; whoever destroys them unlinks the entry from it."""
    return secrets.token_bytes(NONCE_BYTES)


def entry(nonce: bytes, payload_digest: str) -> bytes:
    """The entry for a signed payload, 32 bytes: the same shape whatever was signed.

    Parameters
    ----------
    nonce : bytes
        See `new_nonce`.
    payload_digest : str
        SHA-256 (hex) of the payload, without the envelope around it: more signatures do not make it another.
    """
    return hashlib.sha256(encode_parts("zkapex:ledger-entry:v1", nonce, bytes.fromhex(payload_digest))).digest()

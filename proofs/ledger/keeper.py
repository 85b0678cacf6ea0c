"""Logging what was signed: its digest, the random bytes kept for it, and the proof that goes with it."""

from __future__ import annotations

from pathlib import Path

from zkapex.errors import InputError, StorageError
from zkapex.proofs.ledger.entry import entry, new_nonce
from zkapex.proofs.ledger.log import Cosign, Log
from zkapex.proofs.ledger.proof import MAX_PROOF_BYTES, LogProof
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.signing import MAX_ENVELOPE_BYTES, Envelope


def payload_digest(path: Path) -> str:
    """SHA-256 (hex) of what is signed in a file.

    Raises
    ------
    InputError
        There is no such file.
    SignatureError
        It holds nothing that is signed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ENVELOPE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} could not be read", why=error.strerror or str(error)) from error
    return sha256_hex(Envelope.from_bytes(data).payload)


def nonce_of(path: Path) -> bytes:
    """The random bytes of a proof that was kept; new ones if there is none.

    Raises
    ------
    StorageError
        It could not be read.
    LedgerError
        It is no proof.
    """
    try:
        with path.open("rb") as file:
            return LogProof.from_bytes(file.read(MAX_PROOF_BYTES + 1)).extra
    except FileNotFoundError:
        return new_nonce()
    except OSError as error:
        raise StorageError(f"{path} could not be read", why=error.strerror or str(error)) from error


def log_payload(log: Log, digest: str, nonce: bytes, cosign: Cosign | None = None) -> bytes:
    """Log a payload by its digest; the proof as a file. The same random bytes give the same entry, logged once."""
    one = entry(nonce, digest)
    log.append([one], cosign)
    return log.prove(one, nonce).to_bytes()

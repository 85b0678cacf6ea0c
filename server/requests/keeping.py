"""What the provider keeps of requests for those who check later: the log, stamps, rejected proofs, openings."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zkapex.errors import Error, LedgerError, StorageError
from zkapex.proofs.ledger.entry import new_nonce
from zkapex.proofs.ledger.files import put
from zkapex.proofs.ledger.keeper import log_payload, nonce_of
from zkapex.proofs.ledger.log import Cosign, Log
from zkapex.proofs.ledger.policy import LogPolicy
from zkapex.proofs.ledger.proof import LogProof
from zkapex.proofs.ledger.witness import ask_witnesses
from zkapex.proofs.receipts.bundle import put_companion
from zkapex.proofs.receipts.evidence import forget_commitment
from zkapex.proofs.receipts.timestamp import request_stamp
from zkapex.proofs.records.envelope import peek
from zkapex.proofs.records.record import sha256_hex

Notify = Callable[[str, str], None]
"""Told what did not work, and why: a witness or an authority that is away holds nobody up."""


@dataclass(frozen=True)
class Keeper:
    """What goes with requests and receipts, in the provider's folder.

    Attributes
    ----------
    folder : Path
        ``openings/``, ``opened/`` and ``rejected/`` are made in it.
    log : Log or None
        What requests and receipts are logged in.
    authority : str
        Address of a timestamping authority; empty: none.
    notify : callable
    """

    folder: Path
    log: Log | None = None
    authority: str = ""
    notify: Notify = lambda what, why: None

    def commitment(self, request_id: str, description: str) -> str:
        """A commitment (hex) to what a request is to forget; its random bytes and the description are kept here."""
        path = self.folder / "openings" / f"{request_id}.json"
        try:
            kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except (OSError, ValueError) as error:
            raise StorageError(f"{path} could not be read", why=str(error)) from error
        if kept is None or kept["description"] != description:
            kept = {"description": description, "random": secrets.token_hex(32)}
            put(path, json.dumps(kept).encode(), 0o600)
        return forget_commitment(bytes.fromhex(kept["random"]), description)

    def opened(self, request_id: str, client_id: str, envelope: bytes) -> None:
        """Log a signed request, before any work on it starts.

        What is kept may be of another one: of one that was signed right before the server was killed, and never sent.
        """
        if self.log is None:
            return
        path, digest = self._opened(request_id, client_id), sha256_hex(peek(envelope))
        if path.exists() and _is_of(path, digest):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, log_payload(self.log, digest, new_nonce()))

    def reject(self, request_id: str, client_id: str, chunk: int, proof: bytes) -> None:
        """Keep a proof that was refused."""
        put(self._rejected(request_id, client_id) / f"{chunk}.bin", proof)

    def rejected(self, request_id: str, client_id: str) -> dict[int, bytes]:
        """The proofs of a request that were refused, by chunk."""
        found = self._rejected(request_id, client_id).glob("[0-9]*.bin")
        return {int(path.stem): path.read_bytes() for path in found if path.stem.isdecimal()}

    def accompany(self, receipt: Path, request_id: str, client_id: str, envelope: bytes) -> None:
        """Put beside a receipt what goes with it: its stamp, its place in the log, and its request's."""
        payload = peek(envelope)
        if self.authority and not (receipt / "receipt.tsr").exists():
            try:
                put_companion(receipt, "receipt.tsr", request_stamp(payload, self.authority))
            except Error as error:
                self.notify(self.authority, error.what)
        if self.log is None:
            return
        name = "receipt.tlog-proof"
        nonce = nonce_of(receipt / name)
        put_companion(receipt, name, log_payload(self.log, sha256_hex(payload), nonce, self._witnesses()))
        opened = self._opened(request_id, client_id)
        if opened.exists():
            put_companion(receipt, "opened.tlog-proof", opened.read_bytes())

    def _witnesses(self) -> Cosign | None:
        policy = self.log.folder / "policy" if self.log is not None else None
        return None if policy is None or not policy.exists() else ask_witnesses(LogPolicy.read(policy), self.notify)

    def _opened(self, request_id: str, client_id: str) -> Path:
        return self.folder / "opened" / request_id / f"{client_id}.tlog-proof"

    def _rejected(self, request_id: str, client_id: str) -> Path:
        return self.folder / "rejected" / request_id / client_id


def _is_of(path: Path, digest: str) -> bool:
    """Whether a proof of inclusion that was kept is of this payload."""
    try:
        LogProof.from_bytes(path.read_bytes()).check_inclusion(digest)
    except LedgerError:
        return False
    except OSError as error:
        raise StorageError(f"{path} could not be read", why=str(error)) from error
    return True

"""The proof that something was logged, as one file (https://c2sp.org/tlog-proof)."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime

from zkapex.errors import CommitmentError, LedgerError
from zkapex.proofs.ledger.checkpoint import MAX_ENTRIES, Checkpoint
from zkapex.proofs.ledger.entry import NONCE_BYTES, entry
from zkapex.proofs.ledger.note import MAX_NOTE_BYTES, Note
from zkapex.proofs.ledger.policy import LogPolicy
from zkapex.proofs.merkle import HASH_BYTES, verify_inclusion

_HEAD = "c2sp.org/tlog-proof@v1"
MAX_PROOF_BYTES = MAX_NOTE_BYTES + 8192


@dataclass(frozen=True)
class Logged:
    """What a proof shows.

    Attributes
    ----------
    origin : str
        The log.
    index, size : int
        Place of the entry, and length of the log when it was proved.
    witnesses : tuple of str
        Names of those whose signatures were verified.
    witnessed : datetime or None
        By when so many witnesses as the policy asks for had seen it; None if it asks for none and there is none.
    """

    origin: str
    index: int
    size: int
    witnesses: tuple[str, ...]
    witnessed: datetime | None


@dataclass(frozen=True)
class LogProof:
    """Place of an entry, path to the root, a signed checkpoint, and what the entry's hash needs besides.

    Attributes
    ----------
    index : int
    path : tuple of bytes
    note : Note
        The signed checkpoint.
    extra : bytes
        The random bytes of the entry.
    """

    index: int
    path: tuple[bytes, ...]
    note: Note
    extra: bytes = b""

    def to_bytes(self) -> bytes:
        """The proof as a file."""
        lines = [_HEAD]
        if self.extra:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines += [f"index {self.index}", *(base64.b64encode(step).decode() for step in self.path)]
        return ("\n".join(lines) + "\n\n").encode() + self.note.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> LogProof:
        """Parse a proof without verifying it.

        Raises
        ------
        LedgerError
            It is none, or not in its one encoding.
        """
        if len(data) > MAX_PROOF_BYTES:
            raise LedgerError(f"a proof of inclusion of {len(data)} bytes is too large")
        head, _, rest = data.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
            if lines.pop(0) != _HEAD:
                raise ValueError
            extra = base64.b64decode(lines.pop(0)[6:], validate=True) if lines[0].startswith("extra ") else b""
            index = int(lines.pop(0).removeprefix("index "))
            path = tuple(base64.b64decode(line, validate=True) for line in lines)
            found = cls(index, path, Note.from_bytes(rest), extra)
            if found.to_bytes() != data or len(path) > 63 or not 0 <= index < MAX_ENTRIES:
                raise ValueError
            if any(len(step) != HASH_BYTES for step in path):
                raise ValueError
        except (ValueError, IndexError):
            raise LedgerError("this is not a proof of inclusion in a log", why="its lines are malformed") from None
        return found

    def verify(self, payload_digest: str, policy: LogPolicy) -> Logged:
        """Check that a signed payload was logged, in a log and seen by witnesses that the policy names.

        Parameters
        ----------
        payload_digest : str
            SHA-256 (hex) of what was signed.
        policy : LogPolicy

        Raises
        ------
        LedgerError
            It was not; or another log, or not enough witnesses, say so.
        """
        log, witnesses, witnessed = policy.check(self.note)
        checkpoint = self.check_inclusion(payload_digest)
        return Logged(log.name, self.index, checkpoint.size, witnesses, witnessed)

    def check_inclusion(self, payload_digest: str) -> Checkpoint:
        """Check that a signed payload is in the tree of the proof's checkpoint, whoever has signed that.

        Raises
        ------
        LedgerError
            It is not.
        """
        if len(self.extra) != NONCE_BYTES:
            raise LedgerError("the proof of inclusion lacks the random bytes of its entry")
        checkpoint = Checkpoint.of(self.note)
        try:
            verify_inclusion(checkpoint.root, entry(self.extra, payload_digest), self.index, checkpoint.size, self.path)
        except CommitmentError as error:
            raise LedgerError(
                "this is not in the log where its proof of inclusion says", why=f"entry {self.index}: {error.what}"
            ) from error
        return checkpoint

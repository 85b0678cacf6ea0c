"""Checkpoints: a log's signed statement of how long it is and what it holds (https://c2sp.org/tlog-checkpoint)."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from zkapex.errors import LedgerError
from zkapex.proofs.ledger.note import Note
from zkapex.proofs.merkle import EMPTY_ROOT, HASH_BYTES

MAX_ENTRIES = 2**40


@dataclass(frozen=True)
class Checkpoint:
    """How long a log is, and the root over its entries; unsigned.

    Attributes
    ----------
    origin : str
        The log's name.
    size : int
        Number of entries.
    root : bytes
        Merkle tree hash over all of them, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def of(cls, note: Note) -> Checkpoint:
        """Read the checkpoint in a note, whether or not its signatures hold. Extension lines are ignored.

        Raises
        ------
        LedgerError
            There is none in it.
        """
        lines = note.text.split("\n")
        try:
            origin, size, root = lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True)
            found = cls(origin, size, root)
            if len(root) != HASH_BYTES or not 0 <= size <= MAX_ENTRIES or not note.text.startswith(found.text()):
                raise ValueError
            if not origin or any(line == "" for line in lines[3:-1]) or (size == 0 and root != EMPTY_ROOT):
                raise ValueError
        except (ValueError, IndexError):
            raise LedgerError("this is not a checkpoint of a log", why="origin, size or root are malformed") from None
        return found

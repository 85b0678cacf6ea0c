"""A log on disk: appending, publishing, proving, checking.

::

    log.json          its origin
    key.pem           what it signs checkpoints with; never published
    log.vkey          the public key, for whoever checks proofs
    queue.sqlite      entries that wait
    policy            witnesses to ask, if there are any (https://c2sp.org/tlog-policy)
    www/              what a web server publishes: checkpoint, tile/...

An append is done in this order, each step on the disk before the next: the queue gives the entry its place; tiles and
bundles of the longer log are written under names of their own; the new checkpoint takes the old one's place. Whoever is
killed in between leaves the old checkpoint, which is still true, and the next append writes the same again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from zkapex.errors import InputError, LedgerError
from zkapex.proofs.ledger.checkpoint import Checkpoint
from zkapex.proofs.ledger.entry import ENTRY_BYTES
from zkapex.proofs.ledger.files import put
from zkapex.proofs.ledger.note import LOG_KEY, Note, NoteSignature, VerifierKey, sign_note
from zkapex.proofs.ledger.proof import LogProof
from zkapex.proofs.ledger.tiles import WIDTH, TileReader, fold, levels, tile_path
from zkapex.proofs.ledger.waiting import Queue
from zkapex.proofs.merkle import EMPTY_ROOT, leaf_hash
from zkapex.proofs.records.signing import load_or_create_private_key

Cosign = Callable[[Note, "Log"], Sequence[NoteSignature]]
"""Obtains witnesses' signatures on a checkpoint."""


@dataclass(frozen=True)
class Log:
    """A log in a folder.

    Attributes
    ----------
    folder : Path
    origin : str
        Its name, which no other log must have.
    """

    folder: Path
    origin: str

    @classmethod
    def create(cls, folder: Path, origin: str) -> Log:
        """Make an empty log, or open the one there is.

        Raises
        ------
        InputError
            There is one of another name, or this cannot be a name.
        StorageError
            It could not be written.
        """
        if (folder / "log.json").exists():
            log = cls.open(folder)
            if log.origin != origin:
                raise InputError(f"{folder} holds the log {log.origin}", fix="choose another folder")
            return log
        key = load_or_create_private_key(folder / "key.pem")
        log = cls(folder, origin)
        verifier = VerifierKey.of(origin, LOG_KEY, key.public_key())
        put(folder / "log.vkey", f"{verifier}\n".encode())
        log._publish(Checkpoint(origin, 0, EMPTY_ROOT))
        put(folder / "log.json", json.dumps({"format": "zkapex.log.v1", "origin": origin}).encode())
        return log

    @classmethod
    def open(cls, folder: Path) -> Log:
        """Open a log.

        Raises
        ------
        InputError
            There is none.
        """
        try:
            kept = json.loads((folder / "log.json").read_text(encoding="utf-8"))
            if kept["format"] != "zkapex.log.v1":
                raise ValueError
            return cls(folder, str(kept["origin"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"there is no log in {folder}", fix="make one with `zkapex ledger create`") from error

    @property
    def www(self) -> Path:
        """What is published."""
        return self.folder / "www"

    @property
    def verifier(self) -> VerifierKey:
        """The log's public key."""
        return VerifierKey.parse((self.folder / "log.vkey").read_text(encoding="utf-8").strip())

    def note(self) -> Note:
        """The latest signed checkpoint."""
        return Note.from_bytes((self.www / "checkpoint").read_bytes())

    def checkpoint(self) -> Checkpoint:
        """The latest checkpoint.

        Raises
        ------
        LedgerError
            It is not signed by this log.
        """
        return checked_checkpoint(self.note(), self.verifier)

    def append(self, entries: Sequence[bytes], cosign: Cosign | None = None) -> list[int]:
        """Log entries, and return their places; on the disk, and in a published checkpoint, when it returns.

        An entry logged before keeps its place. `cosign` is asked for signatures of witnesses once that is so, and what
        it raises concerns only these.

        Raises
        ------
        InputError
            An entry has another length.
        StorageError
            Something could not be written.
        """
        if any(len(entry) != ENTRY_BYTES for entry in entries):
            raise InputError(f"entries of the log have {ENTRY_BYTES} bytes")
        queue = Queue(self.folder / "queue.sqlite")
        queue.add(entries)
        with FileLock(self.folder / "lock"):
            self._integrate(queue)
            places = queue.places(entries)
        if cosign is not None:
            self.cosign(cosign)
        return [place for place in places if place is not None]

    def cosign(self, cosign: Cosign) -> None:
        """Add witnesses' signatures to the latest checkpoint."""
        note = self.note()
        signatures = cosign(note, self)  # takes as long as the slowest witness: nobody waits for it
        with FileLock(self.folder / "lock"):
            latest = self.note()
            if latest.text == note.text and (longer := latest.add(signatures)) != latest:
                put(self.www / "checkpoint", longer.to_bytes())

    def prove(self, entry: bytes, extra: bytes = b"") -> LogProof:
        """The proof that an entry is in the log as of the latest checkpoint.

        Raises
        ------
        InputError
            It is not.
        """
        note = self.note()
        checkpoint = checked_checkpoint(note, self.verifier)
        place = self._find(entry, checkpoint.size)
        reader = TileReader(self.www, checkpoint.size)
        return LogProof(place, reader.inclusion(place), note, extra)

    def consistency(self, old: int) -> tuple[bytes, ...]:
        """The proof that the log begins with what its first `old` entries were."""
        return TileReader(self.www, self.checkpoint().size).consistency(old)

    def _find(self, entry: bytes, size: int) -> int:
        [place] = Queue(self.folder / "queue.sqlite").places([entry])
        if place is not None and place < size:
            return place
        reader = TileReader(self.www, size)  # the queue was lost
        for number in range(-(-size // WIDTH)):
            if entry in (found := reader.entries(number)):
                return number * WIDTH + found.index(entry)
        raise InputError("this is not in the log")

    def _integrate(self, queue: Queue) -> None:
        checkpoint = self.checkpoint()
        new = queue.assign(checkpoint.size)
        if not new:
            return
        size = checkpoint.size + len(new)
        old = TileReader(self.www, checkpoint.size)
        first = checkpoint.size // WIDTH * WIDTH
        bodies = (old.entries(first // WIDTH) if first < checkpoint.size else []) + new
        for at in range(0, len(bodies), WIDTH):
            part = bodies[at : at + WIDTH]
            data = b"".join(len(body).to_bytes(2, "big") + body for body in part)
            put(self.www / tile_path("entries", (first + at) // WIDTH, len(part)), data)
        hashes, start = [leaf_hash(body) for body in bodies], first
        for level in range(levels(size)):
            above: list[bytes] = []
            for at in range(0, len(hashes), WIDTH):
                part = hashes[at : at + WIDTH]
                put(self.www / tile_path(level, (start + at) // WIDTH, len(part)), b"".join(part))
                if len(part) == WIDTH:
                    above.append(fold(part))
            if not above:
                break
            # The next level's tile begins with the hashes of full tiles that were there before.
            place = start // WIDTH
            begin = place // WIDTH * WIDTH
            before = [old.hash_at(8 * (level + 1), number) for number in range(begin, place)]
            hashes, start = before + above, begin
        root = TileReader(self.www, size).root()
        self._publish(Checkpoint(self.origin, size, root))
        self._tidy(checkpoint.size, size)

    def _publish(self, checkpoint: Checkpoint) -> None:
        key = load_or_create_private_key(self.folder / "key.pem")
        text = checkpoint.text()
        put(self.www / "checkpoint", Note(text, (sign_note(text, self.origin, key),)).to_bytes())

    def _tidy(self, old: int, new: int) -> None:
        """Remove partial tiles that a full one has replaced."""
        for level in range(levels(new)):
            step = WIDTH**level
            for number in range(old // step // WIDTH, new // step // WIDTH):
                for kind in ("entries", level) if level == 0 else (level,):
                    shutil.rmtree((self.www / (tile_path(kind, number, WIDTH) + ".p")), ignore_errors=True)


def checked_checkpoint(note: Note, verifier: VerifierKey) -> Checkpoint:
    """The checkpoint in a note, if it is this log's and signed by it.

    Raises
    ------
    LedgerError
        Otherwise.
    """
    checkpoint = Checkpoint.of(note)
    if checkpoint.origin != verifier.name:
        raise LedgerError(
            f"the checkpoint is of the log {checkpoint.origin[:100]!r}", why=f"{verifier.name} was expected"
        )
    note.verify(verifier)
    return checkpoint


def check_log(folder: Path, verifier: VerifierKey, earlier: Sequence[Note] = ()) -> Checkpoint:
    """Check a published log whole: signature, every entry and tile, the root, and that it continues earlier states.

    Parameters
    ----------
    folder : Path
        What is published: a log's ``www``, or a copy of it.
    verifier : VerifierKey
        The log's key.
    earlier : sequence of Note
        Checkpoints of it that somebody has kept.

    Raises
    ------
    LedgerError
        Anything is wrong with it; says what.
    """
    try:
        note = Note.from_bytes((folder / "checkpoint").read_bytes())
    except OSError as error:
        raise LedgerError(f"{folder} has no checkpoint", why=str(error)) from error
    checkpoint = checked_checkpoint(note, verifier)
    reader = TileReader(folder, checkpoint.size)
    if reader.check() != checkpoint.root:
        raise LedgerError("the log's entries do not have the root that its checkpoint states")
    for kept in earlier:
        before = checked_checkpoint(kept, verifier)
        if before.size > checkpoint.size:
            raise LedgerError(f"the log has {checkpoint.size} entries, and once had {before.size}: it was cut short")
        if reader.root(before.size) != before.root:
            raise LedgerError(
                f"the log does not continue its state of {before.size} entries",
                why="it has signed two checkpoints that contradict each other",
                fix="keep both: together they show that the log was rewritten",
            )
    return checkpoint

"""How often each committed vector has been opened, and the refusal to open it too often.

A committed vector ends in uniform salts, which are all that hides it. Its commitment is one linear equation in them,
and every proof it takes part in opens its polynomial at a point of its own, which is one more. While there are no more
equations than salts, they say nothing about the values: a vector with n salts may be opened n - 1 times. After that the
device has to enrol again, which draws fresh salts.

An opening is counted on disk before its proof starts and never taken back, since a proof that failed, or was made again
with other randomness, may have left the device. Vectors are told apart by a digest of their salts: a chunk's weights
keep their count when a receipt makes the result of one request the start of the next, and fresh salts start from
nothing.

A proof of the transparent backend is a function of its statement and the secrets: made again, it is the same bytes and
opens nothing new. Such statements are noted in ``openings.again`` right before they are counted, each with the number
of lines that the log has afterwards: a shorter log says that the device was killed in between, and the next count, of
whatever statement, strikes the note. Its states have no opening to spare, so a device that cannot know what it has
opened of them opens no more: see `zkapex.client.state.place`.

``openings.log`` holds one digest a line, one line an opening; lines are only ever added. What a crash leaves of a line
belongs to a proof that was never started.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path

from filelock import FileLock

from zkapex.client.state.place import Place
from zkapex.client.state.vault import Vault
from zkapex.errors import SaltsSpentError, StorageError
from zkapex.host.files import sync_folder, write_private
from zkapex.proofs.records.record import encode_parts, sha256_hex

LOG, LOCK, AGAIN = "openings.log", ".openings.lock", "openings.again"
_SEALED_LINE = 81
"""Bytes of an encrypted line and its end."""
_LINES = re.compile(rb"([0-9a-f]{32}\n)*")

Vectors = Mapping[str, tuple[int, ...]]
"""Salts (field elements) by the name of the committed vector they belong to."""


class SaltLedger:
    """The count of openings of one device.

    Parameters
    ----------
    vault : Vault
        The device's state.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._place = Place(vault)
        self._fresh: set[bytes] = set()
        # Across processes too: a server that grew tired of waiting may ask again while the first answer is being made.
        self._lock = FileLock(vault.folder / LOCK, mode=0o600)

    def begin(self, vectors: Vectors) -> None:
        """Take note of vectors whose salts were drawn just now: nothing can have opened them."""
        self._fresh |= {_name(salts) for salts in vectors.values()}

    def require(self, proofs: Iterable[Vectors], statements: Iterable[bytes] = ()) -> None:
        """Return only if all these proofs can still be made, one after the other; counts nothing.

        Parameters
        ----------
        statements : iterable of bytes
            See `spend`, one for each proof; or none.

        Raises
        ------
        SaltsSpentError
            A vector would be opened more often than its salts allow.
        StorageError
            The log is damaged or cannot be read.
        """
        with self._locked():
            again, (lines, _) = self._again(), self._read()
            counts = Counter(lines)
            for proof, statement in zip(proofs, chain(statements, repeat(b"")), strict=False):
                if _counted(again, lines, proof, statement):
                    continue
                self._know(proof, statement)
                self._add(counts, [proof])

    def spend(self, vectors: Vectors, statement: bytes = b"") -> None:
        """Count one opening of every vector of a proof, durably, before it starts; all or none are allowed.

        Parameters
        ----------
        statement : bytes
            What is proved, if proving it again with the same salts opens nothing new; else empty.

        Raises
        ------
        SaltsSpentError
            A vector would be opened more often than its salts allow.
        StorageError
            The log is damaged, or cannot be read or written.
        """
        with self._locked():
            again, (lines, end) = self._again(), self._read()
            if _counted(again, lines, vectors, statement):
                return
            self._know(vectors, statement)
            self._add(Counter(lines), [vectors])
            names = [_name(salts) for salts in vectors.values()]
            noted = {one: last for one, last in again.items() if last <= len(lines)}
            if statement:
                noted[_once(vectors, statement)] = len(lines) + len(names)
            if noted != again:
                self._vault.put(AGAIN, json.dumps(noted).encode())
            self._append(end, names)

    def keep(self, vectors: Vectors) -> None:
        """Forget the counts of all other vectors, which have been given up.

        Raises
        ------
        StorageError
            The log is damaged, or cannot be read or written.
        """
        kept = {_name(salts) for salts in vectors.values()}
        with self._locked():
            lines = [name for name in self._read()[0] if name in kept]
            self._vault.drop(AGAIN)  # whoever proves one of them again counts it once more
            write_private(self._path, b"".join(line + b"\n" for line in self._sealed(0, lines)))
            self._place.forget_others()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._vault.create()
            self._lock.acquire()
        except OSError as e:
            raise StorageError(f"cannot lock {self._path}", why=str(e), fix="check the device's state folder") from e
        try:
            yield
        finally:
            self._lock.release()

    def _again(self) -> dict[str, int]:
        """Digests of the statements that are counted, each with the number of lines that the log has then."""
        if not self._vault.has(AGAIN):
            return {}
        try:
            found = json.loads(self._vault.get(AGAIN))
            # Releases up to 0.2.0 noted no numbers: what they noted is counted once more.
            return {str(one): int(line) for one, line in found.items()} if isinstance(found, dict) else {}
        except (ValueError, TypeError) as e:
            raise StorageError(f"{self._vault.folder / AGAIN} is damaged", fix="enrol the device again") from e

    def _know(self, vectors: Vectors, statement: bytes) -> None:
        """Return only if openings of these vectors cannot have been forgotten."""
        if not statement or all(_name(salts) in self._fresh for salts in vectors.values()) or self._place.known():
            return
        raise SaltsSpentError(
            SaltsSpentError.SENTENCE,
            why="the device's state is a copy or was restored from a backup: it cannot know what it has opened since",
            fix="enrol the device again, which draws fresh salts",
        )

    def _add(self, counts: Counter[bytes], proofs: Iterable[Vectors]) -> None:
        for proof in proofs:
            for vector, salts in proof.items():
                name = _name(salts)
                counts[name] += 1
                if counts[name] >= len(salts):
                    raise SaltsSpentError(
                        SaltsSpentError.SENTENCE,
                        why=f"{vector} would be opened {counts[name]} times, its {len(salts)} salts allow "
                        f"{len(salts) - 1}",
                        fix="enrol the device again, which draws fresh salts",
                    )

    def _read(self) -> tuple[list[bytes], int]:
        """The digest of every opening, and where the last whole line ends."""
        try:
            data = self._path.read_bytes() if self._path.exists() else b""
        except OSError as e:
            raise StorageError(f"cannot read {self._path}", why=str(e)) from e
        end = data.rfind(b"\n") + 1
        cipher, name = self._vault.cipher, self._vault.full_name(LOG)
        lines, rest = data[:end].splitlines(), len(data) - end
        if cipher is not None:
            lines = [cipher.open_line(name, number, line) for number, line in enumerate(lines)]
        whole = b"".join(line + b"\n" for line in lines)
        if not _LINES.fullmatch(whole) or rest > (32 if cipher is None else _SEALED_LINE - 1):
            raise StorageError(f"{self._path} is damaged", fix="enrol the device again, which starts a new one")
        return lines, end

    def _append(self, end: int, names: Sequence[bytes]) -> None:
        try:
            if self._vault.cipher is not None and end % _SEALED_LINE:
                raise StorageError(f"{self._path} is damaged", why="its lines are not all of one length")
            lines = b"".join(line + b"\n" for line in self._sealed(end // _SEALED_LINE, names))
            new = not self._path.exists()
            with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as log:
                log.truncate(end)
                log.seek(end)
                log.write(lines)
                log.flush()
                os.fsync(log.fileno())
            if new:
                sync_folder(self._path.parent)
        except OSError as e:
            raise StorageError(f"cannot write {self._path}", why=str(e), fix="free disk space") from e

    def _sealed(self, first: int, names: Sequence[bytes]) -> Sequence[bytes]:
        """Lines as they are on disk, without their ends: encrypted one by one, each bound to its number."""
        cipher, full = self._vault.cipher, self._vault.full_name(LOG)
        if cipher is None:
            return names
        return [cipher.seal_line(full, first + number, name) for number, name in enumerate(names)]

    @property
    def _path(self) -> Path:
        return self._vault.folder / LOG


def _counted(again: Mapping[str, int], lines: Sequence[bytes], vectors: Vectors, statement: bytes) -> bool:
    """Whether the log has what `again` notes of a statement."""
    last = again.get(_once(vectors, statement)) if statement else None
    return last is not None and last <= len(lines)


def _once(vectors: Vectors, statement: bytes) -> str:
    names = sorted(_name(salts) for salts in vectors.values())
    return sha256_hex(encode_parts("zkapex:opened-once:v1", statement, *names))


def _name(salts: tuple[int, ...]) -> bytes:
    """128 bits by which salts are recognised; they are uniform, so it tells nothing about them."""
    return sha256_hex(encode_parts("zkapex:salts:v1", *(str(salt) for salt in salts)))[:32].encode()

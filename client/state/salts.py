"""How often each committed vector has been opened, and the refusal to open it too often.

A committed vector ends in uniform salts, which are all that hides it. Its commitment is one linear equation in them,
and every proof it takes part in opens its polynomial at a point of its own, which is one more. While there are no more
equations than salts, they say nothing about the values: a vector with n salts may be opened n - 1 times. After that the
device has to enrol again, which draws fresh salts.

An opening is counted on disk before its proof starts and never taken back, since a proof that failed, or was made again
with other randomness, may have left the device. Vectors are told apart by a digest of their salts: a chunk's weights
keep their count when a receipt makes the result of one request the start of the next, and fresh salts start from
nothing.

``openings.log`` holds one digest a line, one line an opening; lines are only ever added. What a crash leaves of a line
belongs to a proof that was never started.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from zkapex.client.state.holdings import Change, Holdings
from zkapex.client.state.vault import Vault
from zkapex.errors import SaltsSpentError, StorageError
from zkapex.proofs.chunk.instance import place
from zkapex.proofs.records.record import encode_parts, sha256_hex

LOG, LOCK = "openings.log", ".openings.lock"
_LINES = re.compile(rb"([0-9a-f]{32}\n)*")

Vectors = Mapping[str, tuple[int, ...]]
"""Salts (field elements) by the name of the committed vector they belong to."""


def opened_by(holdings: Holdings, change: Change, chunk: int) -> dict[str, tuple[int, ...]]:
    """The committed vectors that the proof of one touched chunk opens: weights before and after, and curvature, if any.

    The proof opens their difference rather than the weights before; together with the weights after, that is the same.
    """
    where = place(holdings.manifest, chunk)
    theta, curvature = f"theta/{chunk}", f"curvature/{where.curvature}"
    opened = {f"{theta} before": holdings.salts[theta], f"{theta} after": change.salts[theta]}
    return opened | ({curvature: holdings.salts[curvature]} if holdings.curvature else {})


class SaltLedger:
    """The count of openings of one device.

    Parameters
    ----------
    vault : Vault
        The device's state.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        # Across processes too: a server that grew tired of waiting may ask again while the first answer is being made.
        self._lock = FileLock(vault.folder / LOCK, mode=0o600)

    def require(self, proofs: Iterable[Vectors]) -> None:
        """Return only if all these proofs can still be made, one after the other; counts nothing.

        Raises
        ------
        SaltsSpentError
            A vector would be opened more often than its salts allow.
        StorageError
            The log is damaged or cannot be read.
        """
        with self._locked():
            self._add(self._read()[0], proofs)

    def spend(self, proof: Vectors) -> None:
        """Count one opening of every vector of a proof, durably, before it starts; all or none are allowed.

        Raises
        ------
        SaltsSpentError
            A vector would be opened more often than its salts allow.
        StorageError
            The log is damaged, or cannot be read or written.
        """
        with self._locked():
            counts, end = self._read()
            self._add(counts, [proof])
            self._append(end, b"".join(_name(salts) + b"\n" for salts in proof.values()))

    def keep(self, vectors: Vectors) -> None:
        """Forget the counts of all other vectors, which have been given up.

        Raises
        ------
        StorageError
            The log is damaged, or cannot be read or written.
        """
        kept = {_name(salts) for salts in vectors.values()}
        with self._locked():
            counts, _ = self._read()
            lines = [name for name, count in counts.items() if name in kept for _ in range(count)]
            self._vault.put(LOG, b"".join(name + b"\n" for name in lines))

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

    def _read(self) -> tuple[Counter[bytes], int]:
        """Openings by digest, and where the last whole line ends."""
        data = self._vault.get(LOG) if self._vault.has(LOG) else b""
        end = data.rfind(b"\n") + 1
        if not _LINES.fullmatch(data, 0, end) or len(data) - end > 32:
            raise StorageError(f"{self._path} is damaged", fix="enrol the device again, which starts a new one")
        return Counter(data[:end].splitlines()), end

    def _append(self, end: int, lines: bytes) -> None:
        try:
            new = not self._path.exists()
            with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as log:
                log.truncate(end)
                log.seek(end)
                log.write(lines)
                log.flush()
                os.fsync(log.fileno())
            if new:
                _sync_folder(self._path.parent)
        except OSError as e:
            raise StorageError(f"cannot write {self._path}", why=str(e), fix="free disk space") from e

    @property
    def _path(self) -> Path:
        return self._vault.folder / LOG


def _name(salts: tuple[int, ...]) -> bytes:
    """128 bits by which salts are recognised; they are uniform, so it tells nothing about them."""
    return sha256_hex(encode_parts("zkapex:salts:v1", *(str(salt) for salt in salts)))[:32].encode()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

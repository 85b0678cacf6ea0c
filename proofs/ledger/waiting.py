"""Entries that wait for their place in the log, and which place each one has: one SQLite file.

It holds nothing that the log needs to be read or checked; once it is lost, only entries that were waiting are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from zkapex.errors import StorageError


class Queue:
    """The queue in a file; made when missing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, entries: Sequence[bytes]) -> None:
        """Keep entries until they have a place; those known already are left alone. Durable when it returns."""
        with self._open() as db:
            db.executemany("INSERT OR IGNORE INTO entry (body) VALUES (?)", [(entry,) for entry in entries])

    def assign(self, size: int) -> list[bytes]:
        """Give every waiting entry its place, from `size` on; all entries from there on, in order.

        The order is durable before anything is written to the log, so that whoever is killed while writing and tries
        again writes the same.
        """
        with self._open() as db:
            placed = [row[0] for row in db.execute("SELECT body FROM entry WHERE place >= ? ORDER BY place", (size,))]
            waiting = list(db.execute("SELECT serial, body FROM entry WHERE place IS NULL ORDER BY serial"))
            first = size + len(placed)
            db.executemany(
                "UPDATE entry SET place = ? WHERE serial = ?",
                [(first + at, serial) for at, (serial, _) in enumerate(waiting)],
            )
            return placed + [body for _, body in waiting]

    def places(self, entries: Sequence[bytes]) -> list[int | None]:
        """Where each of these entries is, or will be; None if it has no place."""
        with self._open() as db:
            rows = (db.execute("SELECT place FROM entry WHERE body = ?", (entry,)).fetchone() for entry in entries)
            return [None if row is None else row[0] for row in rows]

    def waiting(self) -> int:
        """How many entries have no place yet."""
        with self._open() as db:
            return int(db.execute("SELECT count(*) FROM entry WHERE place IS NULL").fetchone()[0])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self._path, timeout=60)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"{self._path} could not be opened", why=str(error)) from error
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute(
                "CREATE TABLE IF NOT EXISTS entry (serial INTEGER PRIMARY KEY AUTOINCREMENT, "
                "body BLOB NOT NULL UNIQUE, place INTEGER UNIQUE)"
            )
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.commit()
        except sqlite3.Error as error:
            raise StorageError(f"{self._path} could not be used", why=str(error), fix="free disk space") from error
        finally:
            db.close()

"""A registry in an SQLite file."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from zkapex.errors import StorageError

_SHARED_MEMORY: Final = 2**15
"""Bytes of the index that SQLite keeps of a write-ahead log, at least."""


@dataclass(frozen=True)
class SQLite:
    """A file; created, readable by its owner only, if there is none."""

    path: Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def prepare(self) -> None:
        """Create the file if there is none."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise StorageError(
                f"the registry {self.path} cannot be created", why=error.strerror or str(error)
            ) from error

    def engine(self, lock_timeout_s: float) -> Engine:
        """Write-ahead mode, durable at every commit, with foreign keys enforced; writers lock at their start."""
        engine = create_engine(URL.create("sqlite", database=str(self.path)), connect_args={"timeout": lock_timeout_s})

        @event.listens_for(engine, "connect")
        def _configure(connection: sqlite3.Connection, _: object) -> None:
            connection.isolation_level = None  # transactions are begun below, not by the driver's guess
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            write = connection.get_execution_options().get("zkapex_write", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

        return engine

    def batch(self, connection: Connection) -> AbstractContextManager[None]:
        """Nothing: there is nobody to send anything to."""
        return nullcontext()

    def check(self, connection: Connection) -> None:
        """Look at the structure of the file."""
        damage = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if damage != "ok":
            raise StorageError(f"the registry {self.path} is damaged", why=str(damage), fix="restore a backup")

    def explain(self, error: SQLAlchemyError) -> StorageError:
        """SQLite says it in words."""
        cause = str(error.orig) if isinstance(error, DBAPIError) else str(error)
        if "locked" in cause or "busy" in cause:
            return StorageError(
                f"the registry {self.path} is locked",
                why="another process is using it",
                fix="stop that process, or wait",
                retryable=True,
            )
        if "full" in cause or ("I/O" in cause and self._no_room()):
            return StorageError(
                f"the registry {self.path} cannot grow",
                why="the disk is full",
                fix="free some space",
                retryable=True,
            )
        if "malformed" in cause or "not a database" in cause:
            return StorageError(f"the registry {self.path} is damaged", why=cause, fix="restore a backup")
        return StorageError(f"the registry {self.path} could not be used", why=cause)

    def _no_room(self) -> bool:
        """Whether the disk is too full for what SQLite opens beside the file: it calls that an error of input."""
        try:
            return shutil.disk_usage(self.path.parent).free < _SHARED_MEMORY
        except OSError:
            return False

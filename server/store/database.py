"""Opening the registry's SQLite file, and saying what is wrong with it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from zkapex.errors import StorageError


def open_engine(path: Path, lock_timeout_s: float) -> Engine:
    """Open a database in write-ahead mode, durable at every commit, with foreign keys enforced.

    Transactions of connections with the execution option ``zkapex_write`` take the write lock at their start, so that
    what they read is still true when they write.
    """
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": lock_timeout_s})

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


def explain(path: Path, error: SQLAlchemyError) -> StorageError:
    """Say what an error of the database means to its user."""
    cause = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    if "locked" in cause or "busy" in cause:
        return StorageError(
            f"the registry {path} is locked", why="another process is using it", fix="stop that process, or wait"
        )
    if "full" in cause:
        return StorageError(f"the registry {path} cannot grow", why="the disk is full", fix="free some space")
    if "malformed" in cause or "not a database" in cause:
        return StorageError(f"the registry {path} is damaged", why=cause, fix="restore a backup")
    return StorageError(f"the registry {path} could not be used", why=cause)

"""Which database a registry is in, and what databases differ in: how they are opened, locked, checked and explained."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from zkapex.errors import InputError, StorageError


class Database(Protocol):
    """A place for a registry.

    Transactions of connections with the execution option ``zkapex_write`` exclude each other from their start, so that
    what they read is still true when they write; others read, at the same time, what was true when they began.
    """

    @property
    def name(self) -> str:
        """What messages call it; without passwords."""
        ...

    def prepare(self) -> None:
        """Make the place, if it is for us to make. Raises StorageError."""
        ...

    def engine(self, lock_timeout_s: float) -> Engine:
        """An engine that waits so long for another writer."""
        ...

    def batch(self, connection: Connection) -> AbstractContextManager[None]:
        """Statements that return no rows, sent together if the database can; errors are `SQLAlchemyError`."""
        ...

    def check(self, connection: Connection) -> None:
        """Look for damage, as far as that is quick. Raises StorageError."""
        ...

    def explain(self, error: SQLAlchemyError) -> StorageError:
        """What an error of the database means to its user, and whether it is worth another try."""
        ...


def database(location: Path | str) -> Database:
    """The database at a path (SQLite), or at a URL: ``sqlite:///PATH`` or ``postgresql+psycopg://...``.

    Raises
    ------
    InputError
        It is no URL of a database that a registry can be in, or what is needed for it is not installed.
    """
    from zkapex.server.store.postgresql import PostgreSQL
    from zkapex.server.store.sqlite import SQLite

    if isinstance(location, Path) or "://" not in location:
        return SQLite(Path(location))
    try:
        url: URL = make_url(location)
    except ArgumentError as error:
        raise InputError("the registry's URL cannot be read", why=str(error)) from error
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        return SQLite(Path(url.database))
    if url.drivername == "postgresql+psycopg":
        return PostgreSQL(url)
    raise InputError(
        f"a registry cannot be in {url.render_as_string()}",
        why="only SQLite files and PostgreSQL databases are supported",
        fix="give a path, sqlite:///PATH, or postgresql+psycopg://USER@HOST/DATABASE",
    )

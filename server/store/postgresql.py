"""A registry in a PostgreSQL database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError, OperationalError, SQLAlchemyError

from zkapex.errors import InputError, StorageError

_LOCK = 0x7A6B6170
"""Number of the advisory lock of whoever writes: `zkap`. It is per database, as registries are."""

_IDLE_S = 1.0
"""Seconds after which a connection may have been cut."""


@dataclass(frozen=True)
class PostgreSQL:
    """A database on a server, which must exist; its tables are made in the first schema of the search path."""

    url: URL = field(repr=False)

    def __post_init__(self) -> None:
        if find_spec("psycopg") is None:
            raise InputError("PostgreSQL needs psycopg", fix="pip install 'zkapex[postgresql]'")

    @property
    def name(self) -> str:
        """The URL without its password."""
        return self.url.render_as_string()

    def prepare(self) -> None:
        """Databases are made by whoever runs the server."""

    def engine(self, lock_timeout_s: float) -> Engine:
        """Durable at every commit. Writers exclude each other by an advisory lock; readers see one moment each.

        A message to the server costs more than what it asks for. So transactions are begun here, not by the driver,
        which would use a message of its own, and connections are only tried out when they have not been used for long.
        """
        engine = create_engine(
            self.url,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": max(1, round(lock_timeout_s))},
        )
        waits = max(1, round(lock_timeout_s * 1000))

        @event.listens_for(engine, "checkout")
        def _try_out(connection: Any, record: Any, proxy: object) -> None:
            now = time.monotonic()
            if now - record.info.get("used", now) > _IDLE_S:
                try:
                    connection.execute("SELECT 1")
                except Exception as error:
                    raise DisconnectionError from error  # the pool makes another one
            record.info["used"] = now

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            if connection.get_execution_options().get("zkapex_write", False):
                # Locked first: what is read after that was committed by the writer before.
                sql = (
                    f"BEGIN; SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = {waits}; "
                    f"SELECT pg_advisory_xact_lock({_LOCK})"
                )
            else:
                sql = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
            with _told():
                _driver(connection).execute(sql, prepare=False)

        return engine

    @contextmanager
    def batch(self, connection: Connection) -> Iterator[None]:
        """See `zkapex.server.store.database.Database`: psycopg's pipeline."""
        with _told(), _driver(connection).pipeline():
            yield

    def check(self, connection: Connection) -> None:
        """The server checks its own pages."""

    def explain(self, error: SQLAlchemyError) -> StorageError:
        """PostgreSQL says it by a code (appendix A of its manual)."""
        cause = str(error.orig).strip() if isinstance(error, DBAPIError) else str(error)
        state = getattr(error.orig, "sqlstate", None) or "" if isinstance(error, DBAPIError) else ""
        what = f"the registry {self.name}"
        if state in {"55P03", "40001", "40P01"}:
            return StorageError(
                f"{what} is locked", why="another process is using it", fix="stop that process, or wait", retryable=True
            )
        if state == "53100":
            return StorageError(f"{what} cannot grow", why="the disk is full", fix="free some space", retryable=True)
        if state in {"XX001", "XX002"}:
            return StorageError(f"{what} is damaged", why=cause, fix="restore a backup")
        refused = state[:2] in {"28", "3D", "42"} or "authentication failed" in cause or "does not exist" in cause
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        if not refused and (
            state[:2] in {"08", "53", "57"} or lost or (isinstance(error, OperationalError) and not state)
        ):
            return StorageError(
                f"{what} cannot be reached", why=cause, fix="see whether the server runs", retryable=True
            )
        return StorageError(f"{what} could not be used", why=cause)


def _driver(connection: Connection) -> Any:
    """The connection of psycopg."""
    return connection.connection.driver_connection


@contextmanager
def _told() -> Iterator[None]:
    """Have errors of psycopg be SQLAlchemy's, as they are where statements go through it."""
    import psycopg

    try:
        yield
    except psycopg.OperationalError as error:
        raise OperationalError("", None, error) from error
    except psycopg.Error as error:
        raise DBAPIError("", None, error) from error

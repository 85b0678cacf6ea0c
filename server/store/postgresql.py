"""A registry in a PostgreSQL database."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from zkapex.errors import InputError, StorageError

_LOCK = 0x7A6B6170
"""Number of the advisory lock of whoever writes: `zkap`. It is per database, as registries are."""


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
        """Durable at every commit. Writers exclude each other by an advisory lock; readers see one moment each."""
        engine = create_engine(
            self.url,
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
            connect_args={"connect_timeout": max(1, round(lock_timeout_s))},
        )

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            if connection.get_execution_options().get("zkapex_write", False):
                # Locked first: what is read after that was committed by the writer before.
                connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {max(1, round(lock_timeout_s * 1000))}")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            else:
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

        return engine

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

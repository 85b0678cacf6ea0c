"""Bringing a registry's database up to date when it is opened."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, insert, inspect, select, text

from zkapex.errors import FormatVersionError, InputError
from zkapex.server.store.database import Database
from zkapex.server.store.schema import META, METADATA, SCHEMA_VERSION

FOLDER = Path(__file__).parent / "migrations"


def revision(version: int) -> str:
    """What Alembic calls a version of the schema."""
    return f"{version:04d}"


def prepare(connection: Connection, place: Database, federation: str) -> None:
    """Create the tables in an empty database, or check that they are ours and bring them up to date.

    Raises
    ------
    InputError
        The database belongs to another program, or to another federation.
    FormatVersionError
        It was written by a newer release.
    StorageError
        It is damaged.
    """
    tables = set(inspect(connection).get_table_names())
    if not tables:
        METADATA.create_all(connection)
        connection.execute(insert(META).values(id=1, schema_version=SCHEMA_VERSION, federation=federation))
        stamp(connection, SCHEMA_VERSION)
        return
    if "meta" not in tables:
        raise InputError(f"{place.name} is not a zkapex registry", fix="name another file or database")
    # Only these columns are promised to exist in every version of the schema.
    version, owner = connection.execute(select(META.c.schema_version, META.c.federation)).one()
    if version > SCHEMA_VERSION:
        raise FormatVersionError(
            f"the registry {place.name} has schema version {version}",
            why=f"this release knows versions up to {SCHEMA_VERSION}",
            fix="use the release that wrote it, or newer",
        )
    if owner != federation:
        raise InputError(f"the registry {place.name} belongs to another federation", why=f"it is {owner!r}")
    place.check(connection)
    if version < SCHEMA_VERSION:
        if "alembic_version" not in tables:  # the first release had no migrations
            stamp(connection, version)
        upgrade(connection)


def stamp(connection: Connection, version: int) -> None:
    """Write down which migration a database is at, as Alembic does."""
    connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text("INSERT INTO alembic_version VALUES (:version)"), {"version": revision(version)})


def upgrade(connection: Connection, to: str = "head") -> None:
    """Run the migrations that a database lacks, in the transaction that the connection is in."""
    from alembic import command  # here, as databases are seldom out of date
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, to)

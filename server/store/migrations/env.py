"""Alembic runs this: on the connection that ``migrate.py`` gives it, within its transaction."""

from __future__ import annotations

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy import text

from zkapex.server.store.schema import METADATA


def _write_version(ctx: MigrationContext, step: MigrationInfo, *_: object, **__: object) -> None:
    """Keep ``meta.schema_version`` in step, which older releases look at before anything else."""
    versions = [int(revision) for revision in step.up_revision_ids]
    assert ctx.connection is not None  # noqa: S101 - we gave it one
    ctx.connection.execute(text("UPDATE meta SET schema_version = :version"), {"version": max(versions)})


def run() -> None:
    """Run what is asked for."""
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=METADATA, on_version_apply=_write_version)
    with context.begin_transaction():
        context.run_migrations()


run()

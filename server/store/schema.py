"""The tables of the registry's database, as this release has them; how older ones get there is in ``migrations``.

What is large is kept out of rows that change or are looked at often: signed records and proofs have tables of their
own, a client's commitments one row each. So a decision about one chunk reads and writes a few short rows, whatever the
model's size.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    event,
)

SCHEMA_VERSION = 3
"""Number of the newest migration."""

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)
"""All tables. Constraints have names, so that a migration can say which one it means."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean(text: str) -> str:
    """Text as both databases can hold it: PostgreSQL knows no NUL, and neither of them halves of a character."""
    return text.replace("\0", _REPLACEMENT).encode("utf-8", "replace").decode("utf-8")


class Prose(TypeDecorator[str]):
    """Text that a peer may have had a hand in, such as the reason a device gives."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Make it fit for storing."""
        return None if value is None else clean(value)


def _digest(name: str, *rest: Any, **options: Any) -> Column[str]:
    return Column(name, String(64), *rest, **options)


META = Table(
    "meta",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("schema_version", Integer, nullable=False),
    Column("federation", String, nullable=False),
)
"""One row: the version of this schema, and the federation the database belongs to."""

MANIFESTS = Table(
    "manifests", METADATA, _digest("digest", primary_key=True), Column("body", LargeBinary, nullable=False)
)
"""Model manifests, by digest."""

NONCES = Table("nonces", METADATA, _digest("nonce", primary_key=True))
"""Nonces that were used."""

INVITATIONS = Table(
    "invitations",
    METADATA,
    _digest("nonce", primary_key=True),
    _digest("client_id"),
    Column("at", String(40), nullable=False),
)
"""Nonces that were issued for one enrolment each, before they were sent: to a client, or to whoever was at a node."""

ENROLMENTS = Table(
    "enrolments",
    METADATA,
    _digest("digest", primary_key=True),
    _digest("client_id", nullable=False),
    Column("revision", Integer, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    UniqueConstraint("client_id", "revision"),
)
"""Every enrolment ever accepted, as signed."""

RECORDS = Table(
    "records", METADATA, _digest("digest", primary_key=True), Column("envelope", LargeBinary, nullable=False)
)
"""Signed requests, responses and receipts, by digest. A row never changes."""

CLIENTS = Table(
    "clients",
    METADATA,
    _digest("client_id", primary_key=True),
    Column("public_key", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("revision", Integer, nullable=False),
    _digest("enrolment_digest", ForeignKey(ENROLMENTS.c.digest), nullable=False),
    _digest("manifest_digest", ForeignKey(MANIFESTS.c.digest), nullable=False),
    Column("active", Text),
    Column("readmitted", Boolean, nullable=False),
    Column("reason", Prose, nullable=False),
    Column("stale", Prose, nullable=False),
    Column("aborted", Integer, nullable=False),
    Column("curvature_at", String(40)),
    Column("version", Integer, nullable=False),
    Column("n_theta", Integer, nullable=False),
    Column("n_curvature", Integer, nullable=False),
)
"""Clients as they stand. `version` counts how often commitments of a client changed."""

COMMITMENTS = Table(
    "commitments",
    METADATA,
    _digest("client_id", ForeignKey(CLIENTS.c.client_id), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("point", String(128), nullable=False),
)
"""A commitment of a client to one chunk (``theta``) or one column block (``curvature``), since a version of the client.

The newest one counts. Older ones stay, so that what was read from the registry goes on meaning what it meant then.
"""

REQUESTS = Table(
    "requests",
    METADATA,
    Column("serial", Integer, primary_key=True),
    _digest("client_id", ForeignKey(CLIENTS.c.client_id), nullable=False),
    Column("request_id", String(64), nullable=False),
    _digest("enrolment_digest", ForeignKey(ENROLMENTS.c.digest), nullable=False),
    _digest("manifest_digest", ForeignKey(MANIFESTS.c.digest), nullable=False),
    _digest("request_digest", ForeignKey(RECORDS.c.digest), nullable=False),
    _digest("response_digest", ForeignKey(RECORDS.c.digest)),
    _digest("receipt_digest", ForeignKey(RECORDS.c.digest)),
    _digest("mask_digest", nullable=False),  # with targets, if there are any
    Column("issued_at", String(40), nullable=False),
    Column("status", String(16), nullable=False),
    Column("sent", Boolean, nullable=False),
    Column("audit_seed", Text),
    Column("n_touched", Integer, nullable=False),
    Column("draw", Integer, nullable=False),
    Column("n_drawn", Integer, nullable=False),
    Column("n_proofs", Integer, nullable=False),
    Column("verdict", String(16)),
    Column("reason", Prose, nullable=False),
    UniqueConstraint("client_id", "request_id"),
    Index(None, "request_id"),
    Index(None, "mask_digest"),
)
"""Requests to one client each; `serial` orders them. `draw` is the number of the draw that counts, 0 before one is."""

TOUCHED = Table(
    "touched",
    METADATA,
    Column("request", Integer, ForeignKey(REQUESTS.c.serial), primary_key=True, autoincrement=False),
    Column("chunks", Text, nullable=False),
)
"""The chunks that a request touches, as a JSON list."""

DRAWS = Table(
    "draws",
    METADATA,
    Column("request", Integer, ForeignKey(REQUESTS.c.serial), primary_key=True, autoincrement=False),
    Column("draw", Integer, primary_key=True, autoincrement=False),
    Column("chunk", Integer, primary_key=True, autoincrement=False),
    Column("proved", Boolean, nullable=False),
    Index(None, "request", "draw", "proved", "chunk"),
)
"""Chunks that were drawn to be proved, and whether they are."""

PROOFS = Table(
    "proofs",
    METADATA,
    _digest("digest", primary_key=True),
    _digest("client_id", nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("chunk", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("client_id", "request_id", "chunk"),
    ForeignKeyConstraint(["client_id", "request_id"], [REQUESTS.c.client_id, REQUESTS.c.request_id]),
)
"""Accepted proofs; `number` counts those of a request, from 1. A digest is unique over all clients and requests."""

TRAIL = Table(
    "trail",
    METADATA,
    Column("serial", Integer, primary_key=True, autoincrement=False),
    Column("at", String(40), nullable=False),
    Column("event", String(40), nullable=False),
    _digest("client_id", ForeignKey(CLIENTS.c.client_id), nullable=False),
    Column("request_id", String(64)),
    Column("client_status", String(16), nullable=False),
    Column("request_status", String(16)),
    Column("detail", Prose, nullable=False),
    Column("content", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Index(None, "client_id"),
)
"""The audit trail: what happened, when, with what, and what client and request were afterwards. See ``trail.py``."""

APPEND_ONLY = "the audit trail can only be appended to"


def make_append_only(connection: Connection, table: str) -> None:
    """Have the database itself refuse to change or remove rows of a table."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{APPEND_ONLY}' USING ERRCODE = 'integrity_constraint_violation'; END $$"
        )
        connection.exec_driver_sql(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        connection.exec_driver_sql(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{APPEND_ONLY}'); END"
        )


@event.listens_for(TRAIL, "after_create")
def _trail_created(_table: Table, connection: Connection, **_: object) -> None:
    make_append_only(connection, "trail")

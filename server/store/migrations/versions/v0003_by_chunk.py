"""Commitments by version, draws by chunk, records beside the rows that change, and a trail that is a chain."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

from zkapex.proofs.records.record import sha256_hex
from zkapex.server.store.schema import clean, make_append_only
from zkapex.server.store.trail import link, start

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

OLD = ("proofs", "requests", "commitments", "clients", "enrolments")
"""Tables that are made anew under their name, in an order in which they can be dropped."""


def upgrade() -> None:
    """Make the new tables, copy what the old ones hold, and drop these."""
    connection = op.get_bind()
    op.drop_index("ix_requests_mask_digest", "requests")
    for table in reversed(OLD):
        op.rename_table(table, f"old_{table}")
    _create(connection)
    _copy_clients(connection)
    _copy_requests(connection)
    _copy_trail(connection)
    op.drop_table("transitions")
    for table in OLD:
        op.drop_table(f"old_{table}")
    if connection.dialect.name == "postgresql":
        op.execute("DROP FUNCTION transitions_append_only")


def _create(connection: sa.Connection) -> None:
    def digest(name: str, to: str = "", nullable: bool = False) -> sa.Column[str]:
        return sa.Column(name, sa.String(64), *([sa.ForeignKey(to)] if to else []), nullable=nullable)

    names = {
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
    metadata = sa.MetaData(naming_convention=names)
    sa.Table("manifests", metadata, sa.Column("digest", sa.String(64), primary_key=True))
    sa.Table(
        "enrolments",
        metadata,
        sa.Column("digest", sa.String(64), primary_key=True),
        digest("client_id"),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("client_id", "revision"),
    )
    sa.Table(
        "records",
        metadata,
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
    )
    sa.Table(
        "clients",
        metadata,
        sa.Column("client_id", sa.String(64), primary_key=True),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        digest("enrolment_digest", "enrolments.digest"),
        digest("manifest_digest", "manifests.digest"),
        sa.Column("active", sa.Text),
        sa.Column("readmitted", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("stale", sa.Text, nullable=False),
        sa.Column("aborted", sa.Integer, nullable=False),
        sa.Column("curvature_at", sa.String(40)),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("n_theta", sa.Integer, nullable=False),
        sa.Column("n_curvature", sa.Integer, nullable=False),
    )
    sa.Table(
        "commitments",
        metadata,
        sa.Column("client_id", sa.String(64), sa.ForeignKey("clients.client_id"), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("point", sa.String(128), nullable=False),
    )
    sa.Table(
        "requests",
        metadata,
        sa.Column("serial", sa.Integer, primary_key=True),
        digest("client_id", "clients.client_id"),
        sa.Column("request_id", sa.String(64), nullable=False),
        digest("enrolment_digest", "enrolments.digest"),
        digest("manifest_digest", "manifests.digest"),
        digest("request_digest", "records.digest"),
        digest("response_digest", "records.digest", nullable=True),
        digest("receipt_digest", "records.digest", nullable=True),
        digest("mask_digest"),
        sa.Column("issued_at", sa.String(40), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("sent", sa.Boolean, nullable=False),
        sa.Column("audit_seed", sa.Text),
        sa.Column("n_touched", sa.Integer, nullable=False),
        sa.Column("draw", sa.Integer, nullable=False),
        sa.Column("n_drawn", sa.Integer, nullable=False),
        sa.Column("n_proofs", sa.Integer, nullable=False),
        sa.Column("verdict", sa.String(16)),
        sa.Column("reason", sa.Text, nullable=False),
        sa.UniqueConstraint("client_id", "request_id"),
        sa.Index(None, "request_id"),
        sa.Index(None, "mask_digest"),
    )
    sa.Table(
        "touched",
        metadata,
        sa.Column("request", sa.Integer, sa.ForeignKey("requests.serial"), primary_key=True, autoincrement=False),
        sa.Column("chunks", sa.Text, nullable=False),
    )
    sa.Table(
        "draws",
        metadata,
        sa.Column("request", sa.Integer, sa.ForeignKey("requests.serial"), primary_key=True, autoincrement=False),
        sa.Column("draw", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("chunk", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("proved", sa.Boolean, nullable=False),
        sa.Index(None, "request", "draw", "proved", "chunk"),
    )
    sa.Table(
        "proofs",
        metadata,
        sa.Column("digest", sa.String(64), primary_key=True),
        digest("client_id"),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("chunk", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("client_id", "request_id", "chunk"),
        sa.ForeignKeyConstraint(["client_id", "request_id"], ["requests.client_id", "requests.request_id"]),
    )
    sa.Table(
        "trail",
        metadata,
        sa.Column("serial", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("event", sa.String(40), nullable=False),
        digest("client_id", "clients.client_id"),
        sa.Column("request_id", sa.String(64)),
        sa.Column("client_status", sa.String(16), nullable=False),
        sa.Column("request_status", sa.String(16)),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("content", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Index(None, "client_id"),
    )
    metadata.create_all(connection)  # all but manifests, which is there
    make_append_only(connection, "trail")


def _copy_clients(connection: sa.Connection) -> None:
    for statement in (
        "INSERT INTO enrolments SELECT digest, client_id, revision, envelope FROM old_enrolments",
        "INSERT INTO clients SELECT client_id, public_key, status, revision, enrolment_digest, manifest_digest, "
        "active, readmitted, reason, stale, aborted, curvature_at, 0, "
        "(SELECT count(*) FROM old_commitments c WHERE c.client_id = old_clients.client_id AND kind = 'theta'), "
        "(SELECT count(*) FROM old_commitments c WHERE c.client_id = old_clients.client_id AND kind = 'curvature') "
        "FROM old_clients",
        "INSERT INTO commitments SELECT client_id, kind, position, 0, point FROM old_commitments",
    ):
        connection.exec_driver_sql(statement)


def _copy_requests(connection: sa.Connection) -> None:
    record = sa.text("INSERT INTO records VALUES (:digest, :envelope)")
    known: set[str] = set()
    for serial in connection.execute(sa.text("SELECT serial FROM old_requests ORDER BY serial")).scalars().all():
        row = connection.execute(sa.text("SELECT * FROM old_requests WHERE serial = :serial"), {"serial": serial}).one()
        digests = {}
        for name in ("envelope", "response", "receipt"):
            envelope = getattr(row, name)
            digests[name] = None if envelope is None else sha256_hex(bytes(envelope))
            if envelope is not None and digests[name] not in known:
                known.add(str(digests[name]))
                connection.execute(record, {"digest": digests[name], "envelope": envelope})
        drawn, touched = json.loads(row.drawn), json.loads(row.touched)
        ids = {"client": row.client_id, "id": row.request_id}
        proved = connection.execute(
            sa.text("SELECT chunk FROM old_proofs WHERE client_id = :client AND request_id = :id"), ids
        ).scalars()
        chunks = set(proved)
        connection.execute(
            sa.text(
                "INSERT INTO requests VALUES (:serial, :client, :id, :enrolment, :manifest, :envelope, :response, "
                ":receipt, :mask, :issued, :status, :sent, :seed, :touched, :draw, :drawn, :proofs, :verdict, :reason)"
            ),
            {
                **ids,
                **digests,
                "serial": serial,
                "enrolment": row.enrolment_digest,
                "manifest": row.manifest_digest,
                "mask": row.mask_digest,
                "issued": row.issued_at,
                "status": row.status,
                "sent": row.sent,
                "seed": row.audit_seed,
                "touched": len(touched),
                "draw": 1 if drawn else 0,
                "drawn": len(drawn),
                "proofs": len(chunks),
                "verdict": row.verdict,
                "reason": row.reason,
            },
        )
        connection.execute(
            sa.text("INSERT INTO touched VALUES (:serial, :chunks)"), {"serial": serial, "chunks": row.touched}
        )
        rows = [{"serial": serial, "chunk": chunk, "proved": chunk in chunks} for chunk in drawn]
        if rows:
            connection.execute(sa.text("INSERT INTO draws VALUES (:serial, 1, :chunk, :proved)"), rows)
    connection.exec_driver_sql(
        "INSERT INTO proofs SELECT digest, client_id, request_id, chunk, "
        "ROW_NUMBER() OVER (PARTITION BY client_id, request_id ORDER BY chunk), body FROM old_proofs"
    )
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "SELECT setval(pg_get_serial_sequence('requests', 'serial'), "
            "(SELECT coalesce(max(serial), 0) + 1 FROM requests), false)"
        )


def _copy_trail(connection: sa.Connection) -> None:
    """Chain the entries as they are; what their events brought was not written down then."""
    at = start(connection.execute(sa.text("SELECT federation FROM meta")).scalar_one())
    names = ("at", "event", "client_id", "request_id", "client_status", "request_status", "detail")
    rows: list[dict[str, Any]] = []
    for serial, row in enumerate(connection.execute(sa.text("SELECT * FROM transitions ORDER BY serial")), start=1):
        fields = {name: getattr(row, name) for name in names} | {"content": ""}
        fields["detail"] = clean(fields["detail"])
        digest = link(at.digest if not rows else rows[-1]["digest"], serial, **fields)
        rows.append({"serial": serial, "digest": digest, **fields})
    if rows:
        connection.execute(
            sa.text(
                "INSERT INTO trail VALUES (:serial, :at, :event, :client_id, :request_id, :client_status, "
                ":request_status, :detail, :content, :digest)"
            ),
            rows,
        )

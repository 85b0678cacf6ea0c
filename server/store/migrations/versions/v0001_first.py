"""The first release's schema, in SQLite. Registries that have it carry no mark of Alembic's; ``migrate.py`` adds it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from zkapex.server.store.schema import make_append_only

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create its tables."""
    metadata = sa.MetaData()
    sa.Table(
        "meta",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("federation", sa.String, nullable=False),
    )
    sa.Table(
        "manifests",
        metadata,
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    sa.Table("nonces", metadata, sa.Column("nonce", sa.String(64), primary_key=True))
    sa.Table(
        "enrolments",
        metadata,
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("client_id", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("client_id", "revision"),
    )
    sa.Table(
        "clients",
        metadata,
        sa.Column("client_id", sa.String(64), primary_key=True),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("enrolment_digest", sa.String(64), sa.ForeignKey("enrolments.digest"), nullable=False),
        sa.Column("manifest_digest", sa.String(64), sa.ForeignKey("manifests.digest"), nullable=False),
        sa.Column("active", sa.String),
        sa.Column("readmitted", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    sa.Table(
        "commitments",
        metadata,
        sa.Column("client_id", sa.String(64), sa.ForeignKey("clients.client_id"), primary_key=True),
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("point", sa.String(128), nullable=False),
    )
    sa.Table(
        "requests",
        metadata,
        sa.Column("serial", sa.Integer, primary_key=True),
        sa.Column("client_id", sa.String(64), sa.ForeignKey("clients.client_id"), nullable=False),
        sa.Column("request_id", sa.String, nullable=False),
        sa.Column("enrolment_digest", sa.String(64), sa.ForeignKey("enrolments.digest"), nullable=False),
        sa.Column("manifest_digest", sa.String(64), sa.ForeignKey("manifests.digest"), nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("touched", sa.Text, nullable=False),
        sa.Column("audit_seed", sa.String),
        sa.Column("drawn", sa.Text, nullable=False),
        sa.Column("verdict", sa.String),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("response", sa.LargeBinary),
        sa.Column("receipt", sa.LargeBinary),
        sa.UniqueConstraint("client_id", "request_id"),
    )
    sa.Table(
        "proofs",
        metadata,
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("client_id", sa.String, nullable=False),
        sa.Column("request_id", sa.String, nullable=False),
        sa.Column("chunk", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("client_id", "request_id", "chunk"),
        sa.ForeignKeyConstraint(["client_id", "request_id"], ["requests.client_id", "requests.request_id"]),
    )
    sa.Table(
        "transitions",
        metadata,
        sa.Column("serial", sa.Integer, primary_key=True),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("event", sa.String, nullable=False),
        sa.Column("client_id", sa.String(64), sa.ForeignKey("clients.client_id"), nullable=False),
        sa.Column("request_id", sa.String),
        sa.Column("client_status", sa.String, nullable=False),
        sa.Column("request_status", sa.String),
        sa.Column("detail", sa.Text, nullable=False),
    )
    metadata.create_all(op.get_bind())
    make_append_only(op.get_bind(), "transitions")

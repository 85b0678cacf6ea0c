"""Invitations to enrol, and what is remembered so that the chain of enrolments cannot be cut."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from zkapex.proofs.messages import UnlearnRequest
from zkapex.proofs.records.packing import mask_digest
from zkapex.proofs.records.sealed import restore

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. What an older release did not write down is taken for what binds a client most."""
    op.create_table(
        "invitations",
        sa.Column("nonce", sa.String(64), primary_key=True),
        sa.Column("client_id", sa.String(64)),
        sa.Column("at", sa.String, nullable=False),
    )
    op.add_column("clients", sa.Column("stale", sa.Text, nullable=False, server_default=""))
    op.add_column("clients", sa.Column("aborted", sa.Integer, nullable=False, server_default="0"))
    op.add_column("clients", sa.Column("curvature_at", sa.String))
    op.add_column("requests", sa.Column("mask_digest", sa.String(64), nullable=False, server_default=""))
    op.add_column("requests", sa.Column("issued_at", sa.String, nullable=False, server_default=""))
    op.add_column("requests", sa.Column("sent", sa.Boolean, nullable=False, server_default=sa.true()))
    op.create_index("ix_requests_mask_digest", "requests", ["mask_digest"])
    # Weights of a client whose last request was not proved may be others than it is held to.
    op.execute(
        "UPDATE clients SET stale = 'an earlier request was sent to it and not proved' "
        "WHERE status IN ('failed', 'unreachable', 'quarantined') AND active IS NULL"
    )
    op.execute(
        "UPDATE clients SET aborted = (SELECT count(*) FROM requests r "
        "WHERE r.client_id = clients.client_id AND r.verdict <> 'proved' AND r.drawn <> '[]')"
    )
    op.execute(
        "UPDATE clients SET curvature_at = (SELECT max(at) FROM transitions t "
        "WHERE t.client_id = clients.client_id AND t.event = 'Enrolled')"
    )
    connection = op.get_bind()
    for serial in connection.execute(sa.text("SELECT serial FROM requests ORDER BY serial")).scalars().all():
        one = {"serial": serial}
        row = connection.execute(sa.text("SELECT envelope, status FROM requests WHERE serial = :serial"), one).one()
        asked = restore(UnlearnRequest, bytes(row.envelope)).record
        connection.execute(
            sa.text("UPDATE requests SET mask_digest = :mask, issued_at = :at, sent = :sent WHERE serial = :serial"),
            {
                **one,
                "mask": mask_digest(asked.mask),
                "at": asked.issued_at.isoformat(),
                "sent": row.status != "open",
            },
        )

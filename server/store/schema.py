"""The tables of the registry's database."""

from __future__ import annotations

from sqlalchemy import (
    Connection,
    ForeignKey,
    ForeignKeyConstraint,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA_VERSION = 2


class Base(DeclarativeBase):
    """Base of all tables."""


class MetaRow(Base):
    """One row: the version of this schema, and the federation the database belongs to."""

    __tablename__ = "meta"

    id: Mapped[int] = mapped_column(primary_key=True)
    schema_version: Mapped[int]
    federation: Mapped[str]


class ManifestRow(Base):
    """A model manifest, by digest."""

    __tablename__ = "manifests"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)


class NonceRow(Base):
    """A nonce that was used."""

    __tablename__ = "nonces"

    nonce: Mapped[str] = mapped_column(String(64), primary_key=True)


class InvitationRow(Base):
    """A nonce that was issued for one enrolment, before it was sent; to a client, or to whoever was at a node."""

    __tablename__ = "invitations"

    nonce: Mapped[str] = mapped_column(String(64), primary_key=True)
    client_id: Mapped[str | None] = mapped_column(String(64))
    at: Mapped[str]


class EnrolmentRow(Base):
    """Every enrolment ever accepted, as signed."""

    __tablename__ = "enrolments"
    __table_args__ = (UniqueConstraint("client_id", "revision"),)

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    client_id: Mapped[str] = mapped_column(String(64))
    revision: Mapped[int]
    envelope: Mapped[bytes] = mapped_column(LargeBinary)


class ClientRow(Base):
    """A client as it stands."""

    __tablename__ = "clients"

    client_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    public_key: Mapped[str] = mapped_column(String(64))
    status: Mapped[str]
    revision: Mapped[int]
    enrolment_digest: Mapped[str] = mapped_column(ForeignKey("enrolments.digest"))
    manifest_digest: Mapped[str] = mapped_column(ForeignKey("manifests.digest"))
    active: Mapped[str | None]
    readmitted: Mapped[bool]
    reason: Mapped[str] = mapped_column(Text)
    stale: Mapped[str] = mapped_column(Text)
    aborted: Mapped[int]
    curvature_at: Mapped[str | None]


class CommitmentRow(Base):
    """A client's current commitment of one chunk (``theta``) or one column block (``curvature``)."""

    __tablename__ = "commitments"

    client_id: Mapped[str] = mapped_column(ForeignKey("clients.client_id"), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    point: Mapped[str] = mapped_column(String(128))


class RequestRow(Base):
    """A request to one client; `serial` orders them."""

    __tablename__ = "requests"
    __table_args__ = (UniqueConstraint("client_id", "request_id"),)

    serial: Mapped[int] = mapped_column(primary_key=True)
    client_id: Mapped[str] = mapped_column(ForeignKey("clients.client_id"))
    request_id: Mapped[str]
    enrolment_digest: Mapped[str] = mapped_column(ForeignKey("enrolments.digest"))
    manifest_digest: Mapped[str] = mapped_column(ForeignKey("manifests.digest"))
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
    mask_digest: Mapped[str] = mapped_column(String(64), index=True)
    issued_at: Mapped[str]
    status: Mapped[str]
    touched: Mapped[str] = mapped_column(Text)
    """Chunk numbers, as a JSON list; so is `drawn`."""
    audit_seed: Mapped[str | None]
    sent: Mapped[bool]
    drawn: Mapped[str] = mapped_column(Text)
    verdict: Mapped[str | None]
    reason: Mapped[str] = mapped_column(Text)
    response: Mapped[bytes | None] = mapped_column(LargeBinary)
    receipt: Mapped[bytes | None] = mapped_column(LargeBinary)


class ProofRow(Base):
    """An accepted proof. Its digest is unique over all clients and requests."""

    __tablename__ = "proofs"
    __table_args__ = (
        UniqueConstraint("client_id", "request_id", "chunk"),
        ForeignKeyConstraint(["client_id", "request_id"], ["requests.client_id", "requests.request_id"]),
    )

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    client_id: Mapped[str]
    request_id: Mapped[str]
    chunk: Mapped[int]
    body: Mapped[bytes] = mapped_column(LargeBinary)


class TransitionRow(Base):
    """One line of the audit trail: what happened, when, and what client and request were afterwards."""

    __tablename__ = "transitions"

    serial: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[str]
    event: Mapped[str]
    client_id: Mapped[str] = mapped_column(ForeignKey("clients.client_id"))
    request_id: Mapped[str | None]
    client_status: Mapped[str]
    request_status: Mapped[str | None]
    detail: Mapped[str] = mapped_column(Text)


@event.listens_for(TransitionRow.__table__, "after_create")
def _make_append_only(_table: Table, connection: Connection, **_: object) -> None:
    for verb in ("UPDATE", "DELETE"):
        connection.exec_driver_sql(
            f"CREATE TRIGGER transitions_no_{verb.lower()} BEFORE {verb} ON transitions "
            "BEGIN SELECT RAISE(ABORT, 'the audit trail can only be appended to'); END"
        )

"""Clients and requests to and from the rows of the registry's database."""

from __future__ import annotations

import json
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypeVar

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from zkapex.errors import Error, StorageError
from zkapex.proofs.messages import LayerMask, UnlearnRequest, UnlearnResponse
from zkapex.proofs.records.packing import mask_digest
from zkapex.proofs.records.record import Record, sha256_hex
from zkapex.proofs.records.sealed import Sealed, restore
from zkapex.server.protocol.states import (
    Client,
    ClientStatus,
    Enrolled,
    Event,
    Invitation,
    ProofsAccepted,
    ReceiptIssued,
    Request,
    RequestStatus,
    Scope,
)
from zkapex.server.store.schema import (
    ClientRow,
    CommitmentRow,
    EnrolmentRow,
    InvitationRow,
    NonceRow,
    ProofRow,
    RequestRow,
    TransitionRow,
)

R = TypeVar("R", bound=Record)

_BATCH = 500
"""Values per IN list; SQLite bounds the number of parameters of a statement."""


def taken_claims(session: Session, wanted: frozenset[str]) -> frozenset[str]:
    """Return those of the claims that were used before."""
    taken: set[str] = set()
    for kind, column in (("nonce", NonceRow.nonce), ("proof", ProofRow.digest)):
        values = sorted(claim.partition(":")[2] for claim in wanted if claim.startswith(f"{kind}:"))
        for start in range(0, len(values), _BATCH):
            found = session.scalars(select(column).where(column.in_(values[start : start + _BATCH])))
            taken.update(f"{kind}:{value}" for value in found)
    return frozenset(taken)


def load_client(session: Session, client_id: str) -> Client | None:
    """Read a client with its current commitments."""
    row = session.get(ClientRow, client_id)
    if row is None:
        return None
    points = session.execute(
        select(CommitmentRow.kind, CommitmentRow.point)
        .where(CommitmentRow.client_id == client_id)
        .order_by(CommitmentRow.kind, CommitmentRow.position)
    ).all()
    return Client(
        client_id=row.client_id,
        public_key=row.public_key,
        status=ClientStatus(row.status),
        revision=row.revision,
        enrolment_digest=row.enrolment_digest,
        manifest_digest=row.manifest_digest,
        theta=tuple(point for kind, point in points if kind == "theta"),
        curvature=tuple(point for kind, point in points if kind == "curvature"),
        active=row.active,
        readmitted=row.readmitted,
        reason=row.reason,
        stale=row.stale,
        aborted=row.aborted,
        curvature_at=None if row.curvature_at is None else datetime.fromisoformat(row.curvature_at),
    )


def load_invitation(session: Session, nonce: str) -> Invitation | None:
    """Read what a nonce was issued for, or None if it never was."""
    row = session.get(InvitationRow, nonce)
    return None if row is None else Invitation(row.nonce, row.client_id)


def first_published(session: Session, mask: tuple[LayerMask, ...]) -> datetime | None:
    """When a mask was first signed for anybody, or None if it never was."""
    first = session.scalar(select(func.min(RequestRow.issued_at)).where(RequestRow.mask_digest == mask_digest(mask)))
    return None if first is None else datetime.fromisoformat(first)


def request_row(session: Session, client_id: str, request_id: str) -> RequestRow | None:
    """Find the row of a request."""
    return session.scalars(
        select(RequestRow).where(RequestRow.client_id == client_id, RequestRow.request_id == request_id)
    ).one_or_none()


def load_request(session: Session, client_id: str, request_id: str) -> Request | None:
    """Read a request."""
    row = request_row(session, client_id, request_id)
    return None if row is None else to_request(session, row)


def to_request(session: Session, row: RequestRow) -> Request:
    """Rebuild a request from its row.

    Raises
    ------
    StorageError
        What is stored is not what was once verified and put there.
    """
    proofs = session.execute(
        select(ProofRow.chunk, ProofRow.digest).where(
            ProofRow.client_id == row.client_id, ProofRow.request_id == row.request_id
        )
    ).all()
    return Request(
        sealed=_restore(UnlearnRequest, row.envelope),
        status=RequestStatus(row.status),
        touched=tuple(json.loads(row.touched)),
        audit_seed=row.audit_seed,
        response=None if row.response is None else _restore(UnlearnResponse, row.response),
        drawn=tuple(json.loads(row.drawn)),
        proofs=MappingProxyType({proof.chunk: proof.digest for proof in proofs}),
        verdict=row.verdict,
        reason=row.reason,
        receipt_digest=None if row.receipt is None else sha256_hex(row.receipt),
        sent=row.sent,
    )


def _restore(kind: type[R], envelope: bytes) -> Sealed[R]:
    try:
        return restore(kind, envelope)
    except Error as error:
        raise StorageError(
            "a signed record in the registry is damaged", why=error.what, fix="restore a backup"
        ) from error


def store_transition(session: Session, before: Scope, after: Scope, happened: Event, now: datetime) -> None:
    """Write the difference between two scopes, and a line of the audit trail."""
    if isinstance(happened, Enrolled):
        enrolment = happened.enrolment
        session.add(NonceRow(nonce=enrolment.record.nonce))
        session.add(
            EnrolmentRow(
                digest=enrolment.digest,
                client_id=enrolment.record.client_id,
                revision=enrolment.record.revision,
                envelope=enrolment.envelope,
            )
        )
        session.flush()
    client = after.client
    assert client is not None  # noqa: S101 - decide() returns no scope without a client
    if client is not before.client:
        _store_client(session, before.client, client)
    if after.request is not None and after.request is not before.request:
        _store_request(session, before.request, after.request, client, happened)
    session.add(
        TransitionRow(
            at=now.isoformat(),
            event=type(happened).__name__,
            client_id=client.client_id,
            request_id=getattr(happened, "request_id", None),
            client_status=client.status,
            request_status=None if after.request is None else after.request.status,
            detail=getattr(happened, "reason", ""),
        )
    )


def _store_client(session: Session, before: Client | None, after: Client) -> None:
    columns: dict[str, Any] = {
        name: getattr(after, name)
        for name in (
            "public_key",
            "revision",
            "enrolment_digest",
            "manifest_digest",
            "active",
            "readmitted",
            "reason",
            "stale",
            "aborted",
        )
    }
    columns["curvature_at"] = None if after.curvature_at is None else after.curvature_at.isoformat()
    session.merge(ClientRow(client_id=after.client_id, status=str(after.status), **columns))
    session.flush()
    for kind in ("theta", "curvature"):
        old: tuple[str, ...] = () if before is None else getattr(before, kind)
        new: tuple[str, ...] = getattr(after, kind)
        if old == new:
            continue
        changed = [i for i, point in enumerate(new) if i >= len(old) or old[i] != point]
        mine = (CommitmentRow.client_id == after.client_id, CommitmentRow.kind == kind)
        if len(old) > len(new):
            session.execute(delete(CommitmentRow).where(*mine, CommitmentRow.position >= len(new)))
        for start in range(0, len(changed), _BATCH):
            batch = changed[start : start + _BATCH]
            session.execute(delete(CommitmentRow).where(*mine, CommitmentRow.position.in_(batch)))
            session.execute(
                insert(CommitmentRow),
                [{"client_id": after.client_id, "kind": kind, "position": i, "point": new[i]} for i in batch],
            )


def _store_request(session: Session, before: Request | None, after: Request, client: Client, happened: Event) -> None:
    row = request_row(session, after.client_id, after.request_id)
    if row is None:
        asked = after.sealed.record
        session.add(NonceRow(nonce=asked.nonce))
        row = RequestRow(
            client_id=asked.client_id,
            request_id=asked.request_id,
            enrolment_digest=client.enrolment_digest,
            manifest_digest=asked.manifest_digest,
            envelope=after.sealed.envelope,
            mask_digest=mask_digest(asked.mask),
            issued_at=asked.issued_at.isoformat(),
            touched=json.dumps(after.touched),
            audit_seed=after.audit_seed,
        )
        session.add(row)
    row.status = str(after.status)
    row.sent = after.sent
    row.drawn = json.dumps(after.drawn)
    row.verdict = after.verdict
    row.reason = after.reason
    row.response = None if after.response is None else after.response.envelope
    if isinstance(happened, ReceiptIssued):
        row.receipt = happened.envelope
    session.flush()
    if isinstance(happened, ProofsAccepted):
        old = {} if before is None else before.proofs
        for chunk in sorted(set(after.proofs) - set(old)):
            session.add(
                ProofRow(
                    digest=after.proofs[chunk],
                    client_id=after.client_id,
                    request_id=after.request_id,
                    chunk=chunk,
                    body=happened.proofs[chunk],
                )
            )

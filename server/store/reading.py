"""Clients, requests and evidence from the rows of the registry's database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select

from zkapex.errors import ProtocolError
from zkapex.proofs.messages import ModelManifest, UnlearnRequest, UnlearnResponse
from zkapex.proofs.receipts.evidence import Evidence
from zkapex.proofs.records.packing import terms_digest
from zkapex.proofs.records.sealed import Sealed
from zkapex.server.protocol.states import Client, ClientStatus, Invitation, Request, RequestStatus
from zkapex.server.store.schema import CLIENTS, DRAWS, ENROLMENTS, INVITATIONS, MANIFESTS, NONCES, PROOFS, REQUESTS
from zkapex.server.store.views import Drawn, Points, Proved, Reader, Touched, fetch_record

_BATCH = 500
"""Values per IN list; databases bound the number of parameters of a statement."""

# Statements of every event are built once: building one takes SQLAlchemy longer than the database takes to run it.
_NONCES = select(NONCES.c.nonce).where(NONCES.c.nonce.in_(bindparam("values", expanding=True)))
_PROOFS = select(PROOFS.c.digest).where(PROOFS.c.digest.in_(bindparam("values", expanding=True)))
_CLIENT = select(CLIENTS).where(CLIENTS.c.client_id == bindparam("client"))
_REQUEST = select(REQUESTS).where(
    REQUESTS.c.client_id == bindparam("client"), REQUESTS.c.request_id == bindparam("request")
)

Kept = Callable[[type[Any], str], Sealed[Any]]
"""Gives a stored record by its kind and digest, the same one as long as it is in use."""


def taken_claims(connection: Connection, wanted: frozenset[str]) -> frozenset[str]:
    """Return those of the claims that were used before."""
    taken: set[str] = set()
    for kind, query in (("nonce", _NONCES), ("proof", _PROOFS)):
        values = sorted(claim.partition(":")[2] for claim in wanted if claim.startswith(f"{kind}:"))
        for start in range(0, len(values), _BATCH):
            found = connection.execute(query, {"values": values[start : start + _BATCH]}).scalars()
            taken.update(f"{kind}:{value}" for value in found)
    return frozenset(taken)


def to_client(read: Reader, row: Row[Any]) -> Client:
    """A client from its row; its commitments are read when they are looked at."""
    return Client(
        client_id=row.client_id,
        public_key=row.public_key,
        status=ClientStatus(row.status),
        revision=row.revision,
        enrolment_digest=row.enrolment_digest,
        manifest_digest=row.manifest_digest,
        theta=Points(read, row.client_id, "theta", row.version, row.n_theta),
        curvature=Points(read, row.client_id, "curvature", row.version, row.n_curvature),
        active=row.active,
        readmitted=row.readmitted,
        reason=row.reason,
        stale=row.stale,
        aborted=row.aborted,
        curvature_at=None if row.curvature_at is None else datetime.fromisoformat(row.curvature_at),
    )


def load_invitation(connection: Connection, nonce: str) -> Invitation | None:
    """Read what a nonce was issued for, or None if it never was."""
    row = connection.execute(select(INVITATIONS).where(INVITATIONS.c.nonce == nonce)).first()
    return None if row is None else Invitation(row.nonce, row.client_id)


def first_published(connection: Connection, request: UnlearnRequest) -> datetime | None:
    """When the mask of a request, with its targets, was first signed for anybody, or None if it never was."""
    query = select(func.min(REQUESTS.c.issued_at)).where(REQUESTS.c.mask_digest == terms_digest(request))
    first = connection.execute(query).scalar()
    return None if first is None else datetime.fromisoformat(first)


def load_client(connection: Connection, read: Reader, client_id: str) -> Client | None:
    """Read a client."""
    row = connection.execute(_CLIENT, {"client": client_id}).first()
    return None if row is None else to_client(read, row)


def request_row(connection: Connection, client_id: str, request_id: str) -> Row[Any] | None:
    """Find the row of a request."""
    return connection.execute(_REQUEST, {"client": client_id, "request": request_id}).first()


def to_request(read: Reader, kept: Kept, row: Row[Any]) -> Request:
    """A request from its row; its records, chunks and proofs are read when they are looked at."""
    return Request(
        sealed=kept(UnlearnRequest, row.request_digest),
        status=RequestStatus(row.status),
        touched=Touched(read, row.serial, row.n_touched),
        audit_seed=row.audit_seed,
        response=None if row.response_digest is None else kept(UnlearnResponse, row.response_digest),
        drawn=Drawn(read, row.serial, row.draw, row.n_drawn),
        proofs=Proved(read, row.client_id, row.request_id, row.n_proofs),
        verdict=row.verdict,
        reason=row.reason,
        receipt_digest=row.receipt_digest,
        sent=row.sent,
        ids=(row.client_id, row.request_id),
    )


def load_request(connection: Connection, read: Reader, kept: Kept, client_id: str, request_id: str) -> Request | None:
    """Read a request."""
    row = request_row(connection, client_id, request_id)
    return None if row is None else to_request(read, kept, row)


def missing(connection: Connection, client_id: str, request_id: str, limit: int | None) -> tuple[int, ...]:
    """Drawn chunks of a request that have no accepted proof, ascending; at most `limit` of them."""
    query = (
        select(DRAWS.c.chunk)
        .join(REQUESTS, (REQUESTS.c.serial == DRAWS.c.request) & (REQUESTS.c.draw == DRAWS.c.draw))
        .where(
            REQUESTS.c.client_id == client_id,
            REQUESTS.c.request_id == request_id,
            DRAWS.c.proved.is_(False),
        )
        .order_by(DRAWS.c.chunk)
        .limit(limit)
    )
    return tuple(connection.execute(query).scalars())


def load_manifest(connection: Connection, digest: str) -> ModelManifest | None:
    """Read a manifest."""
    body = connection.execute(select(MANIFESTS.c.body).where(MANIFESTS.c.digest == digest)).scalar()
    return None if body is None else ModelManifest.from_bytes(bytes(body))


def enrolment_envelope(connection: Connection, digest: str) -> bytes:
    """Read a signed enrolment."""
    return bytes(connection.execute(select(ENROLMENTS.c.envelope).where(ENROLMENTS.c.digest == digest)).scalar_one())


def load_evidence(
    connection: Connection,
    client_id: str,
    request_id: str,
    *,
    settings: bytes | None,
    verification_key: bytes | None,
    srs: bytes | None,
    linked: bool = False,
) -> Evidence:
    """Collect what a receipt for a request rests on; the circuit's files are given.

    Raises
    ------
    ProtocolError
        There is no such request.
    """
    row = request_row(connection, client_id, request_id)
    if row is None:
        raise ProtocolError(f"client {client_id[:16]}… has no request {request_id}")
    earlier = connection.execute(
        select(REQUESTS.c.response_digest, REQUESTS.c.request_digest, REQUESTS.c.request_id)
        .where(
            REQUESTS.c.client_id == client_id,
            REQUESTS.c.enrolment_digest == row.enrolment_digest,
            REQUESTS.c.serial < row.serial,
            REQUESTS.c.verdict == "proved",
        )
        .order_by(REQUESTS.c.serial)
    ).all()
    before = {
        (number, proof.chunk): bytes(proof.body)
        for number, one in enumerate(earlier if linked else ())
        for proof in connection.execute(
            select(PROOFS.c.chunk, PROOFS.c.body).where(
                PROOFS.c.client_id == client_id, PROOFS.c.request_id == one.request_id
            )
        )
    }
    proofs = connection.execute(
        select(PROOFS.c.chunk, PROOFS.c.body).where(PROOFS.c.client_id == client_id, PROOFS.c.request_id == request_id)
    )
    return Evidence(
        manifest=bytes(
            connection.execute(select(MANIFESTS.c.body).where(MANIFESTS.c.digest == row.manifest_digest)).scalar_one()
        ),
        request=fetch_record(connection, row.request_digest),
        enrolment=enrolment_envelope(connection, row.enrolment_digest),
        earlier=tuple(fetch_record(connection, one.response_digest) for one in earlier),
        asked=tuple(fetch_record(connection, one.request_digest) for one in earlier if linked),
        before=before,
        response=None if row.response_digest is None else fetch_record(connection, row.response_digest),
        proofs={proof.chunk: bytes(proof.body) for proof in proofs},
        settings=settings,
        verification_key=verification_key,
        srs=srs,
    )

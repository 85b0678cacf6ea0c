"""What a decision changed, to the rows of the registry's database."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from zkapex.proofs.records.packing import terms_digest
from zkapex.proofs.records.record import sha256_hex
from zkapex.server.protocol.states import Client, Enrolled, Event, Opened, ProofsAccepted, ReceiptIssued, Request, Scope
from zkapex.server.store.schema import (
    CLIENTS,
    COMMITMENTS,
    DRAWS,
    ENROLMENTS,
    NONCES,
    PROOFS,
    RECORDS,
    REQUESTS,
    TOUCHED,
)

_OF_CLIENT = (
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
"""Columns of a client that are as in :class:`Client`."""

# As in ``reading.py``, statements of every event are built once.
_ADVANCE = (
    update(REQUESTS)
    .where(REQUESTS.c.serial == bindparam("this"))
    .values({name: bindparam(name) for name in ("status", "sent", "verdict", "reason", "n_proofs")})
)
_ADD_PROOF = insert(PROOFS)
_MARK = (
    update(DRAWS)
    .where(DRAWS.c.request == bindparam("of"), DRAWS.c.draw == bindparam("number"), DRAWS.c.chunk == bindparam("done"))
    .values(proved=True)
)


def store(connection: Connection, row: Row[Any] | None, before: Scope, after: Scope, happened: Event) -> None:
    """Write the difference between two scopes; of proofs without reading anything.

    Parameters
    ----------
    row : Row or None
        Of the request of the scope before.
    """
    if isinstance(happened, Enrolled):
        enrolment = happened.enrolment
        connection.execute(insert(NONCES).values(nonce=enrolment.record.nonce))
        connection.execute(
            insert(ENROLMENTS).values(
                digest=enrolment.digest,
                client_id=enrolment.record.client_id,
                revision=enrolment.record.revision,
                envelope=enrolment.envelope,
            )
        )
    client = after.client
    assert client is not None  # noqa: S101 - decide() returns no scope without a client
    if client is not before.client:
        _store_client(connection, before.client, client)
    if after.request is not None and after.request is not before.request:
        _store_request(connection, row, before.request, after.request, client, happened)


def _store_client(connection: Connection, before: Client | None, after: Client) -> None:
    columns: dict[str, Any] = {name: getattr(after, name) for name in _OF_CLIENT}
    columns["curvature_at"] = None if after.curvature_at is None else after.curvature_at.isoformat()
    columns["status"] = str(after.status)
    changed = {
        kind: points
        for kind in ("theta", "curvature")
        if before is None or getattr(before, kind) is not getattr(after, kind)
        if (points := _changed(() if before is None else getattr(before, kind), getattr(after, kind))) is not None
    }
    mine = CLIENTS.c.client_id == after.client_id
    version = 0
    if before is None:
        lengths = {"n_theta": len(after.theta), "n_curvature": len(after.curvature)}
        connection.execute(insert(CLIENTS).values(client_id=after.client_id, version=version, **lengths, **columns))
    else:
        if changed:
            version = connection.execute(select(CLIENTS.c.version).where(mine)).scalar_one() + 1
            columns |= {"version": version, "n_theta": len(after.theta), "n_curvature": len(after.curvature)}
        connection.execute(update(CLIENTS).where(mine).values(**columns))
    rows = [
        {"client_id": after.client_id, "kind": kind, "position": position, "version": version, "point": point}
        for kind, points in changed.items()
        for position, point in points.items()
    ]
    if rows:
        connection.execute(insert(COMMITMENTS), rows)


def _changed(old: Iterable[str], new: Iterable[str]) -> dict[int, str] | None:
    """What is new by position; None if nothing is, not even the length."""
    old, new = tuple(old), tuple(new)
    if old == new:
        return None
    return {at: point for at, point in enumerate(new) if at >= len(old) or old[at] != point}


def _store_request(
    connection: Connection,
    row: Row[Any] | None,
    before: Request | None,
    after: Request,
    client: Client,
    happened: Event,
) -> None:
    columns: dict[str, Any] = {
        "status": str(after.status),
        "sent": after.sent,
        "verdict": after.verdict,
        "reason": after.reason,
    }
    moved = dict(columns)
    if after.response is not None and (before is None or before.response is not after.response):
        columns["response_digest"] = _store_record(connection, after.response.envelope)
    if isinstance(happened, ReceiptIssued):
        columns["receipt_digest"] = _store_record(connection, happened.envelope)
    if isinstance(happened, Opened):
        row_serial, draw, proved = _insert_request(connection, after, client, columns), 0, 0
    else:
        assert row is not None  # noqa: S101 - only Opened makes one
        row_serial, draw, proved = row.serial, row.draw, row.n_proofs
    if isinstance(happened, ProofsAccepted):
        columns["n_proofs"] = _store_proofs(connection, row_serial, draw, proved, before, after, happened)
    if before is not None and before.drawn is not after.drawn and before.drawn != after.drawn:
        columns |= {"draw": draw + 1, "n_drawn": len(after.drawn)}
        _store_draw(connection, row_serial, draw + 1, after)
    more = {name: value for name, value in columns.items() if name not in moved and name != "n_proofs"}
    connection.execute(_ADVANCE, {"this": row_serial, **moved, "n_proofs": columns.get("n_proofs", proved)})
    if more:
        connection.execute(update(REQUESTS).where(REQUESTS.c.serial == row_serial).values(**more))


def _insert_request(connection: Connection, after: Request, client: Client, columns: dict[str, Any]) -> int:
    asked = after.sealed.record
    connection.execute(insert(NONCES).values(nonce=asked.nonce))
    done = connection.execute(
        insert(REQUESTS).values(
            client_id=asked.client_id,
            request_id=asked.request_id,
            enrolment_digest=client.enrolment_digest,
            manifest_digest=asked.manifest_digest,
            request_digest=_store_record(connection, after.sealed.envelope),
            mask_digest=terms_digest(asked),
            issued_at=asked.issued_at.isoformat(),
            audit_seed=after.audit_seed,
            n_touched=len(after.touched),
            draw=0,
            n_drawn=0,
            n_proofs=0,
            **columns,
        )
    )
    assert done.inserted_primary_key is not None  # noqa: S101 - the database numbers requests
    serial: int = done.inserted_primary_key[0]
    connection.execute(insert(TOUCHED).values(request=serial, chunks=json.dumps(list(after.touched))))
    return serial


def _store_record(connection: Connection, envelope: bytes) -> str:
    """Keep a signed record, unless the very same one is kept, and return its digest."""
    digest = sha256_hex(envelope)
    if connection.execute(select(RECORDS.c.digest).where(RECORDS.c.digest == digest)).first() is None:
        connection.execute(insert(RECORDS).values(digest=digest, envelope=envelope))
    return digest


def _store_draw(connection: Connection, request: int, draw: int, after: Request) -> None:
    rows = [
        {"request": request, "draw": draw, "chunk": chunk, "proved": chunk in after.proofs} for chunk in after.drawn
    ]
    if rows:
        connection.execute(insert(DRAWS), rows)


def _store_proofs(
    connection: Connection,
    request: int,
    draw: int,
    proved: int,
    before: Request | None,
    after: Request,
    happened: ProofsAccepted,
) -> int:
    """Keep the proofs that are new; returns how many the request has now."""
    old = {} if before is None else before.proofs
    new = [chunk for chunk in sorted(happened.proofs) if chunk not in old and chunk in after.proofs]
    if new:
        rows: list[dict[str, Any]] = [
            {
                "digest": after.proofs[chunk],
                "client_id": after.client_id,
                "request_id": after.request_id,
                "chunk": chunk,
                "number": number,
                "body": happened.proofs[chunk],
            }
            for number, chunk in enumerate(new, start=proved + 1)
        ]
        marks = [{"of": request, "number": draw, "done": chunk} for chunk in new]
        # One by itself, as most come, is one message to the database; many would be more.
        connection.execute(_ADD_PROOF, rows[0] if len(rows) == 1 else rows)
        connection.execute(_MARK, marks[0] if len(marks) == 1 else marks)
    return proved + len(new)

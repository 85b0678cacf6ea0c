"""The audit trail: one entry per applied event, each of which commits to the one before.

An entry's digest is SHA-256 over its fields and the digest of the entry before it; the first one follows a digest of
the federation's name. So nobody can change, remove or insert an entry without all that follow being computed anew,
which shows to whoever kept the :class:`Head` of an earlier day. The database refuses to change entries, too
(``schema.py``); that guards against mistakes, the chain against whoever may write to the database.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from zkapex.errors import VerificationError
from zkapex.proofs.records.record import encode_parts, sha256_hex
from zkapex.server.protocol.states import (
    ClientStatus,
    Enrolled,
    Event,
    Opened,
    ProofsAccepted,
    ReceiptIssued,
    RequestStatus,
    Responded,
    Scope,
)
from zkapex.server.store.schema import TRAIL, clean

_DOMAIN = "zkapex:trail:v1"


@dataclass(frozen=True)
class Transition:
    """One entry of the audit trail.

    `content` is the SHA-256 of what the event brought (a signed record; of proofs, see :func:`content_of`), or empty.
    """

    serial: int
    at: datetime
    event: str
    client_id: str
    request_id: str | None
    client_status: ClientStatus
    request_status: RequestStatus | None
    detail: str
    content: str
    digest: str


@dataclass(frozen=True)
class Head:
    """Where the trail ends: number of entries, and the digest of the last one. Keep it elsewhere."""

    serial: int
    digest: str


def start(federation: str) -> Head:
    """The head of a trail without entries."""
    return Head(0, sha256_hex(encode_parts(_DOMAIN, federation)))


def link(
    before: str,
    serial: int,
    at: str,
    event: str,
    client_id: str,
    request_id: str | None,
    client_status: str,
    request_status: str | None,
    detail: str,
    content: str,
) -> str:
    """The digest of an entry, given that of the entry before. A field that is missing is no text of length zero."""
    fields = (at, event, client_id, request_id, client_status, request_status, detail, content)
    parts = (b"" if field is None else field for field in fields)
    return sha256_hex(encode_parts(_DOMAIN, before, serial, *parts))


def content_of(event: Event) -> str:
    """SHA-256 of what an event brought; of proofs, over their chunks and digests in ascending order; else empty."""
    match event:
        case Enrolled(sealed):
            return sealed.digest
        case Opened(sealed):
            return sealed.digest
        case Responded(sealed):
            return sealed.digest
        case ReceiptIssued(envelope=envelope):
            return sha256_hex(envelope)
        case ProofsAccepted(proofs=proofs):
            pairs = (part for chunk in sorted(proofs) for part in (chunk, sha256_hex(proofs[chunk])))
            return sha256_hex(encode_parts("zkapex:trail-proofs:v1", *pairs))
        case _:
            return ""


_LAST = select(TRAIL.c.serial, TRAIL.c.digest).order_by(TRAIL.c.serial.desc()).limit(1)
_APPEND = insert(TRAIL)


def head(connection: Connection, federation: str) -> Head:
    """Where the trail ends now."""
    row = connection.execute(_LAST).first()
    return start(federation) if row is None else Head(row.serial, row.digest)


def append(connection: Connection, before: Head, after: Scope, event: Event, now: datetime) -> None:
    """Write an event's entry after the head of the trail. The caller's transaction must be the only one that writes."""
    assert after.client is not None  # noqa: S101 - decide() returns no scope without a client
    fields: dict[str, Any] = {
        "at": now.isoformat(),
        "event": type(event).__name__,
        "client_id": after.client.client_id,
        "request_id": getattr(event, "request_id", None),
        "client_status": str(after.client.status),
        "request_status": None if after.request is None else str(after.request.status),
        "detail": clean(getattr(event, "reason", "")),
        "content": content_of(event),
    }
    serial = before.serial + 1
    digest = link(before.digest, serial, **fields)
    connection.execute(_APPEND, {"serial": serial, "digest": digest, **fields})


def entries(connection: Connection, client_id: str | None = None) -> Iterable[Transition]:
    """All entries, or those about one client, oldest first."""
    query = select(TRAIL).order_by(TRAIL.c.serial)
    for row in connection.execute(query if client_id is None else query.where(TRAIL.c.client_id == client_id)):
        yield Transition(
            serial=row.serial,
            at=datetime.fromisoformat(row.at),
            event=row.event,
            client_id=row.client_id,
            request_id=row.request_id,
            client_status=ClientStatus(row.client_status),
            request_status=None if row.request_status is None else RequestStatus(row.request_status),
            detail=row.detail,
            content=row.content,
            digest=row.digest,
        )


def check(connection: Connection, federation: str, known: Head | None = None) -> Head:
    """Follow the chain from its beginning, and return where it ends.

    Parameters
    ----------
    known : Head, optional
        Where it ended at an earlier time; the trail must lead there first.

    Raises
    ------
    VerificationError
        An entry is not what the one after it says, is missing, or is not the one that was known.
    """
    at = start(federation)
    if known is not None and known.serial == 0 and known != at:
        raise VerificationError("the audit trail is not the one that was known", why="it is another federation's")
    for row in connection.execute(select(TRAIL).order_by(TRAIL.c.serial)):
        if row.serial != at.serial + 1:
            raise VerificationError(
                f"entry {at.serial + 1} of the audit trail is missing", why=f"entry {row.serial} follows {at.serial}"
            )
        fields = row._mapping
        names = ("at", "event", "client_id", "request_id", "client_status", "request_status", "detail", "content")
        digest = link(at.digest, row.serial, **{name: fields[name] for name in names})
        if digest != row.digest:
            raise VerificationError(
                f"entry {row.serial} of the audit trail was changed",
                why="its digest is not that of its fields and of the entry before",
            )
        at = Head(row.serial, digest)
        if known is not None and known.serial == at.serial and known != at:
            raise VerificationError(
                f"entry {at.serial} of the audit trail is not the one that was known",
                why=f"its digest was {known.digest[:16]}…, and is {digest[:16]}…",
            )
    if known is not None and known.serial > at.serial:
        raise VerificationError(
            f"entry {at.serial + 1} of the audit trail is missing", why=f"it had {known.serial} entries before"
        )
    return at

"""The provider's memory: clients, commitments, requests, proofs and receipts in a database.

State changes only through :meth:`Registry.apply`, which lets :func:`zkapex.server.protocol.decide` judge the event and
stores the outcome, and its entry in the audit trail, in the same transaction. What it has returned from is on disk: a
server killed at any moment finds everything it needs to go on in :meth:`Registry.unfinished`.

Clients and requests that are returned are values, but their long parts stay in the database until somebody looks at
them (:mod:`zkapex.server.store.views`); what accepting a proof costs does not depend on how many chunks there are.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Row, Select, insert, select
from sqlalchemy.exc import SQLAlchemyError

from zkapex.errors import ProtocolError
from zkapex.proofs.messages import Enrolment, ModelManifest, UnlearnRequest
from zkapex.proofs.receipts.evidence import Evidence
from zkapex.proofs.records.sealed import Sealed, unseal_enrolment
from zkapex.server.protocol.decide import decide
from zkapex.server.protocol.states import (
    Client,
    Enrolled,
    Event,
    Opened,
    ProofsAccepted,
    Request,
    RequestStatus,
    Scope,
    claims,
)
from zkapex.server.store import reading, trail
from zkapex.server.store.database import database
from zkapex.server.store.migrate import prepare
from zkapex.server.store.schema import CLIENTS, ENROLMENTS, INVITATIONS, MANIFESTS, REQUESTS
from zkapex.server.store.trail import Head, Transition
from zkapex.server.store.views import StoredSealed, fetch_record
from zkapex.server.store.writing import store

LOCK_TIMEOUT_S = 10.0
_KEPT = 16
"""Parsed records that are kept at hand. One can be tens of megabytes."""

T = TypeVar("T")


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


class Registry:
    """The registry of one federation, usable by several threads.

    Parameters
    ----------
    location : Path or str
        File of an SQLite database, created, readable by its owner only, if there is none; or the URL of a PostgreSQL
        database, ``postgresql+psycopg://...``. A database of an older release is brought up to date.
    federation : str
        Name of the federation; must be the one the database was created for.
    clock : callable
        Gives the time in UTC.
    lock_timeout_s : float
        How long to wait for another process that is writing.

    Raises
    ------
    StorageError
        The database cannot be opened, is damaged, or is locked; so may every method, and every look into what they
        return. Its attribute ``retryable`` says whether the same may go well later.
    FormatVersionError
        The database was written by a newer release.
    InputError
        It belongs to another federation, or to another program; or there is no such kind of database.
    """

    def __init__(
        self,
        location: Path | str,
        federation: str,
        *,
        clock: Callable[[], datetime] = utc_now,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
    ) -> None:
        self.federation = federation
        self._clock = clock
        self._database = database(location)
        self._database.prepare()
        self._engine = self._database.engine(lock_timeout_s)
        self._writer = self._engine.execution_options(zkapex_write=True)
        self._own = threading.local()
        self._sealed: OrderedDict[str, Sealed[Any]] = OrderedDict()
        self._sealed_lock = threading.Lock()
        try:
            with self._transaction(write=True) as connection:
                prepare(connection, self._database, federation)
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """What the database is called in messages."""
        return self._database.name

    def close(self) -> None:
        """Close the database. Anything that was applied is already on disk."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_manifest(self, manifest: ModelManifest) -> str:
        """Make a manifest known, and return its digest; clients can then enrol under it."""
        digest = manifest.digest()
        with self._transaction(write=True) as connection:
            known = connection.execute(select(MANIFESTS.c.digest).where(MANIFESTS.c.digest == digest)).first()
            if known is None:
                connection.execute(insert(MANIFESTS).values(digest=digest, body=manifest.to_bytes()))
        return digest

    def apply(self, happened: Event) -> Scope:
        """Let the protocol judge an event and store what follows, or nothing if it raises.

        Returns
        -------
        Scope
            The client and the request after the event.

        Raises
        ------
        IllegalTransitionError, CommitmentError, ProtocolError
            See :func:`zkapex.server.protocol.decide`.
        """
        now = self._clock()
        with self._transaction(write=True) as connection:
            row, before = self._scope(connection, happened)
            after = decide(before, happened, now)
            if after is not before:
                head = trail.head(connection, self.federation)
                # All that a proof writes is known now: it is sent at once, and nothing is read in between.
                together = isinstance(happened, ProofsAccepted)
                with self._database.batch(connection) if together else nullcontext():
                    store(connection, row, before, after, happened)
                    trail.append(connection, head, after, happened, now)
        return after

    def now(self) -> datetime:
        """The time that events are judged at."""
        return self._clock()

    def invite(self, client_id: str | None = None) -> str:
        """Issue a nonce for one enrolment; it is on disk when this returns, and may then be sent.

        Parameters
        ----------
        client_id : str, optional
            The client it is for; without one, any that has not enrolled yet.
        """
        nonce = secrets.token_hex(32)
        with self._transaction(write=True) as connection:
            at = self._clock().isoformat()
            connection.execute(insert(INVITATIONS).values(nonce=nonce, client_id=client_id, at=at))
        return nonce

    def client(self, client_id: str) -> Client | None:
        """Return a client, or None if it never enrolled."""
        return self._read(lambda connection: reading.load_client(connection, self._read, client_id))

    def clients(self) -> tuple[Client, ...]:
        """Return all clients, by id."""
        rows = self._read(lambda connection: connection.execute(select(CLIENTS).order_by(CLIENTS.c.client_id)).all())
        return tuple(reading.to_client(self._read, row) for row in rows)

    def request(self, client_id: str, request_id: str) -> Request | None:
        """Return a request to a client, or None if there is none of that id."""
        return self._read(
            lambda connection: reading.load_request(connection, self._read, self._keep, client_id, request_id)
        )

    def requests(self, request_id: str | None = None) -> tuple[Request, ...]:
        """Return all requests, or those of one deletion request, in the order they were opened."""
        query = select(REQUESTS)
        return self._requests(query if request_id is None else query.where(REQUESTS.c.request_id == request_id))

    def sent(self, client_id: str) -> tuple[UnlearnRequest, ...]:
        """Return all requests that may have reached a client, in the order they were opened."""
        query = select(REQUESTS).where(REQUESTS.c.client_id == client_id, REQUESTS.c.sent)
        return tuple(request.sealed.record for request in self._requests(query))

    def last_issued(self, client_id: str) -> datetime | None:
        """Return when the request to a client that was opened last was issued, or None if there was none."""
        query = select(REQUESTS.c.issued_at).where(REQUESTS.c.client_id == client_id)
        row = self._read(lambda c: c.execute(query.order_by(REQUESTS.c.serial.desc()).limit(1)).first())
        return None if row is None else datetime.fromisoformat(row.issued_at)

    def unfinished(self) -> tuple[Request, ...]:
        """Return the requests that have no receipt yet, in the order they were opened: where to go on after a crash."""
        return self._requests(select(REQUESTS).where(REQUESTS.c.status != RequestStatus.RECEIPTED))

    def missing(self, client_id: str, request_id: str, limit: int | None = None) -> tuple[int, ...]:
        """Return the drawn chunks of a request that have no accepted proof, ascending; at most `limit` of them."""
        return self._read(lambda connection: reading.missing(connection, client_id, request_id, limit))

    def _requests(self, query: Select[Any]) -> tuple[Request, ...]:
        rows: list[Row[Any]] = list(self._read(lambda c: c.execute(query.order_by(REQUESTS.c.serial)).all()))
        return tuple(reading.to_request(self._read, self._keep, row) for row in rows)

    def manifest(self, digest: str) -> ModelManifest | None:
        """Return a manifest that was made known."""
        return self._read(lambda connection: reading.load_manifest(connection, digest))

    def enrolment(self, client_id: str) -> Enrolment:
        """Return the enrolment a client stands by.

        Raises
        ------
        ProtocolError
            The client never enrolled.
        """
        with self._transaction() as connection:
            client = reading.load_client(connection, self._read, client_id)
            if client is None:
                raise ProtocolError(f"client {client_id[:16]}… never enrolled")
            return unseal_enrolment(reading.enrolment_envelope(connection, client.enrolment_digest)).record

    def enrolments(self, client_id: str) -> dict[int, bytes]:
        """Return all enrolments of a client that were ever accepted, as signed, by revision."""
        query = select(ENROLMENTS.c.revision, ENROLMENTS.c.envelope).where(ENROLMENTS.c.client_id == client_id)
        rows = self._read(lambda connection: connection.execute(query).all())
        return {row.revision: bytes(row.envelope) for row in rows}

    def receipt(self, client_id: str, request_id: str) -> bytes | None:
        """Return the signed receipt of a request, if it was issued."""
        with self._transaction() as connection:
            row = reading.request_row(connection, client_id, request_id)
            if row is None or row.receipt_digest is None:
                return None
            return fetch_record(connection, row.receipt_digest)

    def evidence(
        self,
        client_id: str,
        request_id: str,
        *,
        settings: bytes | None = None,
        verification_key: bytes | None = None,
        srs: bytes | None = None,
        linked: bool = False,
    ) -> Evidence:
        """Collect what a receipt for a request rests on; the circuit's files are given.

        Raises
        ------
        ProtocolError
            There is no such request.
        """
        with self._transaction() as connection:
            return reading.load_evidence(
                connection,
                client_id,
                request_id,
                settings=settings,
                verification_key=verification_key,
                srs=srs,
                linked=linked,
            )

    def transitions(self, client_id: str | None = None) -> tuple[Transition, ...]:
        """Return the audit trail, of all clients or of one, oldest first."""
        return self._read(lambda connection: tuple(trail.entries(connection, client_id)))

    def verify_trail(self, known: Head | None = None) -> Head:
        """Follow the chain of the audit trail, and return where it ends.

        Parameters
        ----------
        known : Head, optional
            What this returned at an earlier time; the trail must still lead there.

        Raises
        ------
        VerificationError
            An entry, which the message names, was changed, removed or exchanged.
        """
        return self._read(lambda connection: trail.check(connection, self.federation, known))

    # -- inside -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[Connection]:
        """A transaction, in which this thread's looks into views take part."""
        try:
            with (self._writer if write else self._engine).begin() as connection:
                outer = getattr(self._own, "connection", None)
                self._own.connection = connection
                try:
                    yield connection
                finally:
                    self._own.connection = outer
        except SQLAlchemyError as error:
            raise self._database.explain(error) from error

    def _read(self, query: Callable[[Connection], T]) -> T:
        current: Connection | None = getattr(self._own, "connection", None)
        if current is not None:
            return query(current)
        with self._transaction() as connection:
            return query(connection)

    def _keep(self, kind: type[Any], digest: str) -> Sealed[Any]:
        """A stored record; the last few that were asked for are not parsed again."""
        with self._sealed_lock:
            if digest not in self._sealed:
                self._sealed[digest] = StoredSealed(kind, digest, self._read)
            self._sealed.move_to_end(digest)
            while len(self._sealed) > _KEPT:
                self._sealed.popitem(last=False)
            return self._sealed[digest]

    def _scope(self, connection: Connection, happened: Event) -> tuple[Row[Any] | None, Scope]:
        """The row of the event's request, and what the protocol judges it by."""
        request_id = getattr(happened, "request_id", None)
        row = None if request_id is None else reading.request_row(connection, happened.client_id, request_id)
        request = None if row is None else reading.to_request(self._read, self._keep, row)
        if isinstance(happened, Enrolled):
            digest = happened.enrolment.record.manifest_digest
        elif isinstance(happened, Opened):
            digest = happened.request.record.manifest_digest
        else:
            digest = None
        scope = Scope(
            federation=self.federation,
            manifest=None if digest is None else reading.load_manifest(connection, digest),
            client=reading.load_client(connection, self._read, happened.client_id),
            request=request,
            taken=reading.taken_claims(connection, claims(happened)),
            invitation=(
                reading.load_invitation(connection, happened.enrolment.record.nonce)
                if isinstance(happened, Enrolled)
                else None
            ),
            published=(
                reading.first_published(connection, happened.request.record) if isinstance(happened, Opened) else None
            ),
        )
        return row, scope

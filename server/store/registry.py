"""The provider's memory: clients, commitments, requests, proofs and receipts in one SQLite file.

State changes only through :meth:`Registry.apply`, which lets :func:`zkapex.server.protocol.decide` judge the event and
stores the outcome in the same transaction. What it has returned from is on disk: a server killed at any moment finds
everything it needs to go on in :meth:`Registry.unfinished`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from sqlalchemy import Select, inspect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from zkapex.errors import FormatVersionError, InputError, ProtocolError, StorageError
from zkapex.proofs.messages import Enrolment, ModelManifest, UnlearnRequest
from zkapex.proofs.receipts.evidence import Evidence
from zkapex.proofs.records.sealed import unseal_enrolment
from zkapex.server.protocol.decide import decide
from zkapex.server.protocol.states import (
    Client,
    ClientStatus,
    Enrolled,
    Event,
    Opened,
    Request,
    RequestStatus,
    Scope,
    claims,
)
from zkapex.server.store.database import explain, open_engine
from zkapex.server.store.rows import (
    first_published,
    load_client,
    load_invitation,
    load_request,
    request_row,
    store_transition,
    taken_claims,
    to_request,
)
from zkapex.server.store.schema import (
    SCHEMA_VERSION,
    Base,
    ClientRow,
    EnrolmentRow,
    InvitationRow,
    ManifestRow,
    MetaRow,
    ProofRow,
    RequestRow,
    TransitionRow,
)

LOCK_TIMEOUT_S = 10.0


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Transition:
    """One line of the audit trail."""

    at: datetime
    event: str
    client_id: str
    request_id: str | None
    client_status: ClientStatus
    request_status: RequestStatus | None
    detail: str


class Registry:
    """The registry of one federation.

    Parameters
    ----------
    path : Path
        Database file; created, readable by its owner only, if there is none.
    federation : str
        Name of the federation; must be the one the file was created for.
    clock : callable
        Gives the time in UTC.
    lock_timeout_s : float
        How long to wait for another process that is writing.

    Raises
    ------
    StorageError
        The file cannot be opened, is damaged, or is locked; so may every method.
    FormatVersionError
        The file was written by a newer release.
    InputError
        The file belongs to another federation, or to another program.
    """

    def __init__(
        self,
        path: Path,
        federation: str,
        *,
        clock: Callable[[], datetime] = utc_now,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
    ) -> None:
        self.path = path
        self.federation = federation
        self._clock = clock
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise StorageError(f"the registry {path} cannot be created", why=error.strerror or str(error)) from error
        self._engine = open_engine(path, lock_timeout_s)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

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
        with self._session(write=True) as session:
            if session.get(ManifestRow, digest) is None:
                session.add(ManifestRow(digest=digest, body=manifest.to_bytes()))
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
        with self._session(write=True) as session:
            before = self._scope(session, happened)
            after = decide(before, happened, now)
            if after is not before:
                store_transition(session, before, after, happened, now)
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
        with self._session(write=True) as session:
            session.add(InvitationRow(nonce=nonce, client_id=client_id, at=self._clock().isoformat()))
        return nonce

    def client(self, client_id: str) -> Client | None:
        """Return a client, or None if it never enrolled."""
        with self._session() as session:
            return load_client(session, client_id)

    def clients(self) -> tuple[Client, ...]:
        """Return all clients, by id."""
        with self._session() as session:
            ids = session.scalars(select(ClientRow.client_id).order_by(ClientRow.client_id)).all()
            return tuple(client for i in ids if (client := load_client(session, i)) is not None)

    def request(self, client_id: str, request_id: str) -> Request | None:
        """Return a request to a client, or None if there is none of that id."""
        with self._session() as session:
            return load_request(session, client_id, request_id)

    def requests(self, request_id: str | None = None) -> tuple[Request, ...]:
        """Return all requests, or those of one deletion request, in the order they were opened."""
        query = select(RequestRow)
        return self._requests(query if request_id is None else query.where(RequestRow.request_id == request_id))

    def sent(self, client_id: str) -> tuple[UnlearnRequest, ...]:
        """Return all requests that may have reached a client, in the order they were opened."""
        query = select(RequestRow).where(RequestRow.client_id == client_id, RequestRow.sent)
        return tuple(request.sealed.record for request in self._requests(query))

    def unfinished(self) -> tuple[Request, ...]:
        """Return the requests that have no receipt yet, in the order they were opened: where to go on after a crash."""
        return self._requests(select(RequestRow).where(RequestRow.status != RequestStatus.RECEIPTED))

    def _requests(self, query: Select[RequestRow]) -> tuple[Request, ...]:
        with self._session() as session:
            rows = session.scalars(query.order_by(RequestRow.serial)).all()
            return tuple(to_request(session, row) for row in rows)

    def manifest(self, digest: str) -> ModelManifest | None:
        """Return a manifest that was made known."""
        with self._session() as session:
            row = session.get(ManifestRow, digest)
            return None if row is None else ModelManifest.from_bytes(row.body)

    def enrolment(self, client_id: str) -> Enrolment:
        """Return the enrolment a client stands by.

        Raises
        ------
        ProtocolError
            The client never enrolled.
        """
        with self._session() as session:
            client = load_client(session, client_id)
            if client is None:
                raise ProtocolError(f"client {client_id[:16]}… never enrolled")
            return unseal_enrolment(session.get_one(EnrolmentRow, client.enrolment_digest).envelope).record

    def enrolments(self, client_id: str) -> dict[int, bytes]:
        """Return all enrolments of a client that were ever accepted, as signed, by revision."""
        with self._session() as session:
            rows = session.scalars(select(EnrolmentRow).where(EnrolmentRow.client_id == client_id)).all()
            return {row.revision: row.envelope for row in rows}

    def receipt(self, client_id: str, request_id: str) -> bytes | None:
        """Return the signed receipt of a request, if it was issued."""
        with self._session() as session:
            row = request_row(session, client_id, request_id)
            return None if row is None else row.receipt

    def evidence(
        self, client_id: str, request_id: str, *, settings: bytes, verification_key: bytes, srs: bytes | None = None
    ) -> Evidence:
        """Collect what a receipt for a request rests on; the circuit's files are given.

        Raises
        ------
        ProtocolError
            There is no such request.
        """
        with self._session() as session:
            row = request_row(session, client_id, request_id)
            if row is None:
                raise ProtocolError(f"client {client_id[:16]}… has no request {request_id}")
            earlier = session.scalars(
                select(RequestRow.response)
                .where(
                    RequestRow.client_id == client_id,
                    RequestRow.enrolment_digest == row.enrolment_digest,
                    RequestRow.serial < row.serial,
                    RequestRow.verdict == "proved",
                )
                .order_by(RequestRow.serial)
            ).all()
            proofs = session.execute(
                select(ProofRow.chunk, ProofRow.body).where(
                    ProofRow.client_id == client_id, ProofRow.request_id == request_id
                )
            ).all()
            return Evidence(
                manifest=session.get_one(ManifestRow, row.manifest_digest).body,
                request=row.envelope,
                enrolment=session.get_one(EnrolmentRow, row.enrolment_digest).envelope,
                earlier=tuple(response for response in earlier if response is not None),
                response=row.response,
                proofs={proof.chunk: proof.body for proof in proofs},
                settings=settings,
                verification_key=verification_key,
                srs=srs,
            )

    def transitions(self, client_id: str | None = None) -> tuple[Transition, ...]:
        """Return the audit trail, of all clients or of one, oldest first."""
        query = select(TransitionRow).order_by(TransitionRow.serial)
        if client_id is not None:
            query = query.where(TransitionRow.client_id == client_id)
        with self._session() as session:
            return tuple(
                Transition(
                    at=datetime.fromisoformat(row.at),
                    event=row.event,
                    client_id=row.client_id,
                    request_id=row.request_id,
                    client_status=ClientStatus(row.client_status),
                    request_status=None if row.request_status is None else RequestStatus(row.request_status),
                    detail=row.detail,
                )
                for row in session.scalars(query).all()
            )

    def _prepare(self) -> None:
        """Create the tables in an empty file, or check that they are ours."""
        with self._session(write=True) as session:
            connection = session.connection()
            tables = set(inspect(connection).get_table_names())
            if not tables:
                Base.metadata.create_all(connection)
                session.add(MetaRow(id=1, schema_version=SCHEMA_VERSION, federation=self.federation))
                return
            if "meta" not in tables:
                raise InputError(f"{self.path} is not a zkapex registry", fix="name another file")
            # Only these columns are promised to exist in every version of the schema.
            version, federation = session.execute(select(MetaRow.schema_version, MetaRow.federation)).one()
            if version != SCHEMA_VERSION:
                raise FormatVersionError(
                    f"the registry {self.path} has schema version {version}",
                    why=f"this release knows version {SCHEMA_VERSION}",
                    fix="use the release that wrote it, or newer",
                )
            if federation != self.federation:
                raise InputError(f"the registry {self.path} belongs to another federation", why=f"it is {federation!r}")
            damage = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if damage != "ok":
                raise StorageError(f"the registry {self.path} is damaged", why=str(damage), fix="restore a backup")

    @contextmanager
    def _session(self, *, write: bool = False) -> Iterator[Session]:
        engine = self._engine.execution_options(zkapex_write=write)
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                yield session
        except SQLAlchemyError as error:
            raise explain(self.path, error) from error

    def _scope(self, session: Session, happened: Event) -> Scope:
        client = load_client(session, happened.client_id)
        request_id = getattr(happened, "request_id", None)
        request = None if request_id is None else load_request(session, happened.client_id, request_id)
        if isinstance(happened, Enrolled):
            digest = happened.enrolment.record.manifest_digest
        elif isinstance(happened, Opened):
            digest = happened.request.record.manifest_digest
        else:
            digest = None
        manifest = None if digest is None else session.get(ManifestRow, digest)
        return Scope(
            federation=self.federation,
            manifest=None if manifest is None else ModelManifest.from_bytes(manifest.body),
            client=client,
            request=request,
            taken=taken_claims(session, claims(happened)),
            invitation=(
                load_invitation(session, happened.enrolment.record.nonce) if isinstance(happened, Enrolled) else None
            ),
            published=(
                first_published(session, happened.request.record.mask) if isinstance(happened, Opened) else None
            ),
        )

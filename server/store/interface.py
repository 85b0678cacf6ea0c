"""What the rest of the server needs of a store, whatever it is kept in."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from zkapex.proofs.messages import Enrolment, ModelManifest, UnlearnRequest
from zkapex.proofs.receipts.evidence import Evidence
from zkapex.server.protocol.states import Client, Event, Request, Scope
from zkapex.server.store.trail import Head, Transition


class Store(Protocol):
    """The provider's memory. :class:`zkapex.server.store.registry.Registry` says what each method does and raises."""

    @property
    def federation(self) -> str:
        """Name of the federation."""
        ...

    def add_manifest(self, manifest: ModelManifest) -> str: ...  # noqa: D102
    def apply(self, happened: Event) -> Scope: ...  # noqa: D102
    def now(self) -> datetime: ...  # noqa: D102
    def invite(self, client_id: str | None = None) -> str: ...  # noqa: D102
    def client(self, client_id: str) -> Client | None: ...  # noqa: D102
    def clients(self) -> tuple[Client, ...]: ...  # noqa: D102
    def request(self, client_id: str, request_id: str) -> Request | None: ...  # noqa: D102
    def requests(self, request_id: str | None = None) -> tuple[Request, ...]: ...  # noqa: D102
    def sent(self, client_id: str) -> tuple[UnlearnRequest, ...]: ...  # noqa: D102
    def unfinished(self) -> tuple[Request, ...]: ...  # noqa: D102
    def missing(self, client_id: str, request_id: str, limit: int | None = None) -> tuple[int, ...]: ...  # noqa: D102
    def manifest(self, digest: str) -> ModelManifest | None: ...  # noqa: D102
    def enrolment(self, client_id: str) -> Enrolment: ...  # noqa: D102
    def enrolments(self, client_id: str) -> dict[int, bytes]: ...  # noqa: D102
    def receipt(self, client_id: str, request_id: str) -> bytes | None: ...  # noqa: D102
    def evidence(  # noqa: D102
        self,
        client_id: str,
        request_id: str,
        *,
        settings: bytes | None = None,
        verification_key: bytes | None = None,
        srs: bytes | None = None,
        linked: bool = False,
    ) -> Evidence: ...
    def transitions(self, client_id: str | None = None) -> tuple[Transition, ...]: ...  # noqa: D102
    def verify_trail(self, known: Head | None = None) -> Head: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102

"""What the console shows of a provider's folder: its registry and the receipts beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zkapex.errors import InputError
from zkapex.proofs.verify import verify_receipt
from zkapex.server.console.views import Answer, ClientView, Entry, RequestView
from zkapex.server.protocol.states import Client, Readmitted, Request
from zkapex.server.store.registry import Registry


class RegistrySource:
    """A `zkapex.server.console.views.Source` over a registry.

    Parameters
    ----------
    registry : Registry
        Open; every change goes through it, and so through the rules of the protocol.
    receipts : Path
        Folder of the receipts' folders.
    """

    def __init__(self, registry: Registry, receipts: Path) -> None:
        self._registry = registry
        self._receipts = receipts
        self.federation = registry.federation

    def requests(self) -> Sequence[RequestView]:
        """See `Source`."""
        found: dict[str, list[Request]] = {}
        for request in self._registry.requests():
            found.setdefault(request.request_id, []).append(request)
        return sorted((_view(each) for each in found.values()), key=lambda view: view.opened_at, reverse=True)

    def request(self, request_id: str) -> RequestView | None:
        """See `Source`."""
        found = self._registry.requests(request_id)
        return _view(found) if found else None

    def clients(self) -> Sequence[ClientView]:
        """See `Source`."""
        return [_client(client, ()) for client in self._registry.clients()]

    def client(self, client_id: str) -> ClientView | None:
        """See `Source`."""
        found = self._registry.client(client_id)
        if found is None:
            return None
        mine = [request for request in self._registry.requests() if request.client_id == client_id]
        return _client(found, [_answer(request) for request in mine])

    def trail(self, limit: int) -> Sequence[Entry]:
        """See `Source`."""
        newest = list(self._registry.transitions())[-limit:][::-1]
        return [Entry(line.at, line.event, line.client_id, line.request_id, line.detail) for line in newest]

    def verify(self, request_id: str, client_id: str) -> Mapping[str, Any]:
        """See `Source`."""
        if self._registry.receipt(client_id, request_id) is None:
            raise InputError("there is no such receipt", fix="choose one from the page of a request")
        verified = verify_receipt(self._receipts / request_id / client_id[:16])
        receipt = verified.bundle.receipt
        predicate = receipt.statement.predicate
        return {
            "verdict": receipt.outcome.verdict,
            "reasons": list(receipt.outcome.reasons),
            "proofs_verified": verified.chunks,
            "verify_cpu_s": round(verified.cpu_s, 2),
            "shows": list(predicate.shows),
            "does_not_show": list(predicate.does_not_show),
        }

    def readmit(self, client_id: str, reason: str, operator: str) -> None:
        """See `Source`."""
        self._registry.apply(Readmitted(client_id, f"readmitted by {operator}: {reason}"))


def _view(requests: Sequence[Request]) -> RequestView:
    asked = requests[0].sealed.record
    return RequestView(
        request_id=asked.request_id,
        answers=tuple(_answer(request) for request in requests),
        opened_at=min(request.sealed.record.issued_at for request in requests),
        expires_at=max(request.sealed.record.expires_at for request in requests),
        operator=asked.operator,
    )


def _answer(request: Request) -> Answer:
    return Answer(
        request_id=request.request_id,
        client_id=request.client_id,
        status=str(request.status),
        verdict=request.verdict,
        reason=request.reason,
        touched=len(request.touched),
        drawn=len(request.drawn),
        proved=len(request.proofs),
        receipt=request.receipt_digest is not None,
    )


def _client(client: Client, answers: Sequence[Answer]) -> ClientView:
    return ClientView(
        client_id=client.client_id,
        status=str(client.status),
        revision=client.revision,
        reason=client.reason,
        active=client.active,
        readmitted=client.readmitted,
        requests=tuple(answers),
    )

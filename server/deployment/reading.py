"""What operators see of a server: clients, requests and receipts, read from its registry; nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from zkapex.errors import InputError
from zkapex.server.deployment.requests import Order, OrderBook
from zkapex.server.deployment.settings import Place, ServerSettings, load
from zkapex.server.protocol.states import ClientStatus, Request, RequestStatus
from zkapex.server.store.registry import Registry
from zkapex.storage import load_json


@dataclass(frozen=True)
class ClientFacts:
    """A client in a table."""

    client_id: str
    status: ClientStatus
    revision: int
    active: str | None
    reason: str
    stale: str = ""


@dataclass(frozen=True)
class RequestFacts:
    """A request to one client in a table. `proofs` and `missing` count chunks."""

    request_id: str
    client_id: str
    status: RequestStatus
    touched: int
    proofs: int
    missing: int
    verdict: str | None
    reason: str
    opened_at: datetime
    expires_at: datetime


@dataclass(frozen=True)
class Snapshot:
    """A server at one moment."""

    clients: tuple[ClientFacts, ...]
    requests: tuple[RequestFacts, ...]
    orders: tuple[Order, ...]
    registry_bytes: int
    link_bytes: int


@contextmanager
def registry_of(place: Place, settings: ServerSettings | None = None) -> Iterator[Registry]:
    """The registry of a server's federation; its configuration is read if it is not given.

    Raises
    ------
    InputError
        No campaign has run yet, so there is none.
    """
    where = (settings or load(place.root)).database or place.federation / "provider" / "registry.sqlite"
    claimed = place.federation / "provider" / "run.json"
    if not claimed.exists() or (isinstance(where, Path) and not where.exists()):
        raise InputError("the federation has not begun", fix="no campaign has run on this server yet")
    name = str(json.loads(claimed.read_text(encoding="utf-8"))["federation"])
    with Registry(where, name) as registry:
        yield registry


def snapshot(place: Place) -> Snapshot:
    """Everything that tables and metrics show."""
    orders = tuple(OrderBook(place.requests).all())
    link = _size(place.link / "state.db")
    try:
        with registry_of(place) as registry:
            said = {one.client_id: (one.active, one.reason) for one in registry.clients()}
            clients = tuple(
                ClientFacts(one.client_id, one.status, one.revision, one.active, one.reason, one.stale)
                for one in registry.clients()
            )
            requests = tuple(
                RequestFacts(
                    request_id=one.request_id,
                    client_id=one.client_id,
                    status=one.status,
                    touched=len(one.touched),
                    proofs=len(one.proofs),
                    missing=len(one.missing),
                    verdict=one.verdict,
                    reason=one.reason or _last_said(one, said),
                    opened_at=one.sealed.record.issued_at,
                    expires_at=one.sealed.record.expires_at,
                )
                for one in registry.requests()
            )
    except InputError:
        return Snapshot((), (), orders, 0, link)
    return Snapshot(clients, requests, orders, _size(place.federation / "provider" / "registry.sqlite"), link)


def _last_said(request: Request, said: Mapping[str, tuple[str | None, str]]) -> str:
    """What the client of a request under way has last reported, or why nothing was heard of it."""
    active, reason = said.get(request.client_id, (None, ""))
    return reason if active == request.request_id else ""


def clients_by_node(place: Place) -> dict[str, str]:
    """Client id by the number of the node it enrolled at."""
    path = place.federation / "provider" / "roster.json"
    found = load_json(path).get("nodes", {}) if path.exists() else {}
    return {str(node): str(client) for node, client in found.items()}


def nodes_by_client(place: Place) -> dict[str, tuple[int, ...]]:
    """Numbers of the nodes that are tied to each client: more than one, if its node key was renewed."""
    found: dict[str, tuple[int, ...]] = {}
    for node, client in clients_by_node(place).items():
        found[client] = (*found.get(client, ()), int(node))
    return found


def _size(path: Path) -> int:
    """Bytes of a file; 0 if there is none, or it is another user's of the server."""
    try:
        return path.stat().st_size
    except OSError:
        return 0

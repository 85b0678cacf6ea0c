"""What clients are still to be asked for, as far as the registry and the requests' folders know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from zkapex.server.protocol.states import UNDER_WAY, Client, ClientStatus, RequestStatus
from zkapex.server.requests.folder import ADDRESSED, DELIVERED, Order, RequestFolder
from zkapex.server.store.registry import Registry
from zkapex.storage import load_json

TUNED: Final = "tuned.json"
"""In a request's own folder: what clients answered that have trained on after it."""
_WAITING: Final = {RequestStatus.OPEN: "unlearn", RequestStatus.DISTRIBUTED: "unlearn"}


@dataclass(frozen=True)
class Due:
    """Something that a client is still to be asked for.

    Attributes
    ----------
    request_id, client_id : str
    what : str
        ``open``, ``unlearn``, ``prove``, ``conclude``, ``deliver`` or ``tune``; ``enrol`` belongs to no request.
    """

    request_id: str
    client_id: str
    what: str


def due(registry: Registry, order: Order, tunes: bool = False) -> list[Due]:
    """Everything that is left to do, request by request in the order they were made; nothing if all is done.

    Parameters
    ----------
    tunes : bool
        Whether clients train on after requests that prescribe what the result is along directions.
    """
    found = []
    clients = {client.client_id: client for client in registry.clients()}
    for one in clients.values():
        quarantined = one.status is ClientStatus.QUARANTINED
        if one.active is None and (one.readmitted if quarantined else bool(one.stale)):
            found.append(Due("", one.client_id, "enrol"))
    for request_id in order.ids():
        folder = order.folder(request_id)
        delivered = folder.clients(DELIVERED) or set()
        tuned = _tuned(folder) if tunes else set()
        requests = {request.client_id: request for request in registry.requests(request_id)}
        for client_id in sorted((folder.clients(ADDRESSED) or set()) | requests.keys()):
            request, client = requests.get(client_id), clients.get(client_id)
            if request is None:
                if client is not None and client.status is not ClientStatus.QUARANTINED:
                    found.append(Due(request_id, client_id, "open"))
            elif request.status in UNDER_WAY:
                found.append(Due(request_id, client_id, _WAITING.get(request.status, "prove")))
            elif request.status is not RequestStatus.RECEIPTED:
                found.append(Due(request_id, client_id, "conclude"))
            elif client_id not in delivered and request.response is not None:
                found.append(Due(request_id, client_id, "deliver"))
            elif tunes and client_id not in tuned and request.verdict == "proved" and _may_tune(registry, client):
                found.append(Due(request_id, client_id, "tune"))
    return found


def _tuned(folder: RequestFolder) -> set[str]:
    path = folder.provided / TUNED
    return set(load_json(path)) if path.exists() else set()


def _may_tune(registry: Registry, client: Client | None) -> bool:
    """Whether the client's statement says what the result is where it deletes, which training on can then hold."""
    if client is None or client.status is ClientStatus.QUARANTINED:
        return False
    manifest = registry.manifest(client.manifest_digest)
    return manifest is not None and manifest.statement.constrains_result

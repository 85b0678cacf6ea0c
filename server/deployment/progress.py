"""How far each order is, client by client, from the registry and the requests' folders."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from zkapex.errors import InputError
from zkapex.server.deployment.outcomes import planned, setbacks
from zkapex.server.deployment.reading import RequestFacts, snapshot
from zkapex.server.deployment.requests import Order, OrderBook
from zkapex.server.deployment.settings import Place
from zkapex.server.requests.folder import ADDRESSED, RequestFolder

NEW: Final = "new"
UNDER_WAY: Final = "under way"
DONE: Final = "done"
CANCELLED: Final = "cancelled"
NOT_ASKED: Final = "not asked yet"


@dataclass(frozen=True)
class Part:
    """A client's part in an order.

    Attributes
    ----------
    client_id : str
    status : str
        As the registry has it, or `NOT_ASKED`.
    facts : RequestFacts or None
    """

    client_id: str
    status: str
    facts: RequestFacts | None

    @property
    def verdict(self) -> str | None:
        """What it came to, once it has a receipt."""
        return None if self.facts is None else self.facts.verdict


@dataclass(frozen=True)
class Progress:
    """How far an order is.

    Attributes
    ----------
    order : Order
    state : str
        `NEW`, `UNDER_WAY`, `DONE` (everybody it is addressed to has a verdict) or `CANCELLED`.
    parts : tuple of Part
    overdue : bool
        Its deadline has passed, and it is not done.
    problem : str
        Why it could not be planned; empty if it could, or was not tried.
    """

    order: Order
    state: str
    parts: tuple[Part, ...]
    overdue: bool
    problem: str

    @property
    def proved(self) -> int:
        """How many clients have proved it."""
        return sum(part.verdict == "proved" for part in self.parts)

    @property
    def unproved(self) -> tuple[str, ...]:
        """Ids of the clients whose part is over without proof."""
        return tuple(part.client_id for part in self.parts if part.verdict not in (None, "proved"))


def progress(place: Place, now: datetime) -> list[Progress]:
    """How far all orders are, the oldest first."""
    facts: dict[str, list[RequestFacts]] = {}
    for one in snapshot(place).requests:
        facts.setdefault(one.request_id, []).append(one)
    problems = setbacks(place)
    found = []
    for order in OrderBook(place.requests).all():
        setback = problems.get(f"request:{order.request_id}")
        parts = _parts(place, order, facts.get(order.request_id, []))
        state = _state(place, order, parts)
        overdue = state in (NEW, UNDER_WAY) and now >= datetime.fromisoformat(order.due_at)
        found.append(Progress(order, state, parts, overdue, "" if setback is None else setback.reason))
    return found


def progress_of(place: Place, request_id: str, now: datetime) -> Progress:
    """How far one order is.

    Raises
    ------
    InputError
        There is none of this id.
    """
    for one in progress(place, now):
        if one.order.request_id == request_id:
            return one
    raise InputError(f"there is no request {request_id}", fix="zkapex server requests list")


def _parts(place: Place, order: Order, facts: list[RequestFacts]) -> tuple[Part, ...]:
    folder = RequestFolder(place.federation, order.request_id)
    addressed = (folder.clients(ADDRESSED) or set()) if folder.provided.exists() else set()
    asked = {one.client_id: one for one in facts}
    return tuple(
        Part(client, str(asked[client].status) if client in asked else NOT_ASKED, asked.get(client))
        for client in sorted(addressed | asked.keys())
    )


def _state(place: Place, order: Order, parts: tuple[Part, ...]) -> str:
    if not order.open:
        return CANCELLED
    if not planned(place, order.request_id):
        return NEW
    return DONE if all(part.verdict is not None for part in parts) else UNDER_WAY

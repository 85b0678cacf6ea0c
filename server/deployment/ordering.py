"""A new order: whether the provider understands it, what it would cost, and whom it would be addressed to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from zkapex.errors import IllegalTransitionError, InputError
from zkapex.proofs.messages import ModelManifest
from zkapex.proofs.records.packing import touched_chunks
from zkapex.server.deployment.acts import record, said
from zkapex.server.deployment.campaign import federation_at, provider_of
from zkapex.server.deployment.outcomes import forget_setback
from zkapex.server.deployment.reading import ClientFacts, snapshot
from zkapex.server.deployment.requests import Order, OrderBook
from zkapex.server.deployment.settings import Place, ServerSettings
from zkapex.server.events import EventLog
from zkapex.server.federation.lock import one_writer
from zkapex.server.federation.provider import ManyRequests, Options, Orders
from zkapex.server.protocol.states import ClientStatus
from zkapex.server.requests.folder import Order as Folders


@dataclass(frozen=True)
class Supposing:
    """The order book as it would be with one order more.

    Attributes
    ----------
    book : OrderBook
    order : Order
    """

    book: OrderBook
    order: Order

    def about(self, request_id: str) -> Options:
        """See `zkapex.server.federation.provider.Orders`."""
        return self.order.about if request_id == self.order.request_id else self.book.about(request_id)

    def before(self, request_id: str) -> tuple[str, ...]:
        """See `zkapex.server.federation.provider.Orders`."""
        return self.book.before(request_id)

    def deadline(self, request_id: str) -> datetime | None:
        """See `zkapex.server.federation.provider.Orders`."""
        if request_id == self.order.request_id:
            return datetime.fromisoformat(self.order.due_at)
        return self.book.deadline(request_id)

    def repeats(self, request_id: str) -> tuple[str, frozenset[str]] | None:
        """See `zkapex.server.federation.provider.Orders`."""
        return None if request_id == self.order.request_id else self.book.repeats(request_id)


@dataclass(frozen=True)
class Preview:
    """What an order would ask for.

    Attributes
    ----------
    what : str
        What would be forgotten, as receipts commit to it.
    manifest : ModelManifest
    masked, touched : int
        Weights that would be zero, and chunks that every client would have to prove (a sampled audit draws of them).
    """

    what: str
    manifest: ModelManifest
    masked: int
    touched: int


def understood(place: Place, settings: ServerSettings, order: Order) -> str:
    """What an order would forget, in the provider's words.

    Raises
    ------
    InputError
        The provider does not understand it.
    """
    orders: Orders = Supposing(OrderBook(place.requests), order)
    provider = provider_of(settings, orders)
    try:
        if isinstance(provider, ManyRequests):
            provider = provider.for_request(order.request_id)
        return provider.forget_description()
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{settings.provider} does not understand what request {order.request_id} is about",
            why=f"{type(error).__name__}: {error}",
            fix="say it in the names and values that this provider takes, such as forget-class=3",
        ) from error


def create(place: Place, settings: ServerSettings, order: Order, by: str = "") -> str:
    """Order a deletion; what it forgets, in the provider's words.

    Parameters
    ----------
    by : str
        Who orders it, if that is not the user of this machine.

    Raises
    ------
    InputError
        The provider does not understand it, or there is one of this id.
    """
    book = OrderBook(place.requests)
    book.check(order)
    what = understood(place, settings, order)
    book.create(order)
    record(place, "request.created", order.request_id, said(by, f"{order.legal_basis}, due {order.due_at}: {what}"))
    return what


def preview(place: Place, settings: ServerSettings, order: Order) -> Preview:
    """Search for the mask of an order as a campaign would, and keep nothing of it; takes as long as the search.

    Raises
    ------
    InputError
        The provider does not understand it, nobody has enrolled yet, or a client would choose the mask.
    """
    if not (place.federation / "provider" / "manifest.json").exists():
        raise InputError("the federation has not begun", fix="run a campaign first: zkapex server tick")
    orders = Supposing(OrderBook(place.requests), order)
    with EventLog(place.federation) as events:
        manifest, plan = federation_at(place, settings, events, orders=orders).preview(order.request_id)
    masked = sum(int(mask.sum()) for mask in plan.masks.values())
    touched = len(touched_chunks(manifest, plan.masks, plan.steering or ()))
    return Preview(understood(place, settings, order), manifest, masked, touched)


def addressees(place: Place) -> list[tuple[ClientFacts, str]]:
    """Clients that an order made now would be addressed to, and what keeps each from being asked at once."""
    found = []
    for one in snapshot(place).clients:
        if one.status is ClientStatus.QUARANTINED:
            continue
        why = f"request {one.active} is under way" if one.active else ""
        found.append((one, why or (f"it has to enrol again: {one.stale}" if one.stale else "")))
    return found


def cancel(place: Place, request_id: str, reason: str, by: str = "") -> None:
    """Take a request back that nobody was asked to follow yet; `by` as in `create`.

    Raises
    ------
    InputError
        There is no such request.
    IllegalTransitionError
        Devices were asked, or a later request was planned upon it.
    ProtocolError
        A campaign is under way, which may be about to ask them.
    """
    book = OrderBook(place.requests)
    book.get(request_id)
    with one_writer(place.federation / "provider"):
        sent = any(one.request_id == request_id for one in snapshot(place).requests)
        if not sent:
            Folders(place.federation).withdraw(request_id)
        book.cancel(request_id, sent)
    forget_setback(place, f"request:{request_id}")
    record(place, "request.cancelled", request_id, said(by, reason))


def repetition(place: Place, request_id: str, clients: Sequence[str], now: str, due: str) -> Order:
    """The order that asks clients again which did not prove an earlier one.

    Raises
    ------
    IllegalTransitionError
        There are none.
    """
    book = OrderBook(place.requests)
    order = book.get(request_id)
    if not clients:
        raise IllegalTransitionError(
            f"there is nobody to ask again about request {request_id}",
            why="no client's part is over without a proof",
            fix="campaigns go on asking those whose part is not over",
        )
    first = order.repeats or order.request_id
    taken = {one.request_id for one in book.all()}
    name = next(name for number in range(2, 1000) if (name := f"{first}-{number}") not in taken)
    return Order(
        name, order.about, order.legal_basis, order.note, now, due, repeats=first, clients=tuple(sorted(clients))
    )

"""A campaign: one short run that asks whoever is online for whatever is due, and ends.

All state is in the registry and the federation's folder. A campaign that is killed leaves nothing half done: the next
one finds what was finished, and does the rest. Nothing has to live longer than the slowest answer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from flwr.serverapp import Grid

from zkapex.errors import Error, InputError, StorageError
from zkapex.server.deployment.outcomes import Outcome, keep, keep_setbacks, may_try, planned, setbacks
from zkapex.server.deployment.requests import OrderBook, utc_text
from zkapex.server.deployment.restored import refuse_unconfirmed
from zkapex.server.deployment.settings import Place, ServerSettings, run_settings
from zkapex.server.events import COMPLETED, EventLog
from zkapex.server.federation.identity import sentence
from zkapex.server.federation.provider import Orders, Provider, ProviderFactory
from zkapex.server.service import Federation
from zkapex.server.store.registry import utc_now


def provider_of(settings: ServerSettings, orders: Orders) -> Provider:
    """The provider that the configuration names.

    Raises
    ------
    InputError
        There is none of this name, or it does not take its options.
    """
    module, _, name = settings.provider.partition(":")
    try:
        factory: ProviderFactory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{settings.provider} names no provider", why=str(error), fix="correct provider in zkapex.toml"
        ) from None
    return factory(settings.options, orders)


def federation_at(
    place: Place,
    settings: ServerSettings,
    events: EventLog,
    clock: Callable[[], datetime] = utc_now,
    orders: Orders | None = None,
) -> Federation:
    """The federation of a server, to be used in a ``with`` block; `orders` are those of its operators by default."""
    orders = orders or OrderBook(place.requests)
    provider = provider_of(settings, orders)
    return Federation(
        provider, run_settings(settings), place.federation, events, clock, registry=settings.database, orders=orders
    )


def campaign(
    grid: Grid, place: Place, settings: ServerSettings, name: str = "", clock: Callable[[], datetime] = utc_now
) -> Outcome:
    """Do whatever can be done now, and keep what came of it.

    Parameters
    ----------
    name : str
        32 hexadecimal digits by which whoever asked for the campaign finds its outcome.

    Raises
    ------
    ProtocolError
        Another process works in the federation's folder.
    IllegalTransitionError
        The server was restored from a backup, and nobody has confirmed what was asked for since.
    StorageError
        The folder or database cannot be written, or is damaged.
    """
    refuse_unconfirmed(place)
    started = utc_text(clock())
    with EventLog(place.federation) as events, federation_at(place, settings, events, clock) as federation:
        events.emit("campaign.started", campaign=name)
        problems = _work(federation, grid, OrderBook(place.requests), place, settings, clock)
        outcome = Outcome(started, utc_text(clock()), tuple(federation.due()), problems)
        keep_setbacks(place, problems, clock())
        keep(place, name, outcome)
        events.emit("campaign.done", campaign=name, left=len(outcome.left), problems=problems)
        events.emit(COMPLETED)
    return outcome


def _work(
    federation: Federation, grid: Grid, book: OrderBook, place: Place, settings: ServerSettings,
    clock: Callable[[], datetime],
) -> dict[str, str]:  # fmt: skip
    """The campaign itself; what could not be done, and why."""
    begun = (place.federation / "provider" / "global.npz").exists()
    online, wanted = len(list(grid.get_node_ids())), settings.campaigns.devices
    if not begun and online < wanted:
        return {"campaign": f"the model is trained when {wanted} devices are online, and {online} are"}
    problems: dict[str, str] = {}
    new = [order for order in book.all() if order.open and not planned(place, order.request_id)]
    ready = [order for order in new if may_try(setbacks(place), f"request:{order.request_id}", settings, clock())]
    for order in ready if online else ():
        mine: dict[str, str] = {}
        _attempt(mine, f"request:{order.request_id}", partial(federation.carry_out, grid, order.request_id))
        # Without a client nothing was planned: it is not the request's fault, and does not wait.
        problems |= mine if federation.registry.clients() else _renamed(mine)
    if not ready or not online:
        _attempt(problems, "campaign", lambda: federation.tick(grid))
    return problems | {f"node:{node}": reason for node, reason in federation.not_enrolled().items()}


def _renamed(problems: dict[str, str]) -> dict[str, str]:
    return {"campaign": "; ".join(problems.values())} if problems else {}


def _attempt(problems: dict[str, str], what: str, action: Callable[[], Any]) -> None:
    """Do something that may fail for its own reasons without keeping the rest from being done."""
    try:
        action()
    except StorageError:
        raise  # the server's own, and everything else would meet it, too
    except Error as error:
        problems[what] = sentence(error)

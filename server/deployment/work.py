"""What a server has to do, and what of it can be done with the devices that are online."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from zkapex.errors import InputError
from zkapex.server.deployment.outcomes import may_try, planned, setbacks
from zkapex.server.deployment.reading import clients_by_node, nodes_by_client, registry_of
from zkapex.server.deployment.requests import OrderBook
from zkapex.server.deployment.settings import Place, ServerSettings, run_settings
from zkapex.server.protocol.states import UNDER_WAY
from zkapex.server.requests.due import Due, due
from zkapex.server.requests.folder import Order
from zkapex.server.store.registry import Registry


@dataclass(frozen=True)
class Work:
    """Something to be done.

    Attributes
    ----------
    what : str
        ``train``, ``plan``, ``join`` (a device that is no client yet), ``expire``, or as in
        `zkapex.server.requests.due.Due`.
    request_id, client_id : str
        Empty if it is about none.
    ready : bool
        Whether it can be done now.
    waits : str
        If not: for what.
    """

    what: str
    request_id: str = ""
    client_id: str = ""
    ready: bool = True
    waits: str = ""


def work(place: Place, settings: ServerSettings, online: Collection[int], now: datetime) -> list[Work]:
    """Everything there is to do.

    Parameters
    ----------
    online : collection of int
        Nodes that are.
    """
    begun = (place.federation / "provider" / "global.npz").exists()
    found = [] if begun else [_train(settings, len(online))]
    found += _orders(place, settings, bool(online), now)
    found += _joins(place, settings, online, now) if begun else []
    clients = nodes_by_client(place)
    try:
        with registry_of(place, settings) as registry:
            left = due(registry, Order(place.federation), tunes=run_settings(settings).tune_epochs > 0)
            found += [_of_client(one, clients, online) for one in left]
            found += _expired(registry, now)
    except InputError:
        pass  # nobody has enrolled yet
    return found


def _train(settings: ServerSettings, online: int) -> Work:
    wanted = settings.campaigns.devices
    return Work("train", ready=online >= wanted, waits="" if online >= wanted else f"{wanted} devices, {online} online")


def _orders(place: Place, settings: ServerSettings, online: bool, now: datetime) -> list[Work]:
    known, found = setbacks(place), []
    for order in OrderBook(place.requests).all():
        if not order.open or planned(place, order.request_id):
            continue
        key = f"request:{order.request_id}"
        waits = "" if online else "a device"
        if not may_try(known, key, settings, now):
            waits = f"zkapex server requests retry, or an hour: {known[key].reason}"
        found.append(Work("plan", order.request_id, ready=not waits, waits=waits))
    return found


def _joins(place: Place, settings: ServerSettings, online: Collection[int], now: datetime) -> list[Work]:
    known, tied = setbacks(place), clients_by_node(place)
    strangers = [node for node in online if str(node) not in tied]
    return [Work("join") for node in strangers if may_try(known, f"node:{node}", settings, now)]


def _of_client(one: Due, nodes: Mapping[str, tuple[int, ...]], online: Collection[int]) -> Work:
    ready = one.what == "conclude" or any(node in online for node in nodes.get(one.client_id, ()))
    return Work(one.what, one.request_id, one.client_id, ready, "" if ready else "its device")


def _expired(registry: Registry, now: datetime) -> list[Work]:
    """Requests whose time is over and that nobody has given up yet; that needs no device."""
    return [
        Work("expire", one.request_id, one.client_id)
        for one in registry.unfinished()
        if one.status in UNDER_WAY and now >= one.sealed.record.expires_at
    ]

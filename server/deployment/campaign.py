"""One campaign: ask whoever is online for whatever is due, and end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flwr.serverapp import Grid

from zkapex.server.deployment.requests import OrderBook
from zkapex.server.deployment.settings import Place, ServerSettings
from zkapex.server.events import COMPLETED, EventLog
from zkapex.server.federation.provider import Provider
from zkapex.server.federation.settings import RunSettings
from zkapex.server.service import Federation
from zkapex.transport.app import installed_app, run_config_of

Options = Mapping[str, str | int | float | bool]
Factory = Callable[[Options, Callable[[str], Options]], Provider]


def run_settings(settings: ServerSettings) -> RunSettings:
    """Settings of the federation: the defaults of the package, with what the server's configuration changes.

    Raises
    ------
    InputError
        One is unknown or out of range.
    """
    return RunSettings.from_config(run_config_of(installed_app(), settings.run))


def campaign(grid: Grid, place: Place, settings: ServerSettings, factory: Factory, name: str) -> None:
    """Carry out new requests of operators, and go on with all that were planned.

    Parameters
    ----------
    grid : Grid
    place, settings
        Of the server.
    factory : callable
        Makes the provider, see `zkapex.server.deployment.app.ProviderFactory`.
    name : str
        Of the campaign, for its events.
    """
    book = OrderBook(place.requests)
    provider = factory(settings.options, book.about)
    with EventLog(place.federation) as events:
        events.emit("campaign.started", campaign=name)
        with Federation(provider, run_settings(settings), place.federation, events) as federation:
            planned = set(federation.order.ids())
            new = [order.request_id for order in book.all() if order.open and order.request_id not in planned]
            for request_id in new:
                federation.carry_out(grid, request_id)
            left = federation.due() if new else federation.tick(grid)
        events.emit("campaign.ended", campaign=name, left=len(left))
        events.emit(COMPLETED)

"""Provider and devices of a scenario as a deployment names them, to try one out on data that everybody has."""

from __future__ import annotations

import torch

from zkapex.server.federation.provider import Options, Orders
from zkapex.simulation.federation.device import ScenarioTask
from zkapex.simulation.federation.federation import federation_of
from zkapex.simulation.federation.provider import ScenarioProvider
from zkapex.transport.app import installed_app, run_config_of


def task(options: Options) -> ScenarioTask:
    """The share of client ``index`` of a scenario.

    Raises
    ------
    InputError
        An option is unknown, or as `zkapex.simulation.federation.federation.federation_of`.
    """
    torch.set_num_threads(1)
    rest = {name: value for name, value in options.items() if name != "index"}
    return ScenarioTask(federation_of(run_config_of(installed_app(), rest)), int(options.get("index", 0)))


class DeployedProvider(ScenarioProvider):
    """The provider of a scenario, whose requests say what is to be forgotten.

    Parameters
    ----------
    options : mapping
        Settings of the scenario.
    orders : Orders
        What an operator's request changes of them: ``forget-class``.
    """

    def __init__(self, options: Options, orders: Orders) -> None:
        super().__init__(federation_of(run_config_of(installed_app(), options)))
        self._options = options
        self._orders = orders

    def for_request(self, request_id: str) -> ScenarioProvider:
        """See `zkapex.server.federation.provider.ManyRequests`."""
        changed = {**self._options, **self._orders.about(request_id)}
        earlier = (self._orders.about(one).get("forget-class") for one in self._orders.before(request_id))
        gone = {int(one) for one in earlier if one is not None} - {int(changed.get("forget-class", -1))}
        return ScenarioProvider(federation_of(run_config_of(installed_app(), changed)).without(tuple(sorted(gone))))


def provider(options: Options, orders: Orders) -> DeployedProvider:
    """The provider of a scenario.

    Raises
    ------
    InputError
        As `task`.
    """
    torch.set_num_threads(1)  # models this small gain little by more, and lose several times as much on a busy machine
    return DeployedProvider(options, orders)

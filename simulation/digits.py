"""The digits scenario: who the provider and the devices are when a run is a simulation of handwritten digits."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Context, RecordDict
from torch import nn

from zkapex.circuits.statement import StatementSpec
from zkapex.client.agent import MODEL, DeviceAgent
from zkapex.client.personalise import FitSettings, fit, personalise
from zkapex.client.task import Tally
from zkapex.errors import ProtocolError
from zkapex.server.search import FixedPoint, Plan, SearchSpace, search
from zkapex.simulation.adversaries import check_cheat, make_cheat
from zkapex.simulation.data import ClientData, Examples, Scenario, digits_scenario
from zkapex.simulation.models import target_layers, vision_transformer
from zkapex.simulation.training import LOCAL, accuracy, calibration, provider_copies

DAMPENING_MARGIN = 0.5
"""In logits, see `zkapex.server.search.SearchSpace`."""


@lru_cache(maxsize=4)
def scenario(clients: int, forget_class: int, seed: int) -> Scenario:
    """The scenario, made once per process; it is a function of its arguments."""
    return digits_scenario(clients, forget_class, seed)


class DigitsTask:
    """A device that holds one client's share of the digits.

    Parameters
    ----------
    data : ClientData
    world : Scenario
        For evaluation on data nobody has seen.
    index : int
        Number of the client.
    seed : int
    """

    def __init__(self, data: ClientData, world: Scenario, index: int, seed: int) -> None:
        self._data = data
        self._world = world
        self._index = index
        self._seed = seed

    def build_model(self) -> nn.Module:
        """See `zkapex.client.task.Task`."""
        return vision_transformer(self._seed)

    def fit_round(self, model: nn.Module, round_number: int) -> int:
        """See `zkapex.client.task.Task`."""
        seed = self._seed * 10_000 + round_number * 100 + self._index
        fit(model, self._data.train.inputs, self._data.train.labels, LOCAL, seed)
        return len(self._data.train.labels)

    def fit_personal(
        self, model: nn.Module, epochs: int, learning_rate: float, seed: int, hold_zero: Mapping[str, torch.Tensor]
    ) -> int:
        """See `zkapex.client.task.Task`. Replays the client's unshifted share, the class to be forgotten included."""
        settings = FitSettings(epochs, learning_rate)
        personalise(model, self._data.personal, self._data.train, seed * 100 + self._index, settings, hold_zero)
        return len(self._data.personal.labels) + len(self._data.train.labels)

    def curvature_inputs(self) -> torch.Tensor:
        """See `zkapex.client.task.Task`."""
        return calibration(self._data.personal, self._data.train)

    def evaluate(self, model: nn.Module) -> Mapping[str, Tally]:
        """See `zkapex.client.task.Task`; on test data."""
        sets = {
            "forget": self._world.forget_test,
            "retain": self._world.retain_test,
            "personal": self._data.personal_test,
        }
        return {name: _tally(model, examples) for name, examples in sets.items()}


class DigitsProvider:
    """The provider of the digits federation, asked to forget one digit.

    Parameters
    ----------
    world : Scenario
    seed : int
    forget_target, retain_cost : float
        What the search for a mask must reach, and may cost.
    """

    name = "vit-digits"
    federation = "digits"

    def __init__(self, world: Scenario, seed: int, forget_target: float, retain_cost: float) -> None:
        self._world = world
        self._seed = seed
        self._forget_target = forget_target
        self._retain_cost = retain_cost

    def initial_model(self) -> nn.Module:
        """See `zkapex.server.provider.Provider`."""
        return vision_transformer(self._seed)

    def target_layers(self, model: nn.Module) -> tuple[str, ...]:
        """See `zkapex.server.provider.Provider`."""
        return tuple(target_layers(model))

    def forget_description(self) -> str:
        """See `zkapex.server.provider.Provider`."""
        return f"every image of the digit {self._world.forget_class} in scikit-learn's digits"

    def plan(self, model: nn.Module, statement: StatementSpec) -> Plan:
        """See `zkapex.server.provider.Provider`."""
        space = SearchSpace(forget_target=self._forget_target, retain_cost=self._retain_cost)
        if statement.kind == "dampening":
            # Without a repair every logit of margin costs personal accuracy: a quarter of it for the usual three.
            space = replace(space, margin=DAMPENING_MARGIN)
        copies = provider_copies(model, self._world, self._seed)
        return search(copies, self.target_layers(model), self._world.forget_set, FixedPoint(statement), space)

    def curvature_inputs(self) -> torch.Tensor:
        """See `zkapex.server.provider.Provider`."""
        return self._world.retain_set.inputs

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """See `zkapex.server.provider.Provider`; on test data."""
        return {
            "forget": accuracy(model, self._world.forget_test),
            "retain": accuracy(model, self._world.retain_test),
        }


def provider(context: Context) -> DigitsProvider:
    """The provider of a simulated run.

    Raises
    ------
    InputError
        Clients are to cheat in a way that is none for the run's operator.
    """
    config = context.run_config
    if int(config["dishonest"]):
        check_cheat(str(config["cheat"]), str(config["operator"]))
    world = scenario(int(config["clients"]), int(config["forget-class"]), int(config["seed"]))
    return DigitsProvider(world, int(config["seed"]), float(config["forget-target"]), float(config["retain-cost"]))


class Keeping:
    """A device of a simulation, whose models before and after are kept for people to look at.

    A real device destroys the model before: only the simulation keeps it, in ``models/`` of the work folder.
    """

    def __init__(self, inner: DeviceAgent, model: Path, folder: Path, index: int) -> None:
        self._inner = inner
        self._model = model
        self._folder = folder
        self._index = index

    def train(self, content: RecordDict) -> RecordDict:
        """See `DeviceAgent`."""
        return self._inner.train(content)

    def answer(self, query: str, content: RecordDict) -> RecordDict:
        """See `DeviceAgent`."""
        reply = self._inner.answer(query, content)
        when = {"enrol": "before", "unlearn": "after"}.get(query)
        if when is not None:
            self._folder.mkdir(exist_ok=True)
            shutil.copyfile(self._model, self._folder / f"client-{self._index:03d}-{when}.npz")
        return reply


def agent(context: Context) -> Keeping:
    """The device of a simulated run, honest or, for the last ``dishonest`` of them, cheating.

    Raises
    ------
    ProtocolError
        The run was started with another number of nodes than of clients.
    """
    config = context.run_config
    index, clients, seed = int(context.node_config["partition-id"]), int(config["clients"]), int(config["seed"])
    if int(context.node_config["num-partitions"]) != clients:
        raise ProtocolError(
            f"the run has {context.node_config['num-partitions']} nodes, but is set up for {clients} clients",
            fix=f"--federation-config 'num-supernodes={clients}', or --run-config 'clients=...'",
        )
    torch.set_num_threads(1)
    world = scenario(clients, int(config["forget-class"]), seed)
    task = DigitsTask(world.clients[index], world, index, seed)
    folder = Path(str(config["work-dir"])) / "devices" / f"{index:03d}"
    workers = max(1, int(config["workers"]))
    if index >= clients - int(config["dishonest"]):
        device = make_cheat(str(config["cheat"]), folder, task, workers)
    else:
        device = DeviceAgent(folder, task, workers)
    return Keeping(device, folder / MODEL, folder.parents[1] / "models", index)


def _tally(model: nn.Module, examples: Examples) -> Tally:
    total = len(examples.labels)
    return Tally(round(accuracy(model, examples) * total), total)

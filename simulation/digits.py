"""The digits scenario: who the provider and the devices are when a run is a simulation of handwritten digits."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, RecordDict
from torch import nn

from zkapex.circuits.statement import StatementSpec
from zkapex.client.agent import DeviceAgent
from zkapex.client.memory import MODEL
from zkapex.client.personalise import FitSettings, fit, personalise
from zkapex.client.task import Tally
from zkapex.errors import ProtocolError
from zkapex.proofs.signing import key_id, load_private_key
from zkapex.server.holder import plan_for_holder
from zkapex.server.provider import Delegation
from zkapex.server.search import FRACTIONS, FixedPoint, Plan, SearchSpace, search
from zkapex.server.steps import OnStep, no_step
from zkapex.simulation.adversaries import check_cheat, make_cheat
from zkapex.simulation.data import ClientData, Examples, Scenario
from zkapex.simulation.held import Request, held_scenario, share_of
from zkapex.simulation.models import target_layers, vision_transformer
from zkapex.simulation.training import LOCAL, accuracy, calibration, provider_copies

DEVICES = "devices"
ALLOWED_LOSSES = 2.0
"""Times what a search may cost, a proposal may cost on the provider's copies: the holder searched on its own."""
LEAST = 0.02
"""Smallest mask of a steered repair, see `zkapex.server.search.SearchSpace`."""
DAMPENING_MARGIN = 0.5
"""In logits, see `zkapex.server.search.SearchSpace`."""


HELD_FRACTIONS = (0.0005, 0.001, *FRACTIONS)
"""Sizes of the mask where only some examples are to be forgotten, and others of their kind stay."""


@lru_cache(maxsize=4)
def scenario(clients: int, request: Request, seed: int) -> Scenario:
    """The scenario, made once per process; it is a function of its arguments."""
    return held_scenario(request, clients, seed)


def request_of(config: Mapping[str, Any]) -> Request:
    """What a run is asked to forget.

    Raises
    ------
    InputError
        It makes no sense.
    """
    request = Request(
        str(config["delete"]), int(config["forget-class"]), int(config["holder"]), int(config["forget-samples"])
    )
    request.check(int(config["clients"]))
    return request


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
    request : Request, optional
        What is to be forgotten, for the client that holds it.
    """

    def __init__(
        self,
        data: ClientData,
        world: Scenario,
        index: int,
        seed: int,
        request: Request = Request(),  # noqa: B008
    ) -> None:
        self._request = request
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
        """See `zkapex.client.task.Task`; on test data, and on what is deleted if that is data of one client."""
        sets = {
            "forget": self._world.forget_test,
            "retain": self._world.retain_test,
            "personal": self._data.personal_test,
        }
        return {name: _tally(model, examples) for name, examples in sets.items()}

    def forget_examples(self) -> Examples:
        """See `zkapex.client.proposal.HoldsForgetSet`."""
        return share_of(self._request, self._world, self._index)

    def retained_examples(self) -> Examples:
        """See `zkapex.client.proposal.HoldsForgetSet`."""
        return self._data.retained

    def personal_examples(self) -> Examples | None:
        """See `zkapex.client.proposal.HoldsForgetSet`."""
        leaves = self._request.delete == "client" and self._index == self._request.holder
        return None if leaves else self._data.personal


class DigitsProvider:
    """The provider of the digits federation, asked to forget one digit, or data of one client.

    Parameters
    ----------
    world : Scenario
    seed : int
    forget_target, retain_cost : float
        What the search for a mask must reach, and may cost. The first is for a digit: where other images of the same
        kind stay, the target is the global model's accuracy on unseen ones.
    request : Request, optional
    devices : Path, optional
        Folder of the simulated devices. Only a simulation can look there for the id of a client.
    """

    name = "vit-digits"
    federation = "digits"

    def __init__(
        self,
        world: Scenario,
        seed: int,
        forget_target: float,
        retain_cost: float,
        request: Request = Request(),  # noqa: B008
        devices: Path | None = None,
    ) -> None:
        self._request = request
        self._devices = devices
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
        if self._request.delete != "class":
            return f"{self._request.words()} in scikit-learn's digits"
        return f"every image of the digit {self._world.forget_class} in scikit-learn's digits"

    def plan(self, model: nn.Module, statement: StatementSpec, on_step: OnStep = no_step) -> Plan:
        """See `zkapex.server.provider.Provider`."""
        space = SearchSpace(least=LEAST, forget_target=self._forget_target, retain_cost=self._retain_cost)
        if statement.kind == "dampening":
            # Without a repair every logit of margin costs personal accuracy: a quarter of it for the usual three.
            space = replace(space, margin=DAMPENING_MARGIN)
        copies = provider_copies(model, self._world, self._seed)
        names = self.target_layers(model)
        return search(copies, names, self._world.forget_set, FixedPoint(statement), space, on_step=on_step)

    def delegate(self, model: nn.Module, statement: StatementSpec) -> Delegation | None:
        """See `zkapex.server.provider.Delegating`."""
        if self._request.holder < 0 or self._devices is None:
            return None
        key = load_private_key(device_folder(self._devices, self._request.holder) / "key.pem")
        space, world = SearchSpace(forget_target=self._forget_target, retain_cost=self._retain_cost), self._world
        if self._request.delete != "class":
            unseen = accuracy(model, world.retain_test)
            # What stays looks like what goes: of two masks the one that looks beyond the repair costs the rest less.
            scorers = ("taylor",) if statement.curvature == "none" else ("aware",)
            space = replace(space, scorers=scorers, forget_target=unseen, margin=0.0, fractions=HELD_FRACTIONS)
            world = replace(world, forget_set=world.forget_set.take(torch.arange(0)))
        return Delegation(
            key_id(key.public_key()),
            space,
            lambda: provider_copies(model, world, self._seed),
            ALLOWED_LOSSES * self._retain_cost,
        )

    def curvature_inputs(self) -> torch.Tensor:
        """See `zkapex.server.provider.Provider`."""
        return self._world.retain_set.inputs

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """See `zkapex.server.provider.Provider`; on test data, and on what is deleted if that is data of one client."""
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
    request, seed = request_of(config), int(config["seed"])
    return DigitsProvider(
        scenario(int(config["clients"]), request, seed),
        seed,
        float(config["forget-target"]),
        float(config["retain-cost"]),
        request,
        Path(str(config["work-dir"])) / DEVICES,
    )


def device_folder(devices: Path, index: int) -> Path:
    """Where a simulated device keeps its state."""
    return devices / f"{index:03d}"


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
    request = request_of(config)
    world = scenario(clients, request, seed)
    task = DigitsTask(world.clients[index], world, index, seed, request)
    folder = device_folder(Path(str(config["work-dir"])) / DEVICES, index)
    workers = max(1, int(config["workers"]))
    if index >= clients - int(config["dishonest"]):
        device = make_cheat(str(config["cheat"]), folder, task, workers, planner=plan_for_holder)
    else:
        device = DeviceAgent(folder, task, workers, planner=plan_for_holder, device=str(config["device"]))
    return Keeping(device, folder / MODEL, folder.parents[1] / "models", index)


def _tally(model: nn.Module, examples: Examples) -> Tally:
    total = len(examples.labels)
    return Tally(round(accuracy(model, examples) * total), total)

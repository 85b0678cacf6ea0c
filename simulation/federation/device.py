"""The devices of a simulated run: what each holds and how it trains, and which of them cheat."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from flwr.app import Context, RecordDict
from torch import nn

from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.agent.common import MAX_MESSAGE_BYTES
from zkapex.client.holder import plan_for_holder
from zkapex.client.state.memory import MODEL
from zkapex.client.task import Tally
from zkapex.errors import ProtocolError
from zkapex.proofs.messages import Delivery, TuneRequest, UnlearnRequest
from zkapex.proofs.records.sealed import restore
from zkapex.simulation.data.digits import Examples
from zkapex.simulation.federation.adversaries import make_cheat
from zkapex.simulation.federation.federation import SimulatedFederation, device_folder, federation_of
from zkapex.simulation.federation.held import share_of
from zkapex.simulation.models.training import accuracy
from zkapex.transport.wire import unpack
from zkapex.unlearning.operators.held import HeldTargets
from zkapex.unlearning.personalise import fit, personalise
from zkapex.unlearning.planning.proxies import calibration


class ScenarioTask:
    """A device that holds one client's share of a scenario's data.

    Parameters
    ----------
    federation : SimulatedFederation
    index : int
        Number of the client.
    deleted : bool
        Whether the client has carried out the federation's request, and has nothing left of what it was about.
    """

    def __init__(self, federation: SimulatedFederation, index: int, deleted: bool = False) -> None:
        self._federation = federation
        self._index = index
        self._deleted = deleted
        self._data = federation.world.clients[index]
        self._share = self._data.retained if deleted else self._data.train

    def without(self, request_ids: Sequence[str]) -> ScenarioTask:
        """See `zkapex.client.task.Forgets`. With a request, what earlier ones were about is gone, too."""
        return ScenarioTask(self._federation.for_request(request_ids[-1]), self._index, deleted=True)

    def for_request(self, request_id: str) -> ScenarioTask:
        """See `zkapex.client.task.ManyRequests`."""
        return ScenarioTask(self._federation.for_request(request_id), self._index)

    def build_model(self) -> nn.Module:
        """See `zkapex.client.task.Task`."""
        return self._federation.config.build(self._federation.bench, self._federation.seed)

    def fit_round(self, model: nn.Module, round_number: int) -> int:
        """See `zkapex.client.task.Task`; as `zkapex.simulation.models.training.federated_averaging` does it."""
        seed = self._federation.seed * 10_000 + (round_number - 1) * 100 + self._index
        fit(model, *self._share, self._federation.config.local, seed)
        return len(self._share.labels)

    def fit_personal(
        self,
        model: nn.Module,
        epochs: int,
        learning_rate: float,
        seed: int,
        hold_zero: Mapping[str, torch.Tensor],
        hold_targets: HeldTargets,
    ) -> int:
        """See `zkapex.client.task.Task`. Replays the client's share, what is still to be forgotten included."""
        settings = replace(self._federation.config.personal, epochs=epochs, learning_rate=learning_rate)
        personalise(
            model, self._data.personal, self._share, seed * 100 + self._index, settings, hold_zero, hold_targets
        )
        return len(self._data.personal.labels) + len(self._share.labels)

    def curvature_inputs(self) -> torch.Tensor:
        """See `zkapex.client.task.Task`."""
        return calibration(self._data.personal, self._share, self._federation.config.replay_share)

    def evaluate(self, model: nn.Module) -> Mapping[str, Tally]:
        """See `zkapex.client.task.Task`; on what `SimulatedFederation.judged` says."""
        return {name: _tally(model, examples) for name, examples in self._federation.judged(self._index).items()}

    def forget_examples(self) -> Examples:
        """See `zkapex.client.agent.proposal.HoldsForgetSet`."""
        return share_of(self._federation.request, self._federation.world, self._index)

    def retained_examples(self) -> Examples:
        """See `zkapex.client.agent.proposal.HoldsForgetSet`."""
        return self._data.retained

    def personal_examples(self) -> Examples | None:
        """See `zkapex.client.agent.proposal.HoldsForgetSet`."""
        return None if self._index == self._federation.leaves else self._data.personal


class Keeping:
    """A device of a simulation, whose models before and after each request are kept for people to look at.

    A real device destroys the model before: only the simulation keeps it, in ``models/`` of the work folder, and for
    requests after the first in ``models/<id>/``.
    """

    def __init__(self, inner: DeviceAgent, model: Path, folder: Path, index: int, first: str) -> None:
        self._inner = inner
        self._model = model
        self._folder = folder
        self._index = index
        self._first = first

    def train(self, content: RecordDict) -> RecordDict:
        """See `DeviceAgent`."""
        return self._inner.train(content)

    def answer(self, query: str, content: RecordDict) -> RecordDict:
        """See `DeviceAgent`."""
        if query not in ("unlearn", "tune"):
            return self._inner.answer(query, content)
        _, blobs = unpack(content, Delivery, MAX_MESSAGE_BYTES)
        kind: type[UnlearnRequest] | type[TuneRequest] = UnlearnRequest if query == "unlearn" else TuneRequest
        request_id = restore(kind, blobs["envelope"]).record.request_id
        folder = self._folder if request_id == self._first else self._folder / request_id
        folder.mkdir(parents=True, exist_ok=True)
        before = folder / f"client-{self._index:03d}-before.npz"
        if query == "unlearn" and not before.exists():  # else it is asked again
            shutil.copyfile(self._model, before)
        reply = self._inner.answer(query, content)
        when = "after" if query == "unlearn" else "tuned"
        shutil.copyfile(self._model, folder / f"client-{self._index:03d}-{when}.npz")
        return reply


def agent(context: Context) -> Keeping:
    """The device of a simulated run, honest or, for the last ``dishonest`` of them, cheating.

    Raises
    ------
    ProtocolError
        The run was started with another number of nodes than of clients.
    InputError
        As `zkapex.simulation.federation.federation.federation_of`.
    """
    config = context.run_config
    index, clients = int(context.node_config["partition-id"]), int(config["clients"])
    if int(context.node_config["num-partitions"]) != clients:
        raise ProtocolError(
            f"the run has {context.node_config['num-partitions']} nodes, but is set up for {clients} clients",
            fix=f"--federation-config 'num-supernodes={clients}', or --run-config 'clients=...'",
        )
    torch.set_num_threads(1)
    task = ScenarioTask(federation_of(config), index)
    work_dir = Path(str(config["work-dir"]))
    folder = device_folder(work_dir, index)
    workers = max(1, int(config["workers"]))
    if index >= clients - int(config["dishonest"]):
        device = make_cheat(str(config["cheat"]), folder, task, workers, planner=plan_for_holder)
    else:
        device = DeviceAgent(folder, task, workers, planner=plan_for_holder, device=str(config["device"]))
    first = str(config["requests"] or config["request-id"]).split(",")[0]
    return Keeping(device, folder / MODEL, work_dir / "models", index, first)


def _tally(model: nn.Module, examples: Examples) -> Tally:
    """Of labels: one for each example, or for each token of one."""
    total = examples.labels.numel()
    return Tally(round(accuracy(model, examples) * total), total)

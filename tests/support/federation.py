"""A federation small enough to be proved in seconds: a perceptron of four chunks, two of them touched by the request.

Everything else is the product's: ServerApp, ClientApp, agents, search, circuit, proofs. Which device misbehaves, how
messages fare and when the server dies is up to the test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from sklearn.datasets import load_digits
from torch import nn

from zkapex.circuits.statement import FACTOR_UNIT, StatementSpec
from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.app import Agent, make_client_app
from zkapex.client.holder import plan_for_holder
from zkapex.client.task import Tally
from zkapex.errors import Error
from zkapex.proofs.records.signing import key_id, load_private_key
from zkapex.server.app import make_server_app
from zkapex.server.events import EventLog
from zkapex.server.federation.provider import Delegation
from zkapex.server.federation.settings import RunSettings
from zkapex.server.service import run
from zkapex.server.store.registry import Registry
from zkapex.simulation.federation.adversaries import make_cheat
from zkapex.transport.grid import InProcessGrid, Network, reliable, run_config_of_app, run_in_process
from zkapex.unlearning.operators.held import HeldTargets
from zkapex.unlearning.personalise import FitSettings, fit, personalise
from zkapex.unlearning.planning.opponent import Opponent
from zkapex.unlearning.planning.search import Copy, FixedPoint, Plan, SearchSpace, search
from zkapex.unlearning.planning.steering import Steer
from zkapex.unlearning.planning.steps import OnStep, no_step

FORGET_CLASS = 3
DATA_SETS = ("forget", "retain", "personal")
LAYERS = ("fc1", "fc2")
TOUCHED = (0, 2)
"""Of the chunks 0, 1 (fc1, side by side) and 2, 3 (fc2, one below the other, the lower one padded)."""
REQUEST = "request-1"
HALO2 = {"backend": "halo2"}
"""Settings of the runs that are about proofs of that backend; all others take the one that is quick."""

Examples = tuple[torch.Tensor, torch.Tensor]


class Perceptron(nn.Module):
    """Digits in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc1 = nn.Linear(64, 64), nn.Linear(64, 32)
        self.fc2, self.head = nn.Linear(32, 40), nn.Linear(40, 10)
        self.norm1, self.norm2 = nn.LayerNorm(64), nn.LayerNorm(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.gelu(self.fc1(self.norm1(self.stem(x))))
        z: torch.Tensor = self.head(nn.functional.gelu(self.fc2(self.norm2(y))))
        return z


def perceptron() -> Perceptron:
    """The same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Perceptron()


@lru_cache(maxsize=1)
def digits() -> Examples:
    bunch = load_digits()
    return torch.tensor(bunch.data / 16, dtype=torch.float32), torch.tensor(bunch.target)


def share(start: int, size: int = 120) -> Examples:
    inputs, labels = digits()
    return inputs[start : start + size], labels[start : start + size]


def only(examples: Examples, kept: torch.Tensor) -> Examples:
    return examples[0][kept], examples[1][kept]


class SmallTask:
    """One device's share: 120 digits, personally seen in negative."""

    def __init__(self, index: int, epochs: int = 30) -> None:
        self.index, self._epochs = index, epochs
        self.fits = 0
        """How often the device has personalised."""
        inputs, labels = share(120 * (index % 7))
        self._replay = (inputs, labels)
        kept = labels != FORGET_CLASS
        self._personal = (1 - inputs[kept], labels[kept])

    def build_model(self) -> nn.Module:
        return perceptron()

    def fit_round(self, model: nn.Module, round_number: int) -> int:
        fit(model, *self._replay, FitSettings(self._epochs, 3e-3), round_number * 100 + self.index)
        return len(self._replay[1])

    def fit_personal(
        self,
        model: nn.Module,
        epochs: int,
        learning_rate: float,
        seed: int,
        hold_zero: Mapping[str, torch.Tensor],
        hold_targets: HeldTargets,
    ) -> int:
        self.fits += 1
        personalise(
            model, self._personal, self._replay, seed, FitSettings(epochs, learning_rate), hold_zero, hold_targets
        )
        return len(self._personal[1])

    def curvature_inputs(self) -> torch.Tensor:
        return self._personal[0]

    def evaluate(self, model: nn.Module) -> Mapping[str, Tally]:
        inputs, labels = share(1400, 300)
        sets = {
            "forget": only((inputs, labels), labels == FORGET_CLASS),
            "retain": only((inputs, labels), labels != FORGET_CLASS),
            "personal": self._personal,
        }
        return {name: _tally(model, examples) for name, examples in sets.items()}


class ForgettingTask(SmallTask):
    """A share whose threes are gone when the request for them has been carried out."""

    def without(self, request_ids: Sequence[str]) -> ForgettingTask:
        assert list(request_ids) == [REQUEST]
        left = ForgettingTask(self.index, self._epochs)
        left._replay = only(self._replay, self._replay[1] != FORGET_CLASS)
        return left


class HoldingTask(SmallTask):
    """A share whose threes are to be forgotten, and sit here alone."""

    def forget_examples(self) -> Examples:
        return only(self._replay, self._replay[1] == FORGET_CLASS)

    def retained_examples(self) -> Examples:
        return only(self._replay, self._replay[1] != FORGET_CLASS)

    def personal_examples(self) -> Examples | None:
        return self._personal


class SmallProvider:
    """Asked to forget the threes, by a mask on two chunks of four."""

    name = "perceptron"
    federation = "small"

    def __init__(self) -> None:
        self.plans = 0
        """How often a plan was made."""

    def initial_model(self) -> nn.Module:
        return perceptron()

    def target_layers(self, model: nn.Module) -> tuple[str, ...]:
        return LAYERS

    def forget_description(self) -> str:
        return f"every {FORGET_CLASS}"

    def plan(self, model: nn.Module, statement: StatementSpec, on_step: OnStep = no_step) -> Plan:
        self.plans += 1
        public = share(900, 400)
        forget = only(public, public[1] == FORGET_CLASS)
        retain = only(public, public[1] != FORGET_CLASS)
        steer = Steer(steps=10, forget_batch=16, retain_batch=32, rehearsal=None)
        space = SearchSpace(
            scorers=("taylor",), fractions=(0.03,), alphas=(2.0,), strengths=(0.25,), steer=steer,
            opponents=(Opponent(steps=4, shots=(), scales=(), forget_batch=16, retain_batch=32),),
        )  # fmt: skip
        copies = [Copy(model, retain[0], retain)]
        found = search(copies, LAYERS, forget, FixedPoint(statement), space, on_step=on_step)
        masks = {name: mask.copy() for name, mask in found.masks.items()}
        masks["fc1"][:, 32:] = False
        masks["fc2"][32:] = False
        factors = {name: np.where(masks[name], values, FACTOR_UNIT) for name, values in found.factors.items()}
        return replace(found, masks=masks, factors=factors)

    def curvature_inputs(self) -> torch.Tensor:
        return share(900, 200)[0]

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        inputs, labels = share(1400, 300)
        parts = {"forget": labels == FORGET_CLASS, "retain": labels != FORGET_CLASS}
        tallies = {name: _tally(model, only((inputs, labels), part)) for name, part in parts.items()}
        return {name: tally.correct / tally.total for name, tally in tallies.items()}


HELD_SPACE = SearchSpace(scorers=("taylor",), fractions=(0.01, 0.02, 0.04), forget_target=0.1, margin=0.0)
"""What a holder is asked to try."""


class DelegatingProvider(SmallProvider):
    """Has no threes: asks the client that holds them for mask and guard."""

    def __init__(self, device: Path, largest_loss: float = 0.2) -> None:
        super().__init__()
        self._device, self._largest_loss = device, largest_loss

    def delegate(self, model: nn.Module, statement: StatementSpec) -> Delegation | None:
        holder = key_id(load_private_key(self._device / "key.pem").public_key())
        retain = only(share(900, 400), share(900, 400)[1] != FORGET_CLASS)
        return Delegation(holder, HELD_SPACE, lambda: [Copy(model, retain[0], retain)], self._largest_loss)


Device = Callable[[int, Path, SmallTask], Agent]
"""Makes the device of one client from its number, folder and task."""


def honest(index: int, folder: Path, task: SmallTask) -> Agent:
    return DeviceAgent(folder, task, workers=1, planner=plan_for_holder)


CHEATERS = ("ignore", "half", "unguarded", "decoy", "replay")


def mixed(index: int, folder: Path, task: SmallTask) -> Agent:
    """Two honest devices, then one for every way to cheat."""
    return honest(index, folder, task) if index < 2 else make_cheat(CHEATERS[index - 2], folder, task, workers=1)


class Altered:
    """A device whose honest answers to one step are altered before they are sent."""

    def __init__(self, inner: Agent, step: str, alter: Callable[[RecordDict], RecordDict]) -> None:
        self.inner, self._step, self._alter = inner, step, alter

    def train(self, content: RecordDict) -> RecordDict:
        return self.inner.train(content)

    def answer(self, query: str, content: RecordDict) -> RecordDict:
        reply = self.inner.answer(query, content)
        return self._alter(reply) if query == self._step else reply


class Died(BaseException):
    """The server process ends here."""


class MortalLog(EventLog):
    """Keeps the events in memory as well, and dies after the first event that `fatal` picks."""

    def __init__(self, work_dir: Path, fatal: Callable[[dict[str, Any]], bool]) -> None:
        super().__init__(work_dir)
        self._fatal = fatal
        self.seen: list[dict[str, Any]] = []

    def emit(self, event: str, **fields: Any) -> None:
        super().emit(event, **fields)
        self.seen.append({"event": event, **fields})
        if self._fatal(self.seen[-1]):
            raise Died(event)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        super().__exit__(kind, None if isinstance(error, Died) else error, traceback)


@dataclass
class Federation:
    """A provider and its devices in a folder; survives any number of `run`."""

    folder: Path
    clients: int = 2
    device: Device = honest
    network: Network = reliable
    settings: dict[str, Any] = field(default_factory=dict)
    epochs: int = 30
    provider: SmallProvider = field(default_factory=SmallProvider)
    task: type[SmallTask] = SmallTask
    asked: list[tuple[int, str]] = field(default_factory=list)
    """(client's number, step) of every message a device acted on."""

    def __post_init__(self) -> None:
        self.tasks = [self.task(index, self.epochs) for index in range(self.clients)]

    @property
    def config(self) -> dict[str, Any]:
        mine = {
            "work-dir": str(self.folder),
            "clients": self.clients,
            "rounds": 1,
            "personal-epochs": 20,
            "personal-lr": 3e-3,
            "operator": "guarded-group-obs",
            "backend": "transparent",
            "batch": 1,
            "timeout-s": 1,
            "request-id": REQUEST,
        }
        return run_config_of_app({**mine, **self.settings})

    def agent(self, index: int) -> Agent:
        return self.device(index, self.state(index), self.tasks[index])

    def state(self, index: int) -> Path:
        return self.folder / "devices" / f"{index:03d}"

    def grid(self) -> InProcessGrid:
        return InProcessGrid(make_client_app(self._watched), self.clients, self.config, self.network)

    def serve(self) -> dict[str, Any]:
        """Run to the end through the real ServerApp; the content of result.json."""
        run_in_process(make_server_app(lambda context: self.provider), self.grid(), self.config)
        return self.result()

    def result(self) -> dict[str, Any]:
        """The content of result.json."""
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return found

    def run(self, fatal: Callable[[dict[str, Any]], bool] = lambda event: False) -> list[dict[str, Any]]:
        """Run until the end or a fatal event; the events of this run. Errors and `Died` are raised."""
        log = MortalLog(self.folder, fatal)
        try:
            with log:
                run(self.grid(), self.provider, RunSettings.from_config(self.config), self.folder, log)
        except Died:
            pass
        return log.seen

    def registry(self) -> Registry:
        return Registry(self.folder / "provider" / "registry.sqlite", self.provider.federation)

    def client_id(self, index: int) -> str:
        return DeviceAgent(self.state(index), self.tasks[index]).client_id

    def row(self, result: Mapping[str, Any], index: int) -> dict[str, Any]:
        """The row of one client in a result."""
        wanted = self.client_id(index)
        return next(row for row in result["clients"] if row["client_id"] == wanted)

    def proofs(self) -> dict[str, int]:
        """When each proof was made, in ns, by its path."""
        return {str(p.relative_to(self.folder)): p.stat().st_mtime_ns for p in self.folder.glob("devices/**/proof.bin")}

    def _watched(self, context: Context) -> Agent:
        index = int(context.node_config["partition-id"])
        federation = self

        class Watched:
            def train(self, content: RecordDict) -> RecordDict:
                federation.asked.append((index, "train"))
                return federation.agent(index).train(content)

            def answer(self, query: str, content: RecordDict) -> RecordDict:
                federation.asked.append((index, query))
                return federation.agent(index).answer(query, content)

        return Watched()


def step_of(message: Message) -> str:
    """The protocol step a message is for."""
    return message.metadata.message_type.removeprefix("query.")


def refused(action: Callable[[], object], kind: type[Error]) -> Error:
    """The error that `action` raises, of exactly this kind."""
    with pytest.raises(Error) as caught:
        action()
    assert type(caught.value) is kind, caught.value.explain()
    return caught.value


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for locks."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@torch.no_grad()
def _tally(model: nn.Module, examples: Examples) -> Tally:
    model.eval()
    return Tally(int((model(examples[0]).argmax(1) == examples[1]).sum()), len(examples[1]))

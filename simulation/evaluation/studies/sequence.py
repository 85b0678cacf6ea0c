"""Deletion requests in a row: what later requests and further personalisation do to what earlier ones removed.

Requests alternate: a class, then a few images of the classes that stay. Each client's weights after one request,
personalised further with the masked weights held at zero, are the weights before the next; a request masks the union of
all masks so far, and its guard is made from its own forget set. The provider's copies go through the same, so that
it searches on models in the state that clients' are in.

Beside guarded Group-OBS the plain operator and the mask alone go through the same masks and the same personalisation.
At the end the oracle is trained without any of what was deleted.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.circuits.profiles import profile
from zkapex.simulation.data.digits import (
    CLASSES,
    Examples,
    Shift,
    client_shift,
    concatenate,
    digits_scenario,
    proxy_shift,
)
from zkapex.simulation.evaluation.deployment import Deployment
from zkapex.simulation.evaluation.metrics.membership import separation, signals
from zkapex.simulation.evaluation.preparation import federated
from zkapex.simulation.evaluation.shelf import Shelf
from zkapex.simulation.models.tiny import target_layers
from zkapex.simulation.models.training import accuracy
from zkapex.simulation.scenarios import Bench, ScenarioConfig, Sources
from zkapex.storage import load_arrays, load_json, save_arrays, save_text
from zkapex.unlearning.personalise import FitSettings, personalise
from zkapex.unlearning.planning.proxies import calibration
from zkapex.unlearning.planning.search import Copy, FixedPoint, Outcome, Plan, search

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
BETWEEN = FitSettings(epochs=2, learning_rate=1e-3)
CHAINS = ("guarded-group-obs", "group-obs", "mask-only")


@dataclass(frozen=True)
class SequenceStudy:
    """Requests in a row on the digits of scikit-learn.

    Attributes
    ----------
    name, title : str
    base : ScenarioConfig
        Model, training, personalisation, circuit, number of proxies, and the search for the mask of a class.
    classes : int
        How many of the ten digits are deleted, each followed by a request for images.
    images : int
        How many images of the digits that stay a request deletes.
    image_fraction : float
        Share of the weights masked for them. There is no accuracy that forgetting a few images has to come down to.
    between : FitSettings
        Personalisation after every request, on what is not deleted.
    """

    name: str
    title: str
    base: ScenarioConfig
    classes: int = 5
    images: int = 25
    image_fraction: float = 0.005
    between: FitSettings = BETWEEN
    kind: str = "sequence"

    def run(self, seed: int, folder: Path, on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """See `zkapex.simulation.evaluation.studies.Study`."""
        start = Start.of(self, seed, folder, on_event)
        world, shelf, theta_0 = start.world, start.shelf, start.theta_0
        names = tuple(target_layers(theta_0))
        ranks = self.base.space.guard_ranks
        statement = profile(self.base.profile).statement(guard_rank=max(ranks) if ranks else None)
        deployment = Deployment.of(theta_0, names, FixedPoint(statement))
        own = [deployment.deploy(m) for m in start.own]
        copies = [deployment.deploy(m) for m in (theta_0, *start.proxies)]
        last = len(world.requests)
        before = {chain: {"after": world.measure(own, last)} for chain in CHAINS}
        steps: list[Any] = [{"step": 0, "request": "before", **_facts(None, {}), "chains": before}]
        chains = dict.fromkeys(CHAINS, own)
        masks: dict[str, BoolArray] = {}
        for step in range(1, last + 1):
            advance = _Step(self, world, deployment, seed, step, folder)
            models = shelf.models(f"step-{step:02}", partial(advance.make, chains, copies, masks))
            each = len(own)
            chains = {chain: models[i * each : (i + 1) * each] for i, chain in enumerate(CHAINS)}
            copies = models[len(CHAINS) * each :]
            masks = {name: mask.astype(np.bool_) for name, mask in load_arrays(advance.arrays).items()}
            steps.append(load_json(advance.text))
        retrained = [deployment.deploy(m) for m in start.oracle()]
        return {"note": start.note, "steps": steps, "oracle": world.measure(retrained, last), "seconds": shelf.seconds}


class InARow(Protocol):
    """What a study of requests in a row says about them."""

    @property
    def base(self) -> ScenarioConfig:
        """Model, training, personalisation, circuit, number of proxies."""
        ...

    @property
    def classes(self) -> int:
        """How many of the ten digits are deleted, each followed by a request for images."""
        ...

    @property
    def images(self) -> int:
        """How many images of the digits that stay a request deletes."""
        ...


@dataclass(frozen=True)
class Start:
    """What requests in a row start from, and what they are compared with in the end.

    Attributes
    ----------
    study : InARow
    seed : int
    world : World
    bench : Bench
    shelf : Shelf
        Where models are kept.
    theta_0 : nn.Module
        The global model before any request.
    own, proxies : tuple of nn.Module
        Of the clients and of the provider.
    """

    study: InARow
    seed: int
    world: World
    bench: Bench
    shelf: Shelf
    theta_0: nn.Module
    own: tuple[nn.Module, ...]
    proxies: tuple[nn.Module, ...]

    @classmethod
    def of(cls, study: InARow, seed: int, folder: Path, on_event: Callable[[dict[str, Any]], None]) -> Start:
        """Made, or as an earlier run has kept it."""
        world, bench = World.make(study, seed), study.base.make(seed, Sources())
        shelf = Shelf(partial(study.base.build, bench), seed, folder, on_event)
        (theta_0,) = shelf.models("train", lambda: [federated(study.base, bench, seed, world.train(0))])
        own = shelf.models("personalise", lambda: personalised(study, world, theta_0, seed, 0))
        proxies = shelf.models("proxies", lambda: proxies_of(study, world, theta_0, seed))
        return cls(study, seed, world, bench, shelf, theta_0, tuple(own), tuple(proxies))

    @property
    def note(self) -> str:
        """What is deleted, in words."""
        return f"digits {', '.join(str(c) for c in self.world.deleted)}, each followed by {self.study.images} images"

    def oracle(self) -> list[nn.Module]:
        """The clients' models, trained and personalised without anything that is deleted."""
        last = len(self.world.requests)

        def trained() -> list[nn.Module]:
            model = federated(self.study.base, self.bench, self.seed, self.world.train(last))
            return personalised(self.study, self.world, model, self.seed, last)

        return self.shelf.models("retrain", trained)


def personalised(study: InARow, world: World, model: nn.Module, seed: int, step: int) -> list[nn.Module]:
    """A model personalised on every client, on what is left after so many requests."""
    models = []
    for index in range(len(world.clients)):
        own = copy.deepcopy(model)
        personalise(own, world.personal(index, step), world.train(step)[index], seed * 100 + index, study.base.personal)
        models.append(own)
    return models


def proxies_of(study: InARow, world: World, model: nn.Module, seed: int) -> list[nn.Module]:
    """The provider's proxies before any request."""
    models = []
    for index in range(study.base.proxies):
        own = copy.deepcopy(model)
        personal, replay, _ = world.proxy(index, 0)
        personalise(own, personal, replay, seed * 100 + index, study.base.personal)
        models.append(own)
    return models


@dataclass(frozen=True)
class World:
    """Who holds what, and what is asked to be deleted.

    Attributes
    ----------
    clients : tuple of Examples
        Each client's training images, of all classes.
    shifts : tuple of Shift
        How each sees the world.
    test : Examples
        Nobody trained on these; of all classes.
    deleted : tuple of int
        Classes that are deleted, in order.
    requests : tuple of tuple of bool tensors
        For every request, which of each client's images it is about.
    orders : tuple of tensors
        For every proxy, the order in which it draws from all training images.
    """

    clients: tuple[Examples, ...]
    shifts: tuple[Shift, ...]
    test: Examples
    deleted: tuple[int, ...]
    requests: tuple[tuple[torch.Tensor, ...], ...]
    orders: tuple[torch.Tensor, ...]

    @classmethod
    def make(cls, study: InARow, seed: int) -> World:
        """The world of a seed: which classes and images are deleted, and when, depends on it."""
        scenario = digits_scenario(4, 0, seed)
        clients = tuple(client.train for client in scenario.clients)
        generator = torch.Generator().manual_seed(seed)
        deleted = tuple(int(c) for c in torch.randperm(CLASSES, generator=generator)[: study.classes])
        labels = torch.cat([client.labels for client in clients])
        staying = torch.tensor([int(label) not in deleted for label in labels]).nonzero()[:, 0]
        staying = staying[torch.randperm(len(staying), generator=generator)]
        ends = torch.tensor([len(client.labels) for client in clients]).cumsum(0)[:-1]
        requests = []
        for number, label in enumerate(deleted):
            images = torch.zeros(len(labels), dtype=torch.bool)
            images[staying[number * study.images : (number + 1) * study.images]] = True
            requests += [torch.tensor_split(labels == label, ends), torch.tensor_split(images, ends)]
        orders = tuple(torch.randperm(len(labels), generator=generator) for _ in range(study.base.proxies))
        shifts = tuple(client_shift(index) for index in range(len(clients)))
        test = concatenate(scenario.retain_test, scenario.forget_test)
        return cls(clients, shifts, test, deleted, tuple(requests), orders)

    def train(self, step: int) -> list[Examples]:
        """What is left of every client's images after so many requests."""
        gone = self._gone(step)
        return [client.take(~g) for client, g in zip(self.clients, gone, strict=True)]

    def forget(self, step: int) -> Examples:
        """What request `step`, from 1 on, is about."""
        return concatenate(*(c.take(r) for c, r in zip(self.clients, self.requests[step - 1], strict=True)))

    def personal(self, index: int, step: int) -> Examples:
        """What is left of a client's personal images; they never showed a class that will be deleted."""
        return self.shifts[index](self.staying(self.train(step)[index]))

    def proxy(self, index: int, step: int) -> tuple[Examples, Examples, Examples]:
        """A proxy's personal and replayed images, and the personal ones it is judged on."""
        size = len(self.clients[0].labels)
        everything, gone = concatenate(*self.clients), torch.cat(self._gone(step))
        parts = []
        for chosen in (self.orders[index][:size], self.orders[index][size : 2 * size]):
            parts.append(everything.take(chosen[~gone[chosen]]))
        shift = proxy_shift(index)
        return shift(self.staying(parts[0])), parts[0], shift(self.staying(parts[1]))

    def staying(self, examples: Examples) -> Examples:
        """Those of classes that are never deleted."""
        return examples.take(torch.tensor([int(label) not in self.deleted for label in examples.labels]))

    def measure(self, models: Sequence[nn.Module], step: int) -> dict[str, float]:
        """Mean over clients, on what the requests up to this one delete and leave.

        ``forget_acc``: training images of all classes deleted so far; ``image_acc``: of all images
        deleted one by one so far, and ``image_auc`` how well confidence tells them from unseen ones; ``retain_acc``:
        training images of the digits that stay; ``test_acc`` and ``personal_acc``: unseen ones of those.
        """
        classes = [self.forget(s) for s in range(1, step + 1, 2)]
        images = [self.forget(s) for s in range(2, step + 1, 2)]
        retain, test = self.staying(concatenate(*self.train(step))), self.staying(self.test)
        rows = []
        for model, shift in zip(models, self.shifts, strict=True):
            row = {"retain_acc": accuracy(model, retain), "test_acc": accuracy(model, test)}
            row["personal_acc"] = accuracy(model, shift(test))
            row["forget_acc"] = accuracy(model, concatenate(*classes))
            if images:
                gone = concatenate(*images)
                row["image_acc"] = accuracy(model, gone)
                row["image_auc"] = separation(signals(model, gone).log_odds, signals(model, test).log_odds).auc
            rows.append(row)
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

    def _gone(self, step: int) -> list[torch.Tensor]:
        gone = [torch.zeros(len(client.labels), dtype=torch.bool) for client in self.clients]
        for request in self.requests[:step]:
            gone = [g | r for g, r in zip(gone, request, strict=True)]
        return gone


@dataclass(frozen=True)
class _Step:
    """One request, on all clients and copies, and the personalisation after it."""

    study: SequenceStudy
    world: World
    deployment: Deployment
    seed: int
    step: int
    folder: Path

    @property
    def arrays(self) -> Path:
        """Where the union of masks is kept."""
        return self.folder / f"step-{self.step:02}-masks.npz"

    @property
    def text(self) -> Path:
        """Where the numbers are kept."""
        return self.folder / f"step-{self.step:02}.json"

    def make(
        self, chains: Mapping[str, Sequence[nn.Module]], copies: Sequence[nn.Module], masks: Mapping[str, BoolArray]
    ) -> list[nn.Module]:
        """Models of all chains, then the provider's copies, before the next request."""
        plan = self._plan(copies, masks)
        held = {name: torch.from_numpy(mask) for name, mask in plan.masks.items()}
        numbers, models = {}, []
        for chain, before in chains.items():
            after = [self._unlearn(chain, model, index, plan) for index, model in enumerate(before)]
            numbers[chain] = {"after": self.world.measure(after, self.step)}
            later = [self._go_on(m, self._client(i, self.step), i, held) for i, m in enumerate(after)]
            numbers[chain]["later"] = self.world.measure(later, self.step)
            models += later
        for index, model in enumerate(copies):
            deployed = self.deployment.unlearned(model, plan.terms, self._calibration(index, self.step - 1))
            if index:
                personal, replay, _ = self.world.proxy(index - 1, self.step)
                deployed = self._go_on(deployed, (personal, replay), 50 + index, held)
            models.append(deployed)
        label = f"digit {self.world.deleted[self.step // 2]}" if self.step % 2 else f"{self.study.images} images"
        facts = {"step": self.step, "request": label, **_facts(plan.chosen, plan.masks), "chains": numbers}
        save_arrays(self.arrays, dict(plan.masks))
        save_text(self.text, json.dumps(facts, indent=1))
        return models

    def _plan(self, copies: Sequence[nn.Module], masks: Mapping[str, BoolArray]) -> Plan:
        base = self.study.base
        rest = concatenate(*self.world.train(self.step))
        order = torch.randperm(len(rest.labels), generator=torch.Generator().manual_seed(self.seed))
        retain = rest.take(order[: base.search_retain])
        trials = []
        for index, model in enumerate(copies):
            personal = self.world.proxy(index - 1, self.step)[2] if index else None
            trials.append(Copy(model, self._calibration(index, self.step - 1), retain, personal))
        space = base.space
        if self.step % 2 == 0:
            # A few images of classes that stay are to be answered like unseen ones, not wrongly: nothing to steer to.
            space = replace(space, fractions=(self.study.image_fraction,), least=0.0, steer=None)
        forget = self.world.forget(self.step)
        return search(trials, self.deployment.names, forget, self.deployment.encoding, space, masks)

    def _calibration(self, index: int, step: int) -> torch.Tensor:
        """Of the provider's copies: the global model, then proxies."""
        if not index:
            return concatenate(*self.world.train(step)).inputs
        personal, replay, _ = self.world.proxy(index - 1, step)
        return calibration(personal, replay, self.study.base.replay_share)

    def _client(self, index: int, step: int) -> tuple[Examples, Examples]:
        return self.world.personal(index, step), self.world.train(step)[index]

    def _unlearn(self, chain: str, model: nn.Module, index: int, plan: Plan) -> nn.Module:
        if chain == "mask-only":
            return self.deployment.masked(model, plan.masks)
        inputs = calibration(*self._client(index, self.step - 1), self.study.base.replay_share)
        if chain == "group-obs":
            return self.deployment.unlearned(model, plan.terms.unguarded(), inputs)
        return self.deployment.unlearned(model, plan.terms, inputs)

    def _go_on(
        self, model: nn.Module, data: tuple[Examples, Examples], index: int, held: Mapping[str, torch.Tensor]
    ) -> nn.Module:
        """A deployed model after some more personalisation, deployed."""
        own = copy.deepcopy(model)
        personalise(own, *data, self.seed * 10_000 + self.step * 100 + index, self.study.between, held)
        return self.deployment.deploy(own)


def _facts(chosen: Outcome | None, masks: Mapping[str, BoolArray]) -> dict[str, Any]:
    total = sum(mask.size for mask in masks.values())
    masked = sum(int(mask.sum()) for mask in masks.values())
    return {"density": masked / total if total else 0.0, "chosen": None if chosen is None else asdict(chosen)}

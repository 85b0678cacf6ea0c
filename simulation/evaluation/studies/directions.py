"""Deletion requests in a row, each along directions of its own that stay, and attacks on every one of them at the end.

Requests alternate, as in `zkapex.simulation.evaluation.studies.sequence`: a class, then a few images of the classes
that stay, which are to be answered like images that nobody trained on. Clients start each request from what they hold
after the last one, and train on after it with the targets of all requests so far held. So do the provider's copies.
At the end every deleted class is attacked in the clients' models, with what the last receipt holds and with a few
examples, and so it is in the oracle's, which was trained without anything that was deleted.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from zkapex.circuits.profiles import profile
from zkapex.proofs.chunk.demands import Along, Demands, Key
from zkapex.server.requests.plan import StoredPlan, save_plan
from zkapex.simulation.data.digits import Examples, concatenate
from zkapex.simulation.evaluation.deployment import Deployment
from zkapex.simulation.evaluation.metrics.kshot import SHOTS, kshot
from zkapex.simulation.evaluation.metrics.undo import LOSSES, Public, best, undo
from zkapex.simulation.evaluation.seeds import OnEvent
from zkapex.simulation.evaluation.studies.sequence import Start, World
from zkapex.simulation.models.tiny import target_layers
from zkapex.simulation.models.training import trained_contrast
from zkapex.simulation.scenarios import ScenarioConfig
from zkapex.storage import load_json, save_text
from zkapex.unlearning.operators import Terms
from zkapex.unlearning.personalise import fit
from zkapex.unlearning.planning.opponent import Opponent
from zkapex.unlearning.planning.proxies import calibration
from zkapex.unlearning.planning.search import Copy, FixedPoint, Plan, search
from zkapex.unlearning.planning.standing import Standing
from zkapex.unlearning.planning.trials import Contrast

OPERATOR, HOLDING = "targeted-group-obs", "constraint-only"
_CAP = 500
"""Examples of each kind that an attack is judged by, at most."""


@dataclass(frozen=True)
class DirectionsStudy:
    """Requests in a row on the digits of scikit-learn, by targets.

    Attributes
    ----------
    name, title : str
    base : ScenarioConfig
        Model, training, personalisation, circuit, number of proxies, layers with targets, and training on.
    classes : int
        How many of the ten digits are deleted, each followed by a request for images.
    images : int
        How many images of the digits that stay a request deletes.
    against_class, against_images : Opponent
        What targets are planned against.
    """

    name: str
    title: str
    base: ScenarioConfig
    classes: int = 5
    images: int = 25
    against_class: Opponent = Opponent()  # noqa: RUF009 - frozen
    against_images: Opponent = Opponent(rank=1, shots=(), prototypes=0.0, steps=100)  # noqa: RUF009 - frozen
    kind: str = "directions"

    @property
    def guard_rank(self) -> int:
        """Directions of a block that all requests need."""
        return self.classes * (self.against_class.rank + self.against_images.rank)

    def run(self, seed: int, folder: Path, on_event: OnEvent) -> dict[str, Any]:
        """See `zkapex.simulation.evaluation.studies.Study`."""
        start = Start.of(self, seed, folder, on_event)
        world, shelf, theta_0, own = start.world, start.shelf, start.theta_0, start.own
        build = partial(self.base.build, start.bench)
        statement = profile(self.base.profile).statement(OPERATOR, guard_rank=self.guard_rank)
        names = tuple(target_layers(theta_0, self.base.targeted))
        deployment = Deployment.of(theta_0, names, FixedPoint(statement))
        models = [deployment.deploy(m) for m in (*own, theta_0, *start.proxies)]
        last = len(world.requests)
        steps = [{"step": 0, "request": "before", "after": world.measure(models[: len(own)], last)}]
        plans: list[StoredPlan] = []
        for number in range(1, last + 1):
            step = _Step(self, world, deployment, seed, number, folder)
            untaught = partial(step.contrast, build)
            plans.append(shelf.plan(partial(step.plan, models[len(own) :], plans[-1:], untaught), step.name))
            terms = plans[-1].terms
            models = shelf.models(f"{step.name}-models", partial(step.carry_out, models, len(own), terms))
            steps.append(load_json(step.text))
        retrained = [deployment.deploy(m) for m in start.oracle()]
        public = Public.of(plans[-1].terms, deployment.exponents, deployment.encoding.block_width)
        text = folder / "attacked.json"
        if not text.exists():
            on_event({"event": "stage", "stage": "attack", "seed": seed})
            unlearned = models[: len(own)]
            found = {name: _attacked(self, world, m, public, seed) for name, m in
                     {"unlearned": unlearned, "oracle": retrained}.items()}  # fmt: skip
            save_text(text, json.dumps(found, indent=1))
        return {
            "note": start.note, "steps": steps, "oracle": world.measure(retrained, last), "attacked": load_json(text),
            "directions": self.guard_rank, "layers": len(names),
            "width": deployment.encoding.block_width, "seconds": shelf.seconds,
        }  # fmt: skip


@dataclass(frozen=True)
class _Step:
    """One request, on all clients and copies, and the training after it."""

    study: DirectionsStudy
    world: World
    deployment: Deployment
    seed: int
    step: int
    folder: Path

    @property
    def name(self) -> str:
        """Of its stage."""
        return f"step-{self.step:02}"

    @property
    def text(self) -> Path:
        """Where the numbers are kept."""
        return self.folder / f"{self.name}.json"

    def contrast(self, build: Any) -> Contrast:
        """Two models that differ in nothing but the images that are to go."""
        left, gone = concatenate(*self.world.train(self.step)), self.world.forget(self.step)
        return trained_contrast(partial(build, self.seed + 1), left, gone, self.seed, self.study.base.shadow)

    def plan(self, copies: Sequence[nn.Module], earlier: Sequence[StoredPlan], untaught: Any) -> StoredPlan:
        """What the provider finds on its copies, beside all that was prescribed before."""
        study, images = self.study, self.step % 2 == 0
        rest = concatenate(*self.world.train(self.step))
        order = torch.randperm(len(rest.labels), generator=torch.Generator().manual_seed(self.seed))
        retain = rest.take(order[: study.base.search_retain])
        trials = []
        for index, model in enumerate(copies):
            personal = self.world.proxy(index - 1, self.step)[2] if index else None
            trials.append(Copy(model, self._calibration(index), retain, personal))
        opponent = study.against_images if images else study.against_class
        space = replace(study.base.space, opponents=(opponent,))
        along = _along(earlier[-1].terms) if earlier else {}
        standing = Standing(self.deployment.exponents, Demands(along=along))
        found: Plan = search(
            trials, self.deployment.names, self.world.forget(self.step), self.deployment.encoding, space,
            contrast=untaught() if images else None, standing=standing,
        )  # fmt: skip
        place = self.folder / self.name
        place.mkdir(exist_ok=True)
        return save_plan(place, found)

    def carry_out(self, models: Sequence[nn.Module], clients: int, terms: Terms) -> list[nn.Module]:
        """All models after the request, trained on with everything held; the numbers on the way."""
        at_once, later = [], []
        for index, model in enumerate(models):
            data, inputs = self._data(index, clients, self.step), self._data(index, clients, self.step - 1)
            curvature = calibration(*inputs, self.study.base.replay_share)
            at_once.append(self.deployment.unlearned(model, terms, curvature, OPERATOR))
            own = copy.deepcopy(at_once[-1])
            held = terms.held(self.deployment.exponents).targets
            fit(own, *concatenate(*data), self.study.base.tuned, self.seed * 10_000 + self.step * 100 + index,
                hold_targets=held)  # fmt: skip
            later.append(self.deployment.unlearned(own, terms, curvature, HOLDING))
        label = f"digit {self.world.deleted[self.step // 2]}" if self.step % 2 else f"{self.study.images} images"
        facts = {
            "step": self.step, "request": label,
            "after": self.world.measure(at_once[:clients], self.step),
            "later": self.world.measure(later[:clients], self.step),
        }  # fmt: skip
        save_text(self.text, json.dumps(facts, indent=1))
        return later

    def _data(self, index: int, clients: int, step: int) -> tuple[Examples, Examples]:
        """Personal and other examples of a client, the global model or a proxy, after so many requests."""
        left = self.world.train(step)
        if index < clients:
            return self.world.personal(index, step), left[index]
        if index == clients:
            everything = concatenate(*left)
            return everything.take(torch.arange(0)), everything
        return self.world.proxy(index - clients - 1, step)[:2]

    def _calibration(self, index: int) -> torch.Tensor:
        """Of the provider's copies: the global model, then proxies."""
        personal, replay = self._data(index + len(self.world.clients), len(self.world.clients), self.step - 1)
        return calibration(personal, replay, self.study.base.replay_share if index else 1.0)


def _along(terms: Terms) -> dict[Key, Along]:
    return {(name, block): Along.of(terms.guards[name][block], one) for (name, block), one in terms.targets.items()}


def _attacked(
    study: DirectionsStudy, world: World, models: Sequence[nn.Module], public: Public, seed: int
) -> list[dict[str, Any]]:
    """Of every deleted class, the mean over models of what attacks bring back."""
    last = len(world.requests)
    retain = _some(world.staying(concatenate(*world.train(last))), seed, study.base.retain_cap)
    found = []
    for number, label in enumerate(world.deleted):
        forget = _some(world.forget(2 * number + 1), seed)
        rows: list[Mapping[str, Any]] = []
        for index, model in enumerate(models):
            others = [one for one in models if one is not model]
            tried = undo(model, others, public, forget, retain, label)
            own = concatenate(world.personal(index, last), world.train(last)[index])
            curve = kshot(model, forget, own, seed * 100 + index, study.base.few_shot)
            rows.append({"forget": tried[0].forget, "undone": best(tried, LOSSES[0]).forget,
                         "undone_5": best(tried, LOSSES[1]).forget, **curve})  # fmt: skip
        mean = {name: fmean(row[name] for row in rows) for name in rows[0]}
        shots = {str(k): mean.pop(str(k)) for k in SHOTS}
        found.append({"digit": label, **mean, "kshot": shots})
    return found


def _some(examples: Examples, seed: int, most: int = _CAP) -> Examples:
    order = torch.randperm(len(examples.labels), generator=torch.Generator().manual_seed(seed))
    return examples.take(order[: min(most, _CAP)])

"""What all methods of one seed share: the federation before the deletion, the oracle, the plan, the shadow models.

It is trained once and kept in the evaluation's folder, so that an interrupted evaluation goes on where it was.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.circuits.profiles import profile
from zkapex.client.personalise import fit, personalise
from zkapex.errors import StorageError
from zkapex.server.planning import StoredPlan, load_plan, save_plan
from zkapex.server.search import FixedPoint, SearchSpace, search
from zkapex.server.steps import Step
from zkapex.server.storage import load_arrays, load_json, save_arrays, save_text
from zkapex.simulation.baselines import Case
from zkapex.simulation.data import ClientData, Examples, concatenate
from zkapex.simulation.deployment import Deployment
from zkapex.simulation.metrics import Yardstick
from zkapex.simulation.metrics.membership import Shadows, Signals, shadow_halves, signals
from zkapex.simulation.models import target_layers
from zkapex.simulation.scenarios import Bench, ScenarioConfig
from zkapex.simulation.training import calibration, federated_averaging, provider_copies

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Prepared:
    """One seed, ready for any method.

    Attributes
    ----------
    bench : Bench
    cases : tuple of Case
        One per client.
    yardstick : Yardstick
    seconds : mapping of str to float
        Wall-clock time of every stage when it was first done.
    """

    bench: Bench
    cases: tuple[Case, ...]
    yardstick: Yardstick
    seconds: Mapping[str, float]

    def plan_facts(self) -> dict[str, Any]:
        """The chosen mask, its density per layer, and the search's curve, for reports."""
        plan = self.cases[0].plan
        return {
            "chosen": plan.chosen,
            "curve": list(plan.curve),
            "density": {name: float(mask.mean()) for name, mask in plan.masks.items()},
            "weights": sum(int(mask.size) for mask in plan.masks.values()),
        }


def prepare(config: ScenarioConfig, bench: Bench, seed: int, folder: Path, on_event: OnEvent) -> Prepared:
    """Train and plan whatever `folder` does not hold yet.

    Raises
    ------
    StorageError
        The folder cannot be written, or holds something damaged.
    RangeExceededError
        No mask of the search stays within the circuit's range.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(f"cannot use {folder}", why=str(e), fix="choose another --out") from e
    shelf = Shelf(partial(config.build, bench), seed, folder, on_event)
    world = bench.world
    model, own, deployment = before_deletion(config, bench, seed, shelf)
    retrained = shelf.models("retrain", lambda: _oracle(config, seed, bench))
    plan = shelf.plan(lambda: searched(config, bench, seed, deployment, model, folder, on_event))
    shadows = shelf.shadows(lambda: _shadows(config, bench, seed))
    cases = tuple(
        Case(
            before=deployment.deploy(before),
            retrained=deployment.deploy(oracle),
            forget=world.forget_set,
            retain=concatenate(client.personal, client.retained),
            calibration=calibration(client.personal, client.train, config.replay_share),
            plan=plan,
            deployment=deployment,
            seed=seed * 100 + index,
        )
        for index, (client, before, oracle) in enumerate(zip(world.clients, own, retrained, strict=True))
    )
    order = torch.randperm(len(world.retain_set.labels), generator=torch.Generator().manual_seed(seed))
    retain = world.retain_set.take(order[: config.retain_cap])
    return Prepared(bench, cases, Yardstick(bench, retain, shadows, config.relearn), shelf.seconds)


class Shelf:
    """Results of stages, made once and kept on disk with the time they took."""

    def __init__(self, build: Callable[[int], nn.Module], seed: int, folder: Path, on_event: OnEvent) -> None:
        self._build, self._seed, self._folder, self._on_event = build, seed, folder, on_event
        self.seconds: dict[str, float] = {}

    def arrays(
        self, stage: str, make: Callable[[], dict[str, npt.NDArray[np.generic]]]
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays of a stage. Raises StorageError if its file is damaged."""
        path = self._folder / f"{stage}.npz"
        if not path.exists():
            self._on_event({"event": "stage", "stage": stage, "seed": self._seed})
            start = time.perf_counter()
            made = make()
            save_arrays(path, {**made, "seconds": np.array(time.perf_counter() - start)})
        found = load_arrays(path)
        if "seconds" not in found:
            raise StorageError(f"{path} is damaged", fix="delete it and run again")
        self.seconds[stage] = float(found.pop("seconds"))
        return found

    def models(self, stage: str, make: Callable[[], Sequence[nn.Module]]) -> list[nn.Module]:
        """Models of a stage, in order. Raises StorageError if its file is damaged.

        Only what training changed is kept: most of a pretrained model may be frozen.
        """
        fresh = self._build(self._seed)

        def states() -> dict[str, npt.NDArray[np.generic]]:
            start, made = fresh.state_dict(), make()
            changed = {
                f"{index}/{name}": value.numpy()
                for index, model in enumerate(made)
                for name, value in model.state_dict().items()
                if not torch.equal(value, start[name])
            }
            return {**changed, "models": np.array(len(made))}

        found = self.arrays(stage, states)
        models: list[nn.Module] = []
        path = self._folder / f"{stage}.npz"
        try:
            for index in range(int(found.pop("models"))):
                model, prefix = copy.deepcopy(fresh), f"{index}/"
                state = {n.removeprefix(prefix): torch.from_numpy(a) for n, a in found.items() if n.startswith(prefix)}
                model.load_state_dict({**model.state_dict(), **state})
                models.append(model.eval())
        except (KeyError, RuntimeError) as e:
            raise StorageError(f"{path} is damaged", why=str(e)[:300], fix="delete it and run again") from e
        return models

    def shadows(self, make: Callable[[], Shadows]) -> Shadows:
        """Shadow models' signals. Raises StorageError if their file is damaged."""

        def arrays() -> dict[str, npt.NDArray[np.generic]]:
            made = make()
            return {**vars(made.signals), "trained_on": made.trained_on}

        found = self.arrays("shadows", arrays)
        try:
            odds, likelihood = (found[name].astype(np.float64) for name in ("log_odds", "log_likelihood"))
            return Shadows(Signals(odds, likelihood), found["trained_on"].astype(np.bool_))
        except KeyError as e:
            path = self._folder / "shadows.npz"
            raise StorageError(f"{path} is damaged", why=f"it lacks {e}", fix="delete it and run again") from e

    def plan(self, make: Callable[[], StoredPlan]) -> StoredPlan:
        """The plan. Raises StorageError if its file is damaged."""
        path = self._folder / "plan-seconds.json"
        if not path.exists():
            self._on_event({"event": "stage", "stage": "plan", "seed": self._seed})
            start = time.perf_counter()
            make()
            save_text(path, str(time.perf_counter() - start))
        self.seconds["plan"] = float(load_json(path))
        plan = load_plan(self._folder)
        if plan is None:
            raise StorageError(f"the plan in {self._folder} is gone", fix=f"delete {path} and run again")
        return plan


def before_deletion(
    config: ScenarioConfig, bench: Bench, seed: int, shelf: Shelf
) -> tuple[nn.Module, list[nn.Module], Deployment]:
    """The global model, the clients' own ones, and how models are deployed in a scenario.

    Raises
    ------
    StorageError
        The shelf cannot be written, or holds something damaged.
    """
    clients = bench.world.clients
    (model,) = shelf.models("train", lambda: [federation(config, bench, seed, [c.train for c in clients])])
    own = shelf.models("personalise", lambda: personalised(config, seed, model, clients))
    ranks = config.space.guard_ranks
    statement = profile(config.profile).statement(guard_rank=max(ranks) if ranks else None)
    names = tuple(target_layers(model, bench.targets))
    return model, own, Deployment.of(model, names, FixedPoint(statement))


def federation(config: ScenarioConfig, bench: Bench, seed: int, parts: Sequence[Examples]) -> nn.Module:
    """A global model, by federated averaging over clients with these examples."""
    model = config.build(bench, seed)
    federated_averaging(model, parts, seed, config.rounds, config.local)
    return model


def personalised(
    config: ScenarioConfig, seed: int, model: nn.Module, clients: Sequence[ClientData], *, deleted: bool = False
) -> list[nn.Module]:
    """A global model personalised on every client, before or after the deletion."""
    models = []
    for index, client in enumerate(clients):
        own = copy.deepcopy(model)
        replay = client.retained if deleted else client.train
        personalise(own, client.personal, replay, seed * 100 + index, config.personal)
        models.append(own)
    return models


def _oracle(config: ScenarioConfig, seed: int, bench: Bench) -> list[nn.Module]:
    world = bench.world
    model = federation(config, bench, seed, [client.retained for client in world.clients])
    return personalised(config, seed, model, world.clients, deleted=True)


def searched(
    config: ScenarioConfig,
    bench: Bench,
    seed: int,
    deployment: Deployment,
    model: nn.Module,
    place: Path,
    on_event: OnEvent,
    space: SearchSpace | None = None,
) -> StoredPlan:
    """What the provider of a scenario finds in its search space or another one, stored in a folder.

    Raises
    ------
    RangeExceededError
        As `zkapex.server.search.search`.
    """
    world, space = bench.world, space or config.space
    copies = provider_copies(
        model, world, seed, config.proxies, config.personal, config.search_retain, config.replay_share
    )
    order = torch.randperm(len(world.forget_set.labels), generator=torch.Generator().manual_seed(seed))
    forget = world.forget_set.take(order[: config.search_forget])
    contrast = None
    if bench.aim is not None:
        aim = bench.aim(model)
        space, contrast = replace(space, forget_target=aim.forget, margin=0.0), aim.contrast

    def on_step(step: Step) -> None:
        on_event({"event": "step", "seed": seed, "doing": step.words()})

    found = search(copies, deployment.names, forget, deployment.encoding, space, contrast=contrast, on_step=on_step)
    place.mkdir(exist_ok=True)
    return save_plan(place, found)


def _shadows(config: ScenarioConfig, bench: Bench, seed: int) -> Shadows:
    """Shadow models, and their signals of the examples to forget and then of the non-members."""
    contested = concatenate(bench.world.forget_set, bench.non_members)
    found, trained_on = [], []
    for index, half in enumerate(shadow_halves(len(contested.labels), config.shadows, seed)):
        data = concatenate(bench.world.retain_set, contested.take(torch.from_numpy(half)))
        shadow = config.build(bench, seed * 100 + index + 1)
        fit(shadow, data.inputs, data.labels, config.shadow, seed * 100 + index)
        found.append(signals(shadow, contested))
        trained_on.append(half)
    stacked = Signals(np.stack([one.log_odds for one in found]), np.stack([one.log_likelihood for one in found]))
    return Shadows(stacked, np.stack(trained_on))

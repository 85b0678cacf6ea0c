"""What all methods of one seed share: the federation before the deletion, the oracle, the plan, the shadow models.

It is trained once and kept in the evaluation's folder, so that an interrupted evaluation goes on where it was.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zkapex.circuits.operators import declared
from zkapex.circuits.profiles import profile
from zkapex.errors import StorageError
from zkapex.server.requests.plan import StoredPlan, save_plan
from zkapex.simulation.data.digits import ClientData, Examples, Scenario, concatenate
from zkapex.simulation.evaluation.baselines import Case
from zkapex.simulation.evaluation.deployment import Deployment
from zkapex.simulation.evaluation.metrics import Yardstick
from zkapex.simulation.evaluation.metrics.membership import Shadows, Signals, shadow_halves, signals
from zkapex.simulation.evaluation.shelf import OnEvent, Shelf
from zkapex.simulation.models.tiny import target_layers
from zkapex.simulation.models.training import federated_averaging, provider_copies
from zkapex.simulation.scenarios import Bench, ScenarioConfig
from zkapex.unlearning.boundary import check_model
from zkapex.unlearning.personalise import fit, personalise
from zkapex.unlearning.planning.proxies import calibration
from zkapex.unlearning.planning.search import Copy, FixedPoint, Plan, SearchSpace, search
from zkapex.unlearning.planning.standing import Standing
from zkapex.unlearning.planning.steps import OnStep, Step


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
        plan, targets = self.cases[0].plan, self.cases[0].targets
        return {
            "chosen": plan.chosen,
            "curve": list(plan.curve),
            "density": {name: float(mask.mean()) for name, mask in plan.masks.items()},
            "weights": sum(int(mask.size) for mask in plan.masks.values()),
            "targets": None if targets is None else targets.chosen,
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
    cases = cases_of(config, bench, seed, shelf, folder, on_event)
    shadows = shelf.shadows(lambda: _shadows(config, bench, seed))
    order = torch.randperm(len(world.retain_set.labels), generator=torch.Generator().manual_seed(seed))
    retain = world.retain_set.take(order[: config.retain_cap])
    return Prepared(bench, cases, Yardstick(bench, retain, shadows, config.relearn, config.few_shot), shelf.seconds)


def cases_of(
    config: ScenarioConfig, bench: Bench, seed: int, shelf: Shelf, folder: Path, on_event: OnEvent
) -> tuple[Case, ...]:
    """Every client's part, with models and plans of that seed, whatever the data are of; those that are not kept yet.

    Raises
    ------
    StorageError, RangeExceededError
        As `prepare`.
    """
    world = bench.world
    model, own, deployment = before_deletion(config, bench, seed, shelf)
    retrained = shelf.models("retrain", lambda: oracle_models(config, bench, seed))
    plan = shelf.plan(lambda: searched(config, bench, seed, deployment, model, folder, on_event))
    wide, targets = targeted(config, bench, seed, model, shelf, folder, on_event)
    return tuple(
        Case(
            before=deployment.deploy(before),
            retrained=deployment.deploy(oracle),
            forget=world.forget_set,
            retain=concatenate(client.personal, client.retained),
            calibration=calibration(client.personal, client.train, config.replay_share),
            plan=plan,
            deployment=deployment,
            seed=seed * 100 + index,
            wide=wide,
            targets=targets,
            tuned=config.tuned,
        )
        for index, (client, before, oracle) in enumerate(zip(world.clients, own, retrained, strict=True))
    )


def targeted(
    config: ScenarioConfig, bench: Bench, seed: int, model: nn.Module, shelf: Shelf, folder: Path, on_event: OnEvent
) -> tuple[Deployment | None, StoredPlan | None]:
    """The deployment and plan of targets, if the scenario has any."""
    if not config.targeted:
        return None, None
    statement = profile(config.profile).statement("targeted-group-obs")
    wide = Deployment.of(model, tuple(target_layers(model, config.targeted)), FixedPoint(statement))
    place = folder / "targets"
    plan = shelf.plan(lambda: searched(config, bench, seed, wide, model, place, on_event), "targets")
    return wide, plan


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
    (model,) = shelf.models("train", lambda: [federated(config, bench, seed, [c.train for c in clients])])
    own = shelf.models("personalise", lambda: personalised(config, seed, model, clients))
    ranks = config.space.guard_ranks
    statement = profile(config.profile).statement(guard_rank=max(ranks) if ranks else None)
    names = tuple(target_layers(model, bench.targets))
    return model, own, Deployment.of(model, names, FixedPoint(statement))


def federated(config: ScenarioConfig, bench: Bench, seed: int, parts: Sequence[Examples]) -> nn.Module:
    """A global model, by federated averaging over clients with these examples.

    Raises
    ------
    InputError
        The model is none that could be unlearned; see `zkapex.unlearning.boundary.check_model`.
    """
    model = config.build(bench, seed)
    names = tuple(target_layers(model, bench.targets))
    check_model(model, names, profile(config.profile).weight_limit, bench.world.retain_set.inputs)
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


def oracle_models(config: ScenarioConfig, bench: Bench, seed: int, leaves: int | None = None) -> list[nn.Module]:
    """The gold standard: one model per client, trained and personalised as if nothing deleted had ever been there.

    With `leaves`, the number of a client that takes no part in the training; its own model is made all the same.
    """
    clients = bench.world.clients
    model = federated(config, bench, seed, [c.retained for index, c in enumerate(clients) if index != leaves])
    return personalised(config, seed, model, clients, deleted=True)


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
        As `zkapex.unlearning.planning.search.search`.
    """

    def on_step(step: Step) -> None:
        on_event({"event": "step", "seed": seed, "doing": step.words()})

    names, encoding = deployment.names, deployment.encoding
    found = planned(config, bench, seed, model, names, encoding, space or config.space, on_step)
    place.mkdir(exist_ok=True)
    return save_plan(place, found)


def planned(
    config: ScenarioConfig,
    bench: Bench,
    seed: int,
    model: nn.Module,
    names: Sequence[str],
    encoding: FixedPoint,
    space: SearchSpace,
    on_step: OnStep,
    standing: Standing | None = None,
) -> Plan:
    """What the provider of a scenario finds in a search space, or as near to its aim as the data decide that.

    Raises
    ------
    RangeExceededError
        As `zkapex.unlearning.planning.search.search`.
    """
    world = bench.world
    order = torch.randperm(len(world.forget_set.labels), generator=torch.Generator().manual_seed(seed))
    forget = world.forget_set.take(order[: config.search_forget])
    contrast = None
    if bench.aim is not None:
        aim = bench.aim(model)
        space = replace(space, forget_target=aim.forget, margin=0.0)
        aims = space.steer is not None or declared(encoding.statement.kind).statement.constrains_result
        contrast = aim.contrast() if aims and aim.contrast is not None else None
    copies = copies_of(config, world, seed, model)
    return search(copies, names, forget, encoding, space, contrast=contrast, on_step=on_step, standing=standing)


def copies_of(config: ScenarioConfig, world: Scenario, seed: int, model: nn.Module) -> list[Copy]:
    """The copies that the provider of a scenario searches on."""
    return provider_copies(
        model, world, seed, config.proxies, config.personal, config.search_retain, config.replay_share
    )


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

"""The federation that a run of Flower simulates: a scenario as the run's settings have it, and what it is to forget."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from zkapex.errors import InputError
from zkapex.server.search import SearchSpace
from zkapex.simulation.data import Examples, Scenario
from zkapex.simulation.held import Request, held_scenario
from zkapex.simulation.hub import parse_data
from zkapex.simulation.scenarios import Bench, ScenarioConfig, Sources, scenario_config

DIGITS = "digits"
"""The one scenario whose request and number of clients are up to the run."""
LEAST = 0.02
"""Smallest mask of a steered repair of digits, see `zkapex.server.search.SearchSpace`."""
DATA, MODEL = "ZKAPEX_DATA", "ZKAPEX_MODEL"
"""Environment variables for runs whose settings name no data or model."""


@dataclass(frozen=True)
class SimulatedFederation:
    """Everything that a simulated provider and simulated devices have in common.

    Attributes
    ----------
    config : ScenarioConfig
        With the run's rounds, personalisation, circuit profile, forget target and retain cost in place of its own.
    bench : Bench
    request : Request
    seed : int
    """

    config: ScenarioConfig
    bench: Bench
    request: Request
    seed: int

    @property
    def world(self) -> Scenario:
        """Who holds what."""
        return self.bench.world

    @property
    def leaves(self) -> int | None:
        """Number of the client that leaves with all its data, if one does."""
        return self.request.holder if self.request.delete == "client" else None

    def judged(self, index: int) -> dict[str, Examples]:
        """What a client is judged on: ``forget``, ``retain`` and ``personal``, examples that nobody trained on.

        Where no class is deleted, ``forget`` is what is deleted itself: unseen examples like it are those of
        ``retain``, which are to be answered after the deletion as before.
        """
        world = self.world
        return {
            "forget": world.forget_set if world.forget_class is None else world.forget_test,
            "retain": world.retain_test,
            "personal": world.clients[index].personal_test,
        }


def federation_of(run_config: Mapping[str, Any]) -> SimulatedFederation:
    """The federation of a run; its data are made once per process.

    Raises
    ------
    InputError
        Settings contradict each other or the scenario, or data or model are missing or not what they should be.
    """
    name, seed, clients = str(run_config["scenario"]), int(run_config["seed"]), int(run_config["clients"])
    request = Request(
        str(run_config["delete"]),
        int(run_config["forget-class"]),
        int(run_config["holder"]),
        int(run_config["forget-samples"]),
    )
    request.check(clients)
    config = scenario_config(name)
    if name == DIGITS:
        bench = _digits(clients, request, seed)
        config = replace(config, space=SearchSpace(least=LEAST))
    else:
        if request != Request():
            raise InputError(
                f"what {name} forgets is part of the scenario",
                fix=f"leave delete, forget-class, holder and forget-samples out, or choose the scenario {DIGITS}",
            )
        data = str(run_config["data"]) or os.environ.get(DATA, "")
        model = str(run_config["model"]) or os.environ.get(MODEL, "")
        bench = _bench(name, seed, data, model, int(run_config["classes"]), int(run_config["pixels"]))
        if len(bench.world.clients) != clients:
            number = len(bench.world.clients)
            raise InputError(
                f"{name} has {number} clients, and the run {clients}",
                fix=f"set clients={number} in the run's settings, and num-supernodes={number} in the federation's",
            )
    return SimulatedFederation(_as_run(config, run_config), bench, request, seed)


def _as_run(config: ScenarioConfig, run_config: Mapping[str, Any]) -> ScenarioConfig:
    """The scenario, with what a run says about it."""
    cost, target = float(run_config["retain-cost"]), float(run_config["forget-target"])
    return replace(
        config,
        rounds=int(run_config["rounds"]),
        personal=replace(
            config.personal,
            epochs=int(run_config["personal-epochs"]),
            learning_rate=float(run_config["personal-lr"]),
        ),
        profile=str(run_config["profile"]),
        space=replace(config.space, forget_target=target, retain_cost=cost),
    )


@lru_cache(maxsize=4)
def _digits(clients: int, request: Request, seed: int) -> Bench:
    world = held_scenario(request, clients, seed)
    return Bench(world, world.retain_test, world.forget_test, "", request.words())


@lru_cache(maxsize=1)
def _bench(name: str, seed: int, data: str, model: str, classes: int, pixels: int) -> Bench:
    config = scenario_config(name)
    sources = Sources(
        parse_data(data) if data and config.needs_data else None,
        model if model and config.needs_model else None,
        classes=classes or None,
        pixels=pixels or None,
    )
    config.check(sources)
    return config.make(seed, sources)


def device_folder(work_dir: Path, index: int) -> Path:
    """Where a simulated device keeps its state."""
    return work_dir / "devices" / f"{index:03d}"

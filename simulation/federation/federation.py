"""The federation that a run of Flower simulates: a scenario as the run's settings have it, and what it is to forget."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from zkapex.circuits.operators import declared
from zkapex.errors import InputError
from zkapex.simulation.data.digits import Examples, Scenario
from zkapex.simulation.data.hub import parse_data
from zkapex.simulation.evaluation.provenance import digest_of
from zkapex.simulation.federation.held import Request, held_scenario
from zkapex.simulation.scenarios import Bench, ScenarioConfig, Sources, scenario_config

DIGITS = "digits"
"""The one scenario whose request and number of clients are up to the run."""
VARIABLES = {"data": "ZKAPEX_DATA", "model": "ZKAPEX_MODEL"}
"""Environment variables for runs whose settings name no data or model."""
MAX_REQUESTS = 5
"""Every second digit, so that there are as many."""
DATA_SETS = ("forget", "retain", "personal")
"""What a client is judged on."""


@dataclass(frozen=True)
class SimulatedFederation:
    """Everything that a simulated provider and simulated devices have in common.

    Attributes
    ----------
    config : ScenarioConfig
        With the run's rounds, personalisation, circuit profile, forget target and retain cost in place of its own.
    bench : Bench
    request : Request
        The first one.
    seed : int
    clients : int
    ids : tuple of str
        Of the run's requests, in order. Each later one forgets another digit.
    """

    config: ScenarioConfig
    bench: Bench
    request: Request
    seed: int
    clients: int = 0
    ids: tuple[str, ...] = ()

    def for_request(self, request_id: str) -> SimulatedFederation:
        """The same federation when it gets one of its requests: what was forgotten before is no longer asked about."""
        number = self.ids.index(request_id) if request_id in self.ids else 0
        if number == 0:
            return self
        gone = tuple(later_class(self.request.forget_class, before) for before in range(number))
        request = replace(self.request, forget_class=later_class(self.request.forget_class, number))
        bench = replace(_digits(self.clients, request, self.seed, gone), targets=self.bench.targets)
        return replace(self, bench=bench, request=request)

    def without(self, classes: tuple[int, ...]) -> SimulatedFederation:
        """The same federation, in which classes that were forgotten before are no longer asked about."""
        if not classes:
            return self
        return replace(self, bench=_digits(self.clients, self.request, self.seed, classes))

    @property
    def world(self) -> Scenario:
        """Who holds what."""
        return self.bench.world

    @property
    def leaves(self) -> int | None:
        """Number of the client that leaves with all its data, if one does."""
        return self.request.holder if self.request.delete == "client" else None

    def judged(self, index: int) -> dict[str, Examples]:
        """What a client is judged on, by the names in `DATA_SETS`: examples that nobody trained on.

        Where no class is deleted, ``forget`` is what is deleted itself.
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
    sources = _sources(config, run_config)
    if name == DIGITS:
        bench = _digits(clients, request, seed)
    else:
        if request != Request():
            raise InputError(
                f"what {name} forgets is part of the scenario",
                fix=f"leave delete, forget-class, holder and forget-samples out, or choose the scenario {DIGITS}",
            )
        bench = _bench(name, seed, sources)
        if len(bench.world.clients) != clients:
            number = len(bench.world.clients)
            raise InputError(
                f"{name} has {number} clients, and the run {clients}",
                fix=f"ask for {number} clients, and with `flwr run` for num-supernodes={number}",
            )
    ids = tuple(str(run_config["requests"]).split(",")) if run_config["requests"] else (str(run_config["request-id"]),)
    if len(ids) > 1 and (name != DIGITS or request.delete != "class" or request.holder >= 0):
        raise InputError(
            "several requests are simulated for digits that the provider wants forgotten only",
            fix=f"ask for one request, or choose the scenario {DIGITS} and leave delete and holder out",
        )
    if len(ids) > MAX_REQUESTS:
        raise InputError(f"{len(ids)} requests are more than are simulated", fix=f"ask for at most {MAX_REQUESTS}")
    if "targets" in declared(str(run_config["operator"])).terms:
        if not config.targeted or request.delete != "class" or request.holder >= 0:
            raise InputError(
                f"targets are planned by the provider for a class, not for what {config.name} is to forget here",
                fix="choose operator guarded-group-obs",
            )
        bench = replace(bench, targets=config.targeted)
    return SimulatedFederation(_as_run(config, run_config), bench, request, seed, clients, ids)


def sources_digests(run_config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of data and model where they are files or folders, see `zkapex.simulation.evaluation.provenance`."""
    sources = _sources(scenario_config(str(run_config["scenario"])), run_config)
    found = {
        "data": digest_of(sources.data) if isinstance(sources.data, Path) else None,
        "model": digest_of(Path(sources.model)) if sources.model else None,
    }
    return {name: digest for name, digest in found.items() if digest}


def brought(config: ScenarioConfig, name: str, value: str) -> str:
    """The ``data`` or ``model`` that is given, or else that of the environment if the scenario reads any.

    Raises
    ------
    InputError
        One is given, and the scenario reads none.
    """
    needed = {"data": config.needs_data, "model": config.needs_model}[name]
    if value and not needed:
        raise InputError(f"{config.name} reads no {name}, and {value!r} is given", fix=f"leave {name} out")
    return value or (os.environ.get(VARIABLES[name], "") if needed else "")


def _sources(config: ScenarioConfig, run_config: Mapping[str, Any]) -> Sources:
    """What a run names, or the environment, as far as the scenario has a use for it."""
    data, model = (brought(config, name, str(run_config[name])) for name in VARIABLES)
    sources = Sources(
        parse_data(data) if data else None,
        model or None,
        classes=int(run_config["classes"]) or None,
        pixels=int(run_config["pixels"]) or None,
    )
    config.check(sources)
    return sources


def _as_run(config: ScenarioConfig, run_config: Mapping[str, Any]) -> ScenarioConfig:
    """The scenario, with what a run says about it."""
    for name in ("retain-cost", "forget-target"):
        if not 0 <= float(run_config[name]) <= 1:
            raise InputError(f"run setting {name} is {run_config[name]}", fix="give a number from 0 to 1")
    cost, target = float(run_config["retain-cost"]), float(run_config["forget-target"])
    space = replace(config.space, forget_target=target, retain_cost=cost)
    if int(run_config["guard-rank"]) >= 0:
        space = replace(space, guard_ranks=None)  # that of the statement, which is the run's
    return replace(
        config,
        rounds=int(run_config["rounds"]),
        personal=replace(
            config.personal,
            epochs=int(run_config["personal-epochs"]),
            learning_rate=float(run_config["personal-lr"]),
        ),
        profile=str(run_config["profile"]),
        space=space,
    )


def later_class(first: int, number: int) -> int:
    """The digit that a later request forgets, by its number from 0 on."""
    return (first + 2 * number) % 10


@lru_cache(maxsize=8)
def _digits(clients: int, request: Request, seed: int, gone: tuple[int, ...] = ()) -> Bench:
    world = held_scenario(request, clients, seed, gone)
    return Bench(world, world.retain_test, world.forget_test, "", request.words())


@lru_cache(maxsize=1)
def _bench(name: str, seed: int, sources: Sources) -> Bench:
    return scenario_config(name).make(seed, sources)


def forget_benches() -> None:
    """Let go of the data this process holds, which may be large."""
    _bench.cache_clear()


def device_folder(work_dir: Path, index: int) -> Path:
    """Where a simulated device keeps its state."""
    return work_dir / "devices" / f"{index:03d}"

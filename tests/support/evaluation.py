"""A scenario of seconds, for tests of everything that an evaluation does."""

from __future__ import annotations

from dataclasses import replace

import torch

from zkapex.simulation.data.digits import concatenate, digits_scenario
from zkapex.simulation.scenarios import Bench, ScenarioConfig, Sources, scenario_config
from zkapex.simulation.scenarios.base import FewShot
from zkapex.unlearning.personalise import FitSettings
from zkapex.unlearning.planning.opponent import Opponent
from zkapex.unlearning.planning.search import SearchSpace
from zkapex.unlearning.planning.steering import Steer


def make(seed: int, sources: Sources) -> Bench:
    """Two of six clients, and what only they have: most of the time would go into looking at examples."""
    world = digits_scenario(6, 3, seed)
    clients = world.clients[:2]
    world = replace(
        world,
        clients=clients,
        forget_set=concatenate(*(one.train.only(3) for one in clients)),
        retain_set=concatenate(*(one.train.without(3) for one in clients)),
        retain_test=world.retain_test.take(torch.arange(0, len(world.retain_test.labels), 3)),
    )
    return Bench(world, world.retain_test, world.forget_test, f"two clients, seed {seed}", "the digit 3")


TINY: ScenarioConfig = replace(
    scenario_config("digits"),
    make=make,
    rounds=1,
    local=FitSettings(4, 2e-3),
    personal=FitSettings(1, 1e-3),
    shadow=FitSettings(1, 2e-3),
    shadows=2,
    retain_cap=90,
    proxies=1,
    attack=FewShot(steps=2),
    space=SearchSpace(
        scorers=("taylor",),
        fractions=(0.02,),
        steer=Steer(steps=3, rehearsal=None),
        opponents=(Opponent(steps=4, shots=(5,), start=2, every=2, rehearsal_steps=5),),
    ),
)
"""Two clients, next to no training, one mask."""

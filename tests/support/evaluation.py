"""A scenario of seconds, for tests of everything that an evaluation does."""

from __future__ import annotations

from dataclasses import replace

from zkapex.simulation.data.digits import digits_scenario
from zkapex.simulation.scenarios import Bench, ScenarioConfig, Sources, scenario_config
from zkapex.simulation.scenarios.base import FewShot
from zkapex.unlearning.personalise import FitSettings
from zkapex.unlearning.planning.search import SearchSpace
from zkapex.unlearning.planning.steering import Steer


def make(seed: int, sources: Sources) -> Bench:
    """Two clients."""
    world = digits_scenario(2, 3, seed)
    return Bench(world, world.retain_test, world.forget_test, f"two clients, seed {seed}", "the digit 3")


TINY: ScenarioConfig = replace(
    scenario_config("digits"),
    make=make,
    rounds=1,
    local=FitSettings(4, 2e-3),
    personal=FitSettings(1, 1e-3),
    shadow=FitSettings(1, 2e-3),
    shadows=2,
    proxies=1,
    attack=FewShot(steps=2),
    space=SearchSpace(scorers=("taylor",), fractions=(0.02,), steer=Steer(steps=3, rehearsal=None)),
)
"""Two clients, next to no training, one mask."""

"""``digits``: the demo's federation on scikit-learn's 8x8 handwritten digits; minutes for three seeds."""

from __future__ import annotations

from zkapex.simulation.data.digits import digits_scenario
from zkapex.simulation.evaluation.baselines import CLASSIFICATION, TARGETED
from zkapex.simulation.models.tiny import ViTConfig
from zkapex.simulation.models.training import LOCAL, ROUNDS
from zkapex.simulation.scenarios.base import Bench, ScenarioConfig, Sources
from zkapex.unlearning.personalise import PERSONALISE, FitSettings
from zkapex.unlearning.planning.search import SearchSpace
from zkapex.unlearning.planning.steering import Steer

RETRAIN = FitSettings(epochs=25, learning_rate=2e-3)
"""Training without a federation."""
FORGET_CLASSES = (3, 8, 5)
"""The digit that is deleted, by seed."""


def make(seed: int, sources: Sources) -> Bench:
    """Four clients share 70 % of the images; no source is used, the images come with scikit-learn."""
    world = digits_scenario(4, FORGET_CLASSES[seed % len(FORGET_CLASSES)], seed)
    sizes = f"{len(world.forget_set.labels)} images to forget, {len(world.retain_set.labels)} to retain"
    note = f"digit {world.forget_class}: 4 clients, {sizes}; {len(world.forget_test.labels)} non-members"
    return Bench(world, world.retain_test, world.forget_test, note, f"the digit {world.forget_class}")


DIGITS = ScenarioConfig(
    name="digits",
    title="scikit-learn's handwritten digits: four clients, one digit deleted",
    make=make,
    needs_data=False,
    model=ViTConfig(),
    rounds=ROUNDS,
    local=LOCAL,
    personal=PERSONALISE,
    relearn=FitSettings(1, PERSONALISE.learning_rate, decay=False),
    shadow=RETRAIN,
    shadows=4,
    profile="tiny",
    proxies=4,
    methods=(*CLASSIFICATION, *TARGETED),
    targeted=("qkv", "out", "fc1", "fc2", "head"),
    space=SearchSpace(
        ("selective",),
        least=0.03,
        forget_target=0.02,
        retain_cost=0.03,
        margin=1.0,
        steer=Steer(steps=120, margin=4.0),
    ),
)

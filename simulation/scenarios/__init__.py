"""Scenarios of the evaluation, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from zkapex.errors import InputError
from zkapex.simulation.scenarios.base import Bench, ScenarioConfig, Sources
from zkapex.simulation.scenarios.code_lm import CODE_LM
from zkapex.simulation.scenarios.digits import DIGITS
from zkapex.simulation.scenarios.mnist_writers import MNIST_WRITERS
from zkapex.simulation.scenarios.mnist_writers_leave import MNIST_WRITERS_LEAVE
from zkapex.simulation.scenarios.mnist_writers_poison import MNIST_WRITERS_POISON
from zkapex.simulation.scenarios.pacs import PACS, PACS_SAMPLES

__all__ = ["SCENARIOS", "Bench", "ScenarioConfig", "Sources", "scenario_config"]

SCENARIOS: Mapping[str, ScenarioConfig] = MappingProxyType(
    {
        config.name: config
        for config in (
            DIGITS,
            MNIST_WRITERS,
            MNIST_WRITERS_LEAVE,
            MNIST_WRITERS_POISON,
            PACS,
            PACS_SAMPLES,
            CODE_LM,
        )
    }
)
"""Every scenario."""


def scenario_config(name: str) -> ScenarioConfig:
    """The scenario of that name.

    Raises
    ------
    InputError
        There is none.
    """
    if name not in SCENARIOS:
        raise InputError(f"there is no scenario {name!r}", fix=f"choose one of {', '.join(SCENARIOS)}")
    return SCENARIOS[name]

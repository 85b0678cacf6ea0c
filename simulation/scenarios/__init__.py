"""Scenarios of the evaluation, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from zkapex.errors import InputError
from zkapex.simulation.scenarios.base import Bench, ScenarioConfig, Sources
from zkapex.simulation.scenarios.digits import DIGITS
from zkapex.simulation.scenarios.mnist_writers import MNIST_WRITERS
from zkapex.simulation.scenarios.pacs import PACS, PACS_SAMPLES

__all__ = ["SCENARIOS", "Bench", "ScenarioConfig", "Sources", "scenario_config"]

SCENARIOS: Mapping[str, ScenarioConfig] = MappingProxyType(
    {config.name: config for config in (DIGITS, MNIST_WRITERS, PACS, PACS_SAMPLES)}
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

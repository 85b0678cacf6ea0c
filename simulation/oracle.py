"""The gold standard: retrain from scratch without the forget class, personalise, and compare."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from zkapex.client.personalise import PERSONALISE, FitSettings, fit, personalise
from zkapex.simulation.data import ClientData, Scenario
from zkapex.simulation.models import ViTConfig, vision_transformer
from zkapex.simulation.training import accuracy

#: Centralised retraining; as good as the federated rounds at a fraction of their cost.
RETRAIN = FitSettings(epochs=25, learning_rate=2e-3)


def retrain(
    scenario: Scenario, seed: int, config: ViTConfig | None = None, settings: FitSettings = RETRAIN
) -> nn.Module:
    """A fresh model trained centrally on the retain set alone: it has never seen the forget class."""
    model = vision_transformer(seed, config)
    fit(model, scenario.retain_set.inputs, scenario.retain_set.labels, settings, seed)
    return model


def oracle(
    scenario: Scenario,
    seed: int,
    config: ViTConfig | None = None,
    settings: FitSettings = RETRAIN,
    personal_settings: FitSettings = PERSONALISE,
) -> list[nn.Module]:
    """One model per client: `retrain`, then personalised exactly as the client does, replaying no forget class."""
    base = retrain(scenario, seed, config, settings)
    models = []
    for index, client in enumerate(scenario.clients):
        model = copy.deepcopy(base)
        personalise(model, client.personal, client.retained, seed * 100 + index, personal_settings)
        models.append(model)
    return models


def evaluate(model: nn.Module, scenario: Scenario, client: ClientData) -> dict[str, float]:
    """Accuracy of one client's model on unseen data: ``forget``, ``retain`` and ``personal``."""
    return {
        "forget": accuracy(model, scenario.forget_test),
        "retain": accuracy(model, scenario.retain_test),
        "personal": accuracy(model, client.personal_test),
    }


def mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of every key over `evaluate` results of several clients."""
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}

from __future__ import annotations

import pytest
import torch

from zkapex.client.personalise import FitSettings
from zkapex.simulation.data import digits_scenario
from zkapex.simulation.models import ViTConfig
from zkapex.simulation.oracle import evaluate, mean, oracle, retrain

TINY = ViTConfig(dim=16, hidden=16, depth=1)


def test_the_oracle_knows_everything_but_the_forget_class() -> None:
    scenario = digits_scenario(clients=2, forget_class=3, seed=0)
    models = oracle(scenario, 0, TINY, FitSettings(12, 6e-3), FitSettings(3, 2e-3))
    rows = [evaluate(model, scenario, client) for model, client in zip(models, scenario.clients, strict=True)]
    for row in rows:
        assert row["forget"] == 0.0
        assert row["retain"] > 0.75
        assert row["personal"] > 0.3
    average = mean(rows)
    assert average["retain"] == pytest.approx((rows[0]["retain"] + rows[1]["retain"]) / 2)
    assert not torch.equal(models[0].get_parameter("head.weight"), models[1].get_parameter("head.weight"))


def test_retraining_repeats() -> None:
    scenario = digits_scenario(clients=2, seed=1)
    a, b = (retrain(scenario, 5, TINY, FitSettings(1, 3e-3)) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))

"""The oracle: trained and personalised as if what is deleted had never been there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from evaluation import TINY

from zkapex.simulation.data.digits import digits_scenario
from zkapex.simulation.evaluation.preparation import oracle_models
from zkapex.simulation.federation.held import Request, held_scenario
from zkapex.simulation.models.training import accuracy
from zkapex.simulation.scenarios import Bench, Sources
from zkapex.unlearning.personalise import FitSettings


def make(seed: int, sources: Sources) -> Bench:
    """Two clients with half of the digits each: it takes that much to learn anything."""
    world = digits_scenario(2, 3, seed)
    return Bench(world, world.retain_test, world.forget_test, f"two clients, seed {seed}", "the digit 3")


CONFIG = replace(TINY, make=make, local=FitSettings(12, 6e-3), personal=FitSettings(3, 2e-3))


def test_it_knows_everything_but_the_forget_class() -> None:
    bench = CONFIG.make(0, Sources())
    models = oracle_models(CONFIG, bench, 0)
    for model, client in zip(models, bench.world.clients, strict=True):
        assert accuracy(model, bench.world.forget_test) == 0.0
        assert accuracy(model, bench.world.retain_test) > 0.75
        assert accuracy(model, client.personal_test) > 0.3
    assert not torch.equal(models[0].get_parameter("head.weight"), models[1].get_parameter("head.weight"))


def test_it_repeats() -> None:
    bench = TINY.make(1, Sources())
    a, b = (oracle_models(TINY, bench, 5)[1] for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_client_that_leaves_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    world = held_scenario(Request("client", holder=1), 3, 0)
    bench = Bench(world, world.retain_test, world.forget_test, "", "all data of client 1")
    seen: list[int] = []

    def averaged(model: torch.nn.Module, parts: list[tuple[torch.Tensor, torch.Tensor]], *_: object) -> None:
        seen.extend(len(labels) for _, labels in parts)

    monkeypatch.setattr("zkapex.simulation.evaluation.preparation.federated_averaging", averaged)
    assert len(oracle_models(replace(TINY, personal=FitSettings(0, 1e-3)), bench, 0, leaves=1)) == 3
    assert seen == [len(world.clients[index].retained.labels) for index in (0, 2)]

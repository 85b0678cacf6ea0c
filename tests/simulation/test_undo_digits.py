"""On the digits: nothing that a receipt with targets holds brings the class back, and steering's does."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from zkapex.simulation.data.digits import concatenate
from zkapex.simulation.evaluation.baselines import METHODS, Case
from zkapex.simulation.evaluation.metrics.undo import LOSSES, RECEIPT, Public, best, undo
from zkapex.simulation.evaluation.preparation import before_deletion, oracle_models, searched, targeted
from zkapex.simulation.evaluation.shelf import Shelf
from zkapex.simulation.scenarios import Sources, scenario_config
from zkapex.unlearning.planning.proxies import calibration

ABOVE_THE_ORACLE = 0.10


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_no_public_part_of_a_receipt_brings_the_class_back_at_any_scale(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config, seed = scenario_config("digits"), 0
    bench = config.make(seed, Sources())
    world = bench.world
    shelf = Shelf(partial(config.build, bench), seed, tmp_path, lambda event: None)
    model, own, deployment = before_deletion(config, bench, seed, shelf)
    oracles = oracle_models(config, bench, seed)
    wide, targets = targeted(config, bench, seed, model, shelf, tmp_path, lambda event: None)
    assert wide is not None
    assert targets is not None
    steered = searched(config, bench, seed, deployment, model, tmp_path / "steered", lambda event: None)
    cases = [
        Case(
            before=deployment.deploy(before),
            retrained=deployment.deploy(oracle),
            forget=world.forget_set,
            retain=concatenate(client.personal, client.retained),
            calibration=calibration(client.personal, client.train, config.replay_share),
            plan=steered,
            deployment=deployment,
            seed=index,
            wide=wide,
            targets=targets,
        )
        for index, (client, before, oracle) in enumerate(zip(world.clients, own, oracles, strict=True))
    ]
    width = wide.encoding.block_width
    order = torch.randperm(len(world.retain_set.labels), generator=torch.Generator().manual_seed(0))
    retain = world.retain_set.take(order[:500])

    def brought_back(method: str, public: Public) -> float:
        models = [deployment.deploy(METHODS[method].unlearn(case)) for case in cases]
        found = [undo(m, [], public, world.forget_set, retain, world.forget_class) for m in models]
        return sum(best(attempts, LOSSES[0], RECEIPT).forget for attempts in found) / len(found)

    public = Public.of(targets.terms, wide.exponents, width)
    oracle = brought_back("retrain", public)
    for method in ("targeted-group-obs", "targeted-tuned"):
        assert brought_back(method, public) <= oracle + ABOVE_THE_ORACLE, method
    assert brought_back("guarded-group-obs", Public.of(steered.terms, deployment.exponents, width)) > 0.3

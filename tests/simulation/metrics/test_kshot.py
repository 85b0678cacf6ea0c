"""Few-shot attacks: they learn with examples, on copies, and find what inner representations hold together."""

from __future__ import annotations

import torch

from zkapex.simulation.data.digits import digits_scenario
from zkapex.simulation.evaluation.metrics.kshot import block_outputs, kshot, kshot_head, probe_kshot_auc
from zkapex.simulation.evaluation.metrics.restoration import restored
from zkapex.simulation.models.tiny import vision_transformer
from zkapex.simulation.scenarios.base import FewShot
from zkapex.unlearning.personalise import FitSettings, fit

WORLD = digits_scenario(2, 3, 0)
BRIEF = FewShot(rate=3e-3, steps=12)


def trained(forgotten: bool) -> torch.nn.Module:
    model = vision_transformer(0)
    data = WORLD.retain_set
    if not forgotten:
        data = type(data)(*(torch.cat(pair) for pair in zip(data, WORLD.forget_set, strict=True)))
    fit(model, *data, FitSettings(4, 3e-3), 0)
    return model


def test_the_more_examples_the_more_comes_back_and_the_model_is_left_alone() -> None:
    model = trained(forgotten=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    curve = kshot(model, WORLD.forget_set, WORLD.retain_set, 0, BRIEF)
    assert list(curve) == ["1", "2", "5", "10"]
    assert all(0 <= value <= 1 for value in curve.values())
    assert curve["10"] > curve["1"]
    head = kshot_head(model, WORLD.forget_set, WORLD.retain_set, 0, FewShot(steps=40))
    assert head["10"] > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_probe_and_restoration_find_what_is_only_hidden() -> None:
    knows = trained(forgotten=False)
    hides = trained(forgotten=False)
    with torch.no_grad():
        hides.get_parameter("head.bias")[3] = -100.0
    fit_on, judge = (WORLD.forget_set, WORLD.retain_set), (WORLD.forget_test, WORLD.retain_test)
    assert probe_kshot_auc(hides, fit_on, judge, 0) == probe_kshot_auc(knows, fit_on, judge, 0)
    assert probe_kshot_auc(knows, fit_on, judge, 0) > probe_kshot_auc(vision_transformer(1), fit_on, judge, 0)
    assert set(block_outputs(knows, WORLD.forget_test.inputs)) == {"blocks.0", "blocks.1"}
    assert restored(hides, knows, WORLD.forget_set) == 0.0, "the head hides it, whatever the blocks say"
    broken = trained(forgotten=False)
    with torch.no_grad():
        for parameter in broken.get_submodule("blocks.0").parameters():
            parameter.zero_()
    assert restored(broken, knows, WORLD.forget_set) > 0.5, "what comes after the first block still reads it"

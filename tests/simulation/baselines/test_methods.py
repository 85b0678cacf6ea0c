"""What every method of unlearning promises, and what each does."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation import TINY
from torch import nn

from zkapex.errors import InputError
from zkapex.simulation.data.digits import Examples
from zkapex.simulation.evaluation.baselines import METHODS, Case, methods_called
from zkapex.simulation.evaluation.baselines.fine_tune import FineTune
from zkapex.simulation.evaluation.baselines.gradient_ascent import GradientAscent
from zkapex.simulation.evaluation.baselines.hamu import HamuQ
from zkapex.simulation.evaluation.baselines.laf import LabelAgnosticForgetting, representations
from zkapex.simulation.evaluation.baselines.loku import LowRankUnlearning
from zkapex.simulation.evaluation.baselines.modhifi import ModHiFi
from zkapex.simulation.evaluation.baselines.mrp import Projection, RepresentationProjection
from zkapex.simulation.evaluation.baselines.salun import SalUn
from zkapex.simulation.evaluation.baselines.scrub import Scrub
from zkapex.simulation.evaluation.baselines.ssd import SelectiveSynapticDampening
from zkapex.simulation.evaluation.preparation import Prepared, prepare
from zkapex.simulation.models.training import accuracy


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(TINY, TINY.make(0, None), 0, tmp_path_factory.mktemp("seed"), lambda event: None)


@pytest.fixture(scope="module")
def case(prepared: Prepared) -> Case:
    return prepared.cases[0]


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten() for value in model.state_dict().values()])


OTHERS = [name for name in METHODS if name not in ("original", "scrub", "targeted-group-obs", "targeted-tuned")]


@pytest.mark.parametrize(
    "name",
    [
        "original",
        "scrub",
        "targeted-group-obs",
        "targeted-tuned",
        *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS),
    ],
)
def test_a_method_leaves_the_original_alone_and_can_be_repeated(name: str, case: Case) -> None:
    before = weights(case.before).clone()
    one, two = METHODS[name].unlearn(case), METHODS[name].unlearn(case)
    assert torch.equal(weights(case.before), before)
    assert torch.equal(weights(one), weights(two))
    assert torch.isfinite(weights(one)).all()
    assert torch.equal(weights(one), before) == (name == "original")
    case.deployment.encode(case.deployment.deploy(one))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    method = METHODS[name]
    assert method.name == name
    assert method.label
    assert len(method.source) > 20
    assert method.stage in (None, "plan", "targets", "retrain")


def test_the_oracle_never_saw_the_class(case: Case) -> None:
    assert accuracy(METHODS["retrain"].unlearn(case), case.forget) == 0.0


@pytest.mark.parametrize("name", ["mask-only", "group-obs", "guarded-group-obs"])
def test_masked_weights_are_zero_and_rows_without_any_are_untouched(name: str, case: Case) -> None:
    after, before = (case.deployment.encode(model) for model in (METHODS[name].unlearn(case), case.before))
    for layer, mask in case.plan.masks.items():
        assert not after[layer][mask].any()
        still = ~mask.any(1)
        np.testing.assert_array_equal(after[layer][still], before[layer][still])
        if name == "mask-only":
            np.testing.assert_array_equal(after[layer][~mask], before[layer][~mask])
    if name != "mask-only":
        assert any((after[n][~m] != before[n][~m]).any() for n, m in case.plan.masks.items())


def furthest_from_targets(model: nn.Module, case: Case) -> float:
    """How far any row is from what is prescribed along any direction, in units of a weight's last digit."""
    assert case.wide is not None
    assert case.targets is not None
    weights, width, terms = case.wide.encode(model), case.wide.encoding.block_width, case.targets.terms
    unit = 2.0**case.wide.encoding.guard_bits
    return max(
        float(np.abs(theta @ v[: theta.shape[1]] - terms.targets[name, block]).max()) / unit
        for name, block in terms.targets
        for theta, v in [(weights[name][:, block * width : (block + 1) * width], terms.guards[name][block])]
    )


def test_rows_are_at_their_targets_also_after_training_on_as_the_scenario_says(case: Case) -> None:
    at_once, tuned = (METHODS[name].unlearn(case) for name in ("targeted-group-obs", "targeted-tuned"))
    rounding = 0.5 * np.sqrt(case.wide.encoding.block_width) + 1 if case.wide else 0.0
    assert furthest_from_targets(case.before, case) > 10 * rounding
    assert furthest_from_targets(at_once, case) < rounding
    assert furthest_from_targets(tuned, case) < rounding
    assert loss(tuned, case, forget=False) < loss(at_once, case, forget=False)
    still = METHODS["targeted-tuned"].unlearn(replace(case, tuned=replace(case.tuned, epochs=0)))
    assert (weights(still) - weights(at_once)).norm() < 0.1 * (weights(tuned) - weights(at_once)).norm()


def loss(model: nn.Module, case: Case, forget: bool) -> float:
    inputs, labels = case.forget if forget else case.retain
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(inputs), labels))


def test_fine_tuning_lowers_the_retain_loss(case: Case) -> None:
    after = FineTune(epochs=2).unlearn(case)
    assert loss(after, case, forget=False) < loss(case.before, case, forget=False)


def test_gradient_ascent_raises_the_forget_loss(case: Case) -> None:
    after = GradientAscent(learning_rate=1e-2).unlearn(case)
    assert loss(after, case, forget=True) > loss(case.before, case, forget=True)


def test_scrub_leaves_the_teacher_on_what_is_to_be_forgotten(case: Case) -> None:
    after = Scrub(epochs=3).unlearn(case)
    assert loss(after, case, forget=True) > loss(case.before, case, forget=True) + 0.1


def test_salun_moves_the_salient_weights_and_no_other(case: Case) -> None:
    moved = weights(SalUn(fraction=0.2, epochs=2).unlearn(case)) != weights(case.before)
    assert 0.1 < moved.float().mean() <= 0.2 + 1e-4


def test_ssd_only_shrinks(case: Case) -> None:
    before, after = weights(case.before), weights(SelectiveSynapticDampening(alpha=1.5).unlearn(case))
    changed = after != before
    assert changed.any()
    assert (after[changed].abs() < before[changed].abs()).all()
    assert (after[changed] * before[changed] >= 0).all()
    untouched = SelectiveSynapticDampening(alpha=1e9).unlearn(case)
    assert torch.equal(weights(untouched), before)


def test_hamu_raises_the_forget_loss_and_not_the_retain_loss(case: Case) -> None:
    after = HamuQ(learning_rate=1e-3, epochs=2).unlearn(case)
    assert loss(after, case, forget=True) > loss(case.before, case, forget=True) + 18 * 0.5e-3, "the quota of 18 steps"
    assert loss(after, case, forget=False) < loss(case.before, case, forget=False)


def test_laf_turns_what_is_forgotten_away_and_looks_at_no_label(case: Case) -> None:
    method = LabelAgnosticForgetting(epochs=10)
    after = method.unlearn(case)

    def turned(examples: Examples) -> float:
        with torch.no_grad():
            now, before = (representations(model, examples.inputs) for model in (after, case.before))
            return float(1 - nn.functional.cosine_similarity(now, before, dim=1).mean())

    assert turned(case.forget) > 2 * turned(case.retain)
    blind = replace(
        case,
        forget=Examples(case.forget.inputs, torch.zeros_like(case.forget.labels)),
        retain=Examples(case.retain.inputs, torch.zeros_like(case.retain.labels)),
    )
    assert torch.equal(weights(method.unlearn(blind)), weights(after))


def test_modhifi_turns_the_sign_of_its_share_of_every_row_and_nothing_else(case: Case) -> None:
    after = ModHiFi(fraction=0.25).unlearn(case)
    for name, now in after.named_parameters():
        was = case.before.get_parameter(name)
        turned = now != was
        if name.endswith("fc2.weight"):
            assert torch.equal(now[turned], -was[turned])
            assert (turned.sum(1) <= 16).all(), "a quarter of 64; a weight that is zero has no sign"
            assert turned.sum() > 0.9 * 16 * len(turned)
        else:
            assert not turned.any(), name


def test_mrp_lets_nothing_through_along_its_directions_and_touches_no_weight(case: Case) -> None:
    after = RepresentationProjection().unlearn(case)
    added = {name: module for name, module in after.named_modules() if isinstance(module, Projection)}
    assert list(added) == ["blocks.0.projection"], "of two blocks the last is never chosen"
    states: list[torch.Tensor] = []
    copied = copy.deepcopy(after)
    copied.get_submodule("blocks.1").register_forward_pre_hook(lambda _, args: states.append(args[0]))
    with torch.no_grad():
        copied(case.forget.inputs)
    basis = added["blocks.0.projection"].basis
    assert basis.shape == (2, 32)
    assert float((states[0] @ basis.T).abs().max()) < 1e-5
    for name, weight in case.before.named_parameters():
        assert torch.equal(after.get_parameter(name), weight)


def test_mrp_trains_its_directions_away_from_what_is_kept(case: Case) -> None:
    """At the published rate they hardly move from where they start; at a larger one they do what the loss asks for."""
    still, trained = (RepresentationProjection(learning_rate=rate).unlearn(case) for rate in (0.0, 0.5))
    gap = [loss(model, case, forget=True) - 1.2 * loss(model, case, forget=False) for model in (still, trained)]
    assert gap[1] > gap[0]


def test_loku_moves_the_weights_of_the_blocks_by_its_rank(case: Case) -> None:
    after = LowRankUnlearning(rank=3, alpha=6.0).unlearn(case)
    assert loss(after, case, forget=True) > loss(case.before, case, forget=True) + 0.1
    for name, now in after.named_parameters():
        moved = (now - case.before.get_parameter(name)).detach()
        if name.startswith("blocks") and moved.ndim == 2:
            spectrum = torch.linalg.svdvals(moved)
            assert float(spectrum[6:].sum()) < 1e-3 * float(spectrum.sum()), "factors before and after: twice the rank"
        else:
            assert not moved.any(), name


def test_methods_by_name() -> None:
    assert [m.name for m in methods_called(["ssd", "retrain"])] == ["retrain", "ssd"]
    assert len(methods_called([])) == len(METHODS)
    with pytest.raises(InputError, match="'magic'"):
        methods_called(["magic"])


def test_weights_beyond_the_scale_get_a_smaller_one_and_infinite_ones_are_refused(case: Case) -> None:
    wild = copy.deepcopy(case.before)
    weight = wild.get_parameter("blocks.0.fc1.weight")
    with torch.no_grad():
        weight.mul_(1000)
    limit = case.deployment.encoding.weight_limit
    deployed = case.deployment.deploy(wild).get_parameter("blocks.0.fc1.weight")
    torch.testing.assert_close(deployed, weight, rtol=0.0, atol=float(weight.detach().abs().max()) / limit)
    with torch.no_grad():
        weight[0, 0] = torch.inf
    with pytest.raises(InputError, match="not finite"):
        case.deployment.deploy(wild)


def test_what_was_prepared_is_not_prepared_again(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    first = prepare(TINY, TINY.make(1, None), 1, tmp_path, events.append)
    stages = [event["stage"] for event in events if event["event"] == "stage"]
    assert stages == ["train", "personalise", "retrain", "plan", "targets", "shadows"]
    steps = [event["doing"] for event in events if event["event"] == "step"]
    assert any("steering 3 of 3" in step for step in steps), "the search says where it is"
    told = len(events)
    again = prepare(TINY, TINY.make(1, None), 1, tmp_path, events.append)
    assert len(events) == told
    assert again.seconds == first.seconds
    assert torch.equal(weights(again.cases[1].before), weights(first.cases[1].before))
    found, kept = again.yardstick.shadows, first.yardstick.shadows
    assert np.array_equal(found.signals.log_likelihood, kept.signals.log_likelihood)
    assert np.array_equal(found.trained_on, kept.trained_on)

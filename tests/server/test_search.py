from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from zkapex.circuits.encoding import dequantise, exponent_for, quantise
from zkapex.circuits.statement import StatementSpec
from zkapex.errors import InputError
from zkapex.simulation.data.digits import Scenario, digits_scenario
from zkapex.simulation.models.tiny import ViTConfig, target_layers, vision_transformer
from zkapex.simulation.models.training import accuracy, provider_copies
from zkapex.unlearning.curvature.factor import curvature_of
from zkapex.unlearning.operators.group_obs import RangeExceededError, solve_layer
from zkapex.unlearning.personalise import FitSettings, fit
from zkapex.unlearning.planning.search import Copy, FixedPoint, Outcome, Plan, SearchSpace, Setting, search
from zkapex.unlearning.planning.steering import Steer
from zkapex.unlearning.planning.steps import Step
from zkapex.unlearning.planning.trials import choose

SHAPE = {"rows_per_chunk": 32, "block_width": 32, "weight_limit": 8000, "log2_rows": 14}
STATEMENT = StatementSpec(curvature_rank=32, ridge=192, guard_rank=4, **SHAPE)
ENCODING = FixedPoint(STATEMENT)
PLAIN = FixedPoint(StatementSpec(kind="mask-only", curvature="none", **SHAPE))
QUICK = Steer(steps=30, margin=5.0, retain_weight=6.0, forget_batch=32, retain_batch=64, rehearsal=None)
SPACE = SearchSpace(
    margin=1.0, forget_target=0.02, least=0.02, fractions=(0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08), steer=QUICK
)


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return digits_scenario(seed=0)


@pytest.fixture(scope="module")
def model(scenario: Scenario) -> nn.Module:
    trained = vision_transformer(0, ViTConfig(depth=1))
    everything = [torch.cat(parts) for parts in zip(scenario.forget_set, scenario.retain_set, strict=True)]
    fit(trained, everything[0], everything[1], FitSettings(12, 4e-3), 0)
    return trained


@pytest.fixture(scope="module")
def copies(scenario: Scenario, model: nn.Module) -> list[Copy]:
    return provider_copies(model, scenario, 0, proxies=1, settings=FitSettings(4, 1e-3), retain_size=200)


@pytest.fixture(scope="module")
def names(model: nn.Module) -> Sequence[str]:
    return tuple(target_layers(model))


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    """Where the search of `plan` said that it was."""
    return []


@pytest.fixture(scope="module")
def plan(scenario: Scenario, copies: list[Copy], names: Sequence[str], steps: list[Step]) -> Plan:
    return search(copies, names, scenario.forget_set, ENCODING, SPACE, on_step=steps.append)


def test_a_search_says_where_it_is(plan: Plan, steps: list[Step], scenario: Scenario, copies: list[Copy]) -> None:
    examples = sum(len(scenario.forget_set.labels) + len(copy.kept()[1]) for copy in copies)
    for outcome in plan.curve:
        setting = outcome.setting
        of_this = [
            s
            for s in steps
            if (s.scorer, s.guard_rank, s.fraction) == (setting.scorer, setting.guard_rank, setting.fraction)
        ]
        for stage, total in (("saliency", examples), ("steering", SPACE.steer.steps if SPACE.steer else 0)):
            found = [s for s in of_this if s.stage == stage]
            assert {s.total for s in found} == ({total} if total else set())
            assert [s.done for s in found] == sorted(s.done for s in found)
            assert not found or (found[0].done, found[-1].done) == (0, total)
    assert "mask of 1 %" in steps[0].words(), "the smallest is passed through"


def test_the_plan_makes_the_deployed_model_forget(
    plan: Plan, scenario: Scenario, model: nn.Module, names: Sequence[str]
) -> None:
    """Recomputed from the public parts alone, on unseen data."""
    exponents = {n: exponent_for(model.get_parameter(f"{n}.weight").detach().numpy(), 8000) for n in names}
    weights = {n: quantise(model.get_parameter(f"{n}.weight").detach().numpy(), e, 8000) for n, e in exponents.items()}
    curvature = curvature_of(model, names, scenario.retain_set.inputs, ENCODING.curvature)
    after = vision_transformer(0, ViTConfig(depth=1))
    after.load_state_dict(model.state_dict())
    for name in names:
        matrices = [block.matrix for block in curvature[name]]
        steering = [plan.steering.get((name, block)) for block in range(len(matrices))]
        delta = solve_layer(weights[name], plan.masks[name], matrices, plan.guards[name], 8000, steering).delta
        values = dequantise(weights[name] + delta, exponents[name])
        with torch.no_grad():
            after.get_parameter(f"{name}.weight").copy_(torch.from_numpy(values))
        assert not after.get_parameter(f"{name}.weight").detach().numpy()[plan.masks[name]].any()
    assert accuracy(model, scenario.forget_test) > 0.8
    assert accuracy(after, scenario.forget_test) < 0.1
    assert accuracy(after, scenario.retain_test) > accuracy(model, scenario.retain_test) - 0.06
    assert plan.chosen.reaches_target
    assert plan.steering


def test_the_plan_describes_itself(plan: Plan, names: Sequence[str]) -> None:
    total = sum(mask.size for mask in plan.masks.values())
    assert plan.chosen.masked_weights == sum(int(m.sum()) for m in plan.masks.values())
    assert plan.chosen.masked_weights == round(plan.chosen.setting.fraction * total)
    assert plan.chosen in plan.curve
    assert set(plan.masks) == set(plan.guards) == set(names)
    assert all(v.shape == (32, 4) and np.abs(v).max() <= 2**13 for blocks in plan.guards.values() for v in blocks)
    touched = sum(
        int(mask[:, start : start + 32].any(1).sum())
        for mask in plan.masks.values()
        for start in range(0, mask.shape[1], 32)
    )
    assert plan.chosen.touched_rows == touched
    assert plan.chosen.touched_chunks == ENCODING.chunk.touched(plan.masks)
    assert plan.chosen.forget <= plan.chosen.forget_raised


def test_a_concentrated_search_touches_fewer_chunks(
    scenario: Scenario, copies: list[Copy], names: Sequence[str]
) -> None:
    one_step = SearchSpace(scorers=("taylor",), fractions=(0.02,), steer=QUICK)
    chunks = [
        search(
            copies, names, scenario.forget_set, ENCODING, dataclasses.replace(one_step, concentration=c)
        ).chosen.touched_chunks
        for c in (0.0, 0.5, 1.0)
    ]
    assert chunks[0] > chunks[1] > chunks[2] == 1


def test_what_earlier_requests_masked_stays_masked(
    plan: Plan, scenario: Scenario, copies: list[Copy], names: Sequence[str]
) -> None:
    one_step = SearchSpace(scorers=("taylor",), fractions=(0.01,), steer=QUICK)
    again = search(copies, names, scenario.forget_set, ENCODING, one_step, plan.masks)
    assert all((again.masks[name] >= plan.masks[name]).all() for name in names)
    total = sum(mask.size for mask in plan.masks.values())
    assert again.chosen.masked_weights == plan.chosen.masked_weights + round(0.01 * total)


def test_masks_grow_and_the_search_stops_at_the_target(plan: Plan) -> None:
    first = [outcome for outcome in plan.curve if outcome.setting.scorer == "taylor"]
    assert [o.masked_weights for o in first] == sorted({o.masked_weights for o in first})
    assert [o.reaches_target for o in first] == [False] * (len(first) - 1) + [True]
    # Another scorer is followed only as long as it could still win.
    best = first[-1]
    if best.within_cost:
        assert all(o.masked_weights < best.masked_weights for o in plan.curve if o.setting.scorer == "aware")


def test_search_is_deterministic_and_leaves_the_copies_alone(
    plan: Plan, scenario: Scenario, copies: list[Copy], names: Sequence[str]
) -> None:
    before = [{k: v.clone() for k, v in c.model.state_dict().items()} for c in copies]
    again = search(copies, names, scenario.forget_set, ENCODING, SPACE)
    assert again.chosen == plan.chosen
    assert all(np.array_equal(again.masks[n], plan.masks[n]) for n in names)
    for state, c in zip(before, copies, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in c.model.state_dict().items())


def test_a_mask_alone_is_searched_with_zeroing_and_no_guard(
    scenario: Scenario, copies: list[Copy], names: Sequence[str]
) -> None:
    found = search(copies, names, scenario.forget_set, PLAIN, SPACE)
    assert found.chosen.reaches_target
    assert found.guards == {}
    assert {(o.setting.scorer, o.setting.guard_rank) for o in found.curve} == {("taylor", 0)}
    model = copies[0].model
    after = vision_transformer(0, ViTConfig(depth=1))
    after.load_state_dict(model.state_dict())
    for name in names:
        with torch.no_grad():
            after.get_parameter(f"{name}.weight")[torch.from_numpy(found.masks[name])] = 0
    assert accuracy(after, scenario.forget_test) < 0.1
    with pytest.raises(InputError, match="needs curvature"):
        search(copies, names, scenario.forget_set, PLAIN, dataclasses.replace(SPACE, scorers=("aware",)))


def test_block_fisher_curvature_serves_every_scorer(
    scenario: Scenario, copies: list[Copy], names: Sequence[str]
) -> None:
    statement = StatementSpec(curvature="block-fisher", curvature_rank=4, ridge=192, guard_rank=4, **SHAPE)
    space = dataclasses.replace(SPACE, scorers=("aware",), fractions=(0.02, 0.04))
    found = search(copies[:1], names, scenario.forget_set, FixedPoint(statement), space)
    assert [o.setting.scorer for o in found.curve] == ["aware"] * len(found.curve)
    assert found.chosen.forget < accuracy(copies[0].model, scenario.forget_set) - 0.3


def test_falling_short_is_said_not_hidden(scenario: Scenario, copies: list[Copy], names: Sequence[str]) -> None:
    one_step = SearchSpace(scorers=("magnitude", "taylor"), fractions=(0.002,), steer=None)
    short = search(copies, names, scenario.forget_set, ENCODING, one_step)
    assert not short.chosen.reaches_target
    assert short.chosen.forget_raised == min(o.forget_raised for o in short.curve)
    free = dataclasses.replace(SPACE, scorers=("taylor",), retain_cost=-1.0)
    dear = search(copies, names, scenario.forget_set, ENCODING, free)
    assert dear.chosen.reaches_target
    assert not dear.chosen.within_cost


def test_impossible_searches_are_refused(scenario: Scenario, copies: list[Copy], names: Sequence[str]) -> None:
    with pytest.raises(InputError, match="at least one copy"):
        search([], names, scenario.forget_set, ENCODING)
    with pytest.raises(InputError, match="concentration"):
        SearchSpace(concentration=1.5)
    with pytest.raises(InputError, match="at least one scorer"):
        SearchSpace(scorers=())
    for fractions in ((0.1, 0.1), (0.0,), (1.2,)):
        with pytest.raises(InputError, match="must increase"):
            SearchSpace(fractions=fractions)
    for nothing in ({"alphas": ()}, {"strengths": ()}, {"alphas": (0.0,)}):
        with pytest.raises(InputError, match="alpha and strength"):
            SearchSpace(**nothing)
    # The inverse of a guard scale this small is a multiplier far out of range.
    with pytest.raises(RangeExceededError):
        search(copies, names, scenario.forget_set, dataclasses.replace(ENCODING, guard_bits=1), SPACE)


def test_a_search_whose_cost_comes_first_stays_within_it() -> None:
    def plan(forget: float, loss: float) -> Plan:
        outcome = Outcome(
            setting=Setting("taylor", 0.1, 0),
            masked_weights=10,
            touched_rows=1,
            touched_chunks=1,
            forget=forget,
            forget_raised=forget,
            retain=0.9,
            personal=0.9,
            retain_loss=loss,
            personal_loss=0.0,
            reaches_target=forget < 0.1,
            within_cost=loss < 0.05,
        )
        return Plan(outcome, {}, {}, ())

    dear, cheap, cheaper = plan(0.0, 0.2), plan(0.6, 0.04), plan(0.8, 0.01)
    assert choose([cheaper, cheap, dear]).chosen == dear.chosen
    assert choose([cheaper, cheap, dear], cost_first=True).chosen == cheap.chosen
    assert choose([dear, plan(0.0, 0.3)], cost_first=True).chosen == dear.chosen
    both = plan(0.05, 0.02)
    assert choose([dear, both, cheap], cost_first=True).chosen == both.chosen

"""Plans that keep what earlier requests have asked for, in every chunk they touch."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import case, curvature, guard

from zkapex.errors import InputError
from zkapex.proofs.chunk.demands import Along, Demands
from zkapex.proofs.messages import LayerSpec, ModelManifest
from zkapex.unlearning.operators import Terms, operator
from zkapex.unlearning.planning.keep import keep, stacked
from zkapex.unlearning.planning.trials import Outcome, Plan, Setting

SPEC = case("targeted-group-obs")
WIDTH, RANK, UNIT, ROWS = SPEC.block_width, SPEC.guard_rank, SPEC.guard_limit, 6
MANIFEST = ModelManifest(
    model="m",
    profile="tiny",
    statement=SPEC,
    curvature_bits=13,
    layers=(LayerSpec(name="a", rows=ROWS, cols=2 * WIDTH, exponent=8),),
    circuit_digest="11" * 32,
    settings_digest="22" * 32,
    srs_digest="33" * 32,
    srs_origin="local",
)
NOTHING = np.zeros((WIDTH, RANK), np.int64)


def along(seed: int, rank: int = 1) -> Along:
    rng = np.random.default_rng(seed)
    return Along(guard(rng, WIDTH, rank), rng.integers(-200, 201, (ROWS, rank)) * UNIT)


def plan(*masked: tuple[int, int], targets: Along | None = None) -> Plan:
    """With targets in the first block."""
    mask = np.zeros((ROWS, 2 * WIDTH), np.bool_)
    for place in masked:
        mask[place] = True
    first, given = NOTHING.copy(), {}
    if targets is not None:
        count = targets.directions.shape[1]
        first[:, :count] = targets.directions
        given["a", 0] = np.zeros((ROWS, RANK), np.int64)
        given["a", 0][:, :count] = targets.targets
    outcome = Outcome(Setting("targets", 0.0, 1), 0, 0, 0, 0, 0, 0, 0, 0, 0, False, False)
    return Plan(outcome, {"a": mask}, {"a": (first, NOTHING)}, (), targets=given)


EARLIER = Demands({"a": plan((0, 3), (2, WIDTH + 1)).masks["a"]}, {("a", 0): along(1)})


def test_targets_of_both_requests_hold_after_the_second() -> None:
    new = along(2)
    kept = keep(plan(targets=new), EARLIER, MANIFEST)
    old = EARLIER.along["a", 0]
    assert np.array_equal(kept.guards["a"][0][:, :1], old.directions), "to the last bit: this is what is checked"
    assert np.array_equal(kept.targets["a", 0][:, :1], old.targets)
    assert kept.masks["a"][0, 3], "every row of the block moves"
    assert not kept.masks["a"][:, WIDTH:].any(), "what is not touched stays as it is"
    rng = np.random.default_rng(0)
    theta = {"a": rng.integers(-300, 301, (ROWS, 2 * WIDTH))}
    h = [curvature(rng, SPEC).matrix] * 2
    after, _ = operator("targeted-group-obs").change(theta, kept.terms, lambda name: h, SPEC.weight_limit)
    block = after["a"][:, :WIDTH]
    for one in (old, new):  # up to rounding, of weights and of the second's targets
        assert np.abs(block @ one.directions - one.targets).max() < 8 * UNIT
    assert after["a"][0, 3] == 0
    assert keep(kept, EARLIER, MANIFEST).guards["a"][0].tolist() == kept.guards["a"][0].tolist()


def test_a_mask_in_a_block_brings_its_targets_along() -> None:
    kept = keep(plan((4, 7)), EARLIER, MANIFEST)
    assert list(kept.targets) == [("a", 0)]
    assert kept.masks["a"][0, 3]
    away = keep(plan((4, WIDTH + 7)), EARLIER, MANIFEST)
    assert not away.targets
    assert not away.masks["a"][0, 3]


def test_without_room_or_along_the_same_direction_a_plan_is_refused() -> None:
    with pytest.raises(InputError, match="has no room"):
        keep(plan(targets=along(2, RANK)), EARLIER, MANIFEST)
    old = EARLIER.along["a", 0]
    with pytest.raises(InputError, match="along a direction that an earlier one"):
        keep(plan(targets=Along(old.directions, old.targets + UNIT)), EARLIER, MANIFEST)
    assert stacked(old, old, UNIT) is old


def test_terms_of_demands_are_those_of_constraint_only() -> None:
    terms = Terms.demanded(MANIFEST, EARLIER)
    rng = np.random.default_rng(0)
    theta = {"a": rng.integers(-300, 301, (ROWS, 2 * WIDTH))}
    after, _ = operator("constraint-only").change(theta, terms, lambda name: [], SPEC.weight_limit)
    old = EARLIER.along["a", 0]
    assert np.abs(after["a"][:, :WIDTH] @ old.directions - old.targets).max() < 5 * UNIT
    assert not after["a"][EARLIER.zeros["a"]].any()

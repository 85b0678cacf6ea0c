"""Targets: every row comes to what is prescribed, by the smallest change, and training on keeps it there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import case, curvature, guard
from torch import nn

from zkapex.errors import InputError
from zkapex.unlearning.lora import LoRA
from zkapex.unlearning.operators import Terms, operator
from zkapex.unlearning.operators.group_obs import RangeExceededError
from zkapex.unlearning.operators.held import Targets
from zkapex.unlearning.operators.targets import nearest, solve_targets
from zkapex.unlearning.personalise import FitSettings, fit

SPEC = case("targeted-group-obs")
ROWS, WIDTH, RANK, LIMIT = 6, SPEC.block_width, SPEC.guard_rank, SPEC.weight_limit


def problem(seed: int, density: float = 0.05) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    theta = rng.integers(-400, 401, (ROWS, WIDTH))
    mask = rng.random((ROWS, WIDTH)) < density
    mask[0] = False
    v = guard(rng, WIDTH, RANK)
    targets = rng.integers(-300, 301, (ROWS, RANK)) * SPEC.guard_limit
    return theta, mask, curvature(rng, SPEC).matrix, v, targets


@pytest.mark.parametrize("density", [0.0, 0.05])
def test_the_solution_meets_zeros_and_targets_and_is_stationary(density: float) -> None:
    theta, mask, h, v, targets = problem(1, density)
    found = solve_targets(theta, mask, h, v, targets, LIMIT)
    after = theta + found.delta
    assert not after[mask].any()
    assert np.abs(after @ v - targets).max() < 5 * SPEC.guard_limit
    # What is left of H d once the multipliers are taken away is rounding, in the directions that are free.
    for row in range(ROWS):
        free = np.linalg.qr(v[~mask[row]].astype(float), mode="complete")[0][:, RANK:]
        along = free.T @ (h[~mask[row]] @ found.delta[row])
        assert np.linalg.norm(along) < 2**14 < 0.2 * np.linalg.norm(h @ found.delta[row])


def test_without_a_mask_it_is_the_closed_form() -> None:
    theta, _, h, v, targets = problem(2, 0.0)
    nothing = np.zeros(theta.shape, np.bool_)
    z = np.linalg.solve(h.astype(float), v.astype(float))
    exact = (targets - theta @ v) @ np.linalg.inv(v.T @ z) @ z.T
    assert np.abs(solve_targets(theta, nothing, h, v, targets, LIMIT).delta - exact).max() <= 0.5 + 1e-6


def test_what_was_along_the_directions_leaves_no_trace() -> None:
    theta, mask, h, v, targets = problem(3)
    moved = theta.copy()
    # Another model that differs along H^-1 V alone ends at the same weights: the component is gone.
    z = np.linalg.solve(h.astype(float), v.astype(float))
    shift = np.rint(40 * z @ np.ones(RANK) / np.abs(z @ np.ones(RANK)).max()).astype(np.int64)
    moved[0] += shift
    a, b = (t + solve_targets(t, mask, h, v, targets, LIMIT).delta for t in (theta, moved))
    assert np.abs(a[0] - b[0]).max() <= 3
    assert np.abs(shift).max() == 40


def test_errors_say_what_does_not_fit() -> None:
    theta, mask, h, v, targets = problem(4)
    with pytest.raises(InputError, match="targets have shape"):
        solve_targets(theta, mask, h, v, targets[1:], LIMIT)
    with pytest.raises(RangeExceededError):
        solve_targets(theta, mask, h, v, targets * 1000, LIMIT)


def model_and_terms() -> tuple[nn.Linear, Terms, int]:
    layer, exponent = nn.Linear(WIDTH, ROWS), 10
    theta, mask, _, v, targets = problem(5)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(theta * 2.0**-exponent))
    return layer, Terms({"0": mask}, {"0": [v]}, targets={("0", 0): targets}), exponent


def test_training_on_keeps_zeros_and_targets_up_to_rounding() -> None:
    layer, terms, exponent = model_and_terms()
    model = nn.Sequential(layer)
    held = terms.held({"0": exponent})
    zero = {name: torch.from_numpy(mask) for name, mask in held.zero.items()}
    inputs, labels = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(0)), torch.arange(64) % ROWS
    before = layer.weight.detach().clone()
    fit(model, inputs, labels, FitSettings(3, 1e-2), 0, zero, held.targets)
    trained = np.rint(layer.weight.detach().double().numpy() * 2.0**exponent).astype(np.int64)
    assert not trained[terms.masks["0"]].any()
    reached = trained @ terms.guards["0"][0]
    assert np.abs(reached - terms.targets["0", 0]).max() < 5 * SPEC.guard_limit
    assert (layer.weight - before).abs().max() > 1e-2, "the rest has learned"
    again, _ = operator("constraint-only").change({"0": trained}, terms, lambda name: [], LIMIT)
    assert np.abs(again["0"] - trained).max() <= 1, "to prove it, nothing has to move"


def test_holding_says_what_does_not_fit() -> None:
    layer, terms, exponent = model_and_terms()
    inputs, labels = torch.zeros(4, WIDTH), torch.zeros(4, dtype=torch.long)
    targets = terms.held({"0": exponent}).targets
    with pytest.raises(InputError, match="does not have"):
        fit(nn.Sequential(layer), inputs, labels, FitSettings(1, 1e-3), 0, None, {"1": targets["0"]})
    wrong = {"0": (Targets(WIDTH, targets["0"][0].directions, targets["0"][0].values),)}
    with pytest.raises(InputError, match="do not fit"):
        fit(nn.Sequential(layer), inputs, labels, FitSettings(1, 1e-3), 0, None, wrong)
    with pytest.raises(InputError, match="low-rank"):
        fit(nn.Sequential(layer), inputs, labels, FitSettings(1, 1e-3, lora=LoRA(2)), 0, None, targets)


def test_the_nearest_weights_with_zeros_and_targets() -> None:
    theta, mask, _, v, targets = problem(6)
    found = nearest(theta, mask, v, targets)
    assert not found[mask].any()
    assert np.abs(found @ v - targets).max() < 5 * SPEC.guard_limit
    assert np.array_equal(nearest(found, mask, v, found @ v), found)

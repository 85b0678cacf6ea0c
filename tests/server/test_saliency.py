from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from zkapex.circuits.profiles import profile
from zkapex.errors import InputError
from zkapex.simulation.data.digits import digits_scenario
from zkapex.simulation.models.tiny import vision_transformer
from zkapex.unlearning.curvature.factor import CurvatureEncoding, curvature_of
from zkapex.unlearning.operators.group_obs import solve
from zkapex.unlearning.planning import saliency
from zkapex.unlearning.planning.saliency import (
    SCORERS,
    LayerStatistics,
    gradient_moments,
    margin_loss,
    score,
    statistics,
)

NAMES = ("blocks.0.fc1", "blocks.1.fc2")


def layer(seed: int = 0, out: int = 6, columns: int = 11, width: int = 8) -> LayerStatistics:
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(out, columns)) for _ in range(3)]
    squares = [rng.random((out, columns)) for _ in range(2)]
    blocks = [rng.normal(size=(width, 4 * width)) for _ in range(2)]
    inverse = np.stack([np.linalg.inv(x @ x.T / 10 + np.eye(width)) for x in blocks])
    return LayerStatistics(arrays[0], arrays[1], squares[0], arrays[2], squares[1], inverse, 0.25)


def test_gradient_moments_match_one_backward_pass_per_example(monkeypatch: pytest.MonkeyPatch) -> None:
    forget = digits_scenario(seed=0).forget_set.take(torch.arange(7))
    model = vision_transformer(0)
    whole = gradient_moments(model, NAMES, *forget)
    monkeypatch.setattr(saliency, "_GRADIENT_BYTES", 1 << 15)
    chunked = gradient_moments(model, NAMES, *forget)
    slow = {name: [] for name in NAMES}
    for x, y in zip(*forget, strict=True):
        model.zero_grad()
        margin_loss(model(x[None]), y[None]).backward()
        for name in NAMES:
            slow[name].append(model.get_parameter(f"{name}.weight").grad.double().numpy())
    for name in NAMES:
        gradients = np.stack(slow[name])
        for got in (whole[name], chunked[name]):
            np.testing.assert_allclose(got[0], gradients.mean(0), atol=1e-6)
            np.testing.assert_allclose(got[1], (gradients**2).mean(0), atol=1e-6)


def test_margin_loss_does_not_saturate() -> None:
    logits = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    loss = margin_loss(logits, torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(np.log(2) - 60)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), [[-1, 0.5, 0.5]])


def test_aware_foresees_what_group_obs_does() -> None:
    """``a(g)`` is g . delta of the operator that zeroes that one weight and repairs its block."""
    statistics_ = layer(columns=8)
    scale = 1e4
    quiet = dataclasses.replace(statistics_, retain_gradient=np.zeros((6, 8)), retain_fisher=np.zeros((6, 8)))
    scores = SCORERS["aware"](quiet)
    h = np.linalg.inv(statistics_.inverse_curvature[0])
    encoded = np.rint((h + h.T) / 2 * 1e5).astype(np.int64)
    theta = np.rint(quiet.weight * scale).astype(np.int64)
    for row, column in ((0, 0), (3, 5), (5, 7)):
        mask = np.zeros((6, 8), bool)
        mask[row, column] = True
        delta = solve(theta, mask, encoded, np.zeros((8, 0), np.int64), 10**9).delta / scale
        assert scores[row, column] == pytest.approx((quiet.forget_gradient * delta).sum(), abs=2e-3)


def test_aware_handles_the_padded_last_block() -> None:
    s = layer()
    a = s.inverse_curvature[1][:3, :3]
    expected = -s.weight[:, 8:] * (s.forget_gradient[:, 8:] @ a) / np.diag(a)
    lost = -s.weight[:, 8:] * (s.retain_gradient[:, 8:] @ a) / np.diag(a)
    expected = expected - np.abs(lost) - s.retain_fisher[:, 8:] * s.weight[:, 8:] ** 2 / 2
    np.testing.assert_allclose(SCORERS["aware"](s)[:, 8:], expected)


def test_simple_scorers_say_what_they_claim() -> None:
    s = layer()
    np.testing.assert_array_equal(SCORERS["magnitude"](s), -np.abs(s.weight))
    np.testing.assert_allclose(SCORERS["fisher-ratio"](s), s.forget_fisher / s.retain_fisher)
    taylor = -(s.forget_gradient - s.retain_gradient) * s.weight
    taylor += (s.forget_fisher - s.retain_fisher) * s.weight**2 / 2
    np.testing.assert_allclose(SCORERS["taylor"](s), taylor)


def by_hand() -> LayerStatistics:
    """One row of four weights: what the forget set needs, what argues against it, what both need, what nobody needs."""
    arrays = (
        [2.0, 2.0, 2.0, 4.0],
        [-3.0, 3.0, -1.0, 0.0],
        [9.0, 12.0, 1.0, 0.0],
        [0.0, 0.0, -4.0, 0.0],
        [1.0, 0.0, 16.0, 0.0],
    )
    return LayerStatistics(*(np.array([row]) for row in arrays), None, 0.25)


@pytest.mark.parametrize(
    ("scorer", "expected"),
    [
        ("apex-taylor", [3 * 2 + 9 * 4 / 2, -3 * 2 + 12 * 4 / 2, 2 + 1 * 4 / 2, 0]),
        ("apex-quotient", [4 * 9 / (2 * 9), 4 * 9 / (2 * 12), 4 * 1 / (2 * 1), 0]),
        ("ssd-ratio", [9 / (0.25 * 9 + 0.75 * 1), 12 / (0.25 * 12), 1 / (0.25 + 0.75 * 16), 0]),
        ("taylor", [6 + 18 - 2, -6 + 24, 2 + 2 - (8 + 32), 0]),
        ("magnitude", [-2, -2, -2, -4]),
    ],
)
def test_scores_by_hand(scorer: str, expected: list[float]) -> None:
    np.testing.assert_allclose(SCORERS[scorer](by_hand()), [expected])


def test_ssd_ranks_as_the_fisher_ratio_but_cannot_grow_without_bound() -> None:
    s = layer()
    ratio, ssd = SCORERS["fisher-ratio"](s).ravel(), SCORERS["ssd-ratio"](s).ravel()
    np.testing.assert_array_equal(np.argsort(ratio), np.argsort(ssd))
    assert ssd.max() < 4 < ratio.max()


def test_the_quotient_is_a_size_times_agreement() -> None:
    s = layer()
    examples = np.random.default_rng(1).normal(1.0, 1.0, (50, *s.weight.shape))
    s = dataclasses.replace(s, forget_gradient=examples.mean(0), forget_fisher=(examples**2).mean(0))
    found = SCORERS["apex-quotient"](s)
    assert (found >= 0).all()
    assert (found <= s.weight**2 / 2).all()
    same = dataclasses.replace(s, forget_fisher=s.forget_gradient**2)
    np.testing.assert_allclose(SCORERS["apex-quotient"](same), s.weight**2 / 2)


def test_fisher_ratio_survives_weights_the_retain_set_never_uses() -> None:
    s = dataclasses.replace(layer(), retain_fisher=np.zeros((6, 11)))
    assert np.isfinite(SCORERS["fisher-ratio"](s)).all()


@pytest.mark.parametrize("kind", ["kfac", "block-fisher"])
def test_statistics_feed_every_scorer(kind: str) -> None:
    scenario, model = digits_scenario(seed=0), vision_transformer(0)
    encoding = CurvatureEncoding.of(profile("tiny").statement(curvature=kind))
    curvature = curvature_of(model, NAMES, scenario.retain_set.inputs[:50], encoding)
    retain = scenario.retain_set.take(torch.arange(20))
    found = statistics(model, NAMES, scenario.forget_set, retain, curvature)
    assert found["blocks.1.fc2"].inverse_curvature.shape == ((2, 32, 32) if kind == "kfac" else (2, 32, 32, 32))
    for name in SCORERS:
        scores = score(name, found)
        assert {k: v.shape for k, v in scores.items()} == {"blocks.0.fc1": (64, 32), "blocks.1.fc2": (32, 64)}
        assert all(np.isfinite(v).all() for v in scores.values())


def test_curvature_of_every_row_compensates_row_by_row() -> None:
    """With the same matrix in every row it is as with one for all; with another in one row, only its scores differ."""
    one = layer()
    shared = one.inverse_curvature
    repeated = np.repeat(shared[:, None], len(one.weight), axis=1)
    same = dataclasses.replace(one, inverse_curvature=repeated)
    np.testing.assert_allclose(SCORERS["aware"](same), SCORERS["aware"](one))
    changed = repeated.copy()
    changed[:, 2] += np.ones_like(changed[0, 0])
    scores = SCORERS["aware"](dataclasses.replace(one, inverse_curvature=changed))
    differ = (scores != SCORERS["aware"](same)).any(1)
    assert differ.tolist() == [row == 2 for row in range(len(one.weight))]


def test_selective_weighs_harm_by_caution_and_its_square() -> None:
    s = layer()
    nothing = np.zeros_like(s.weight)
    harmless = dataclasses.replace(s, retain_gradient=nothing, retain_fisher=nothing)
    first = SCORERS["aware"](harmless) - SCORERS["aware"](dataclasses.replace(s, retain_fisher=nothing))
    expected = SCORERS["aware"](harmless) - 8 * first - 64 * s.retain_fisher * s.weight**2 / 2
    np.testing.assert_allclose(SCORERS["selective"](s), expected)


def test_without_curvature_there_is_every_scorer_that_foresees_no_compensation() -> None:
    scenario, model = digits_scenario(seed=0), vision_transformer(0)
    retain = scenario.retain_set.take(torch.arange(20))
    found = statistics(model, NAMES, scenario.forget_set.take(torch.arange(5)), retain, {})
    for name in set(SCORERS) - {"aware", "selective"}:
        assert np.isfinite(score(name, found)["blocks.0.fc1"]).all()
    with pytest.raises(InputError, match="needs curvature"):
        score("aware", found)


def test_bad_input_is_refused() -> None:
    model, x = vision_transformer(0), torch.zeros(2, 1, 8, 8)
    with pytest.raises(InputError, match="unknown scorer"):
        score("astrology", {"a": layer()})
    with pytest.raises(InputError, match="not a linear layer"):
        gradient_moments(model, ["norm"], x, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InputError, match="no gradient"):
        gradient_moments(model, NAMES, x[:0], torch.zeros(0, dtype=torch.int64))
    assert isinstance(model, nn.Module)

"""Which activations are committed to, and how they become integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zkapex.circuits.profiles import profile
from zkapex.errors import InputError
from zkapex.proofs.chunk.second_moment import MomentPublic
from zkapex.unlearning.curvature.activations import SCALE, encode_activations, sample_activations
from zkapex.unlearning.curvature.factor import KAPPA, CurvatureEncoding, encode

SPEC = profile("tiny").statement("second-moment")
ENCODING = CurvatureEncoding.of(profile("tiny").statement())
ROWS, WIDTH = SPEC.rows_per_chunk, SPEC.block_width


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))


def inputs(n: int) -> torch.Tensor:
    return torch.randn(n, 4, 5, generator=torch.Generator().manual_seed(1))


def test_a_sample_is_of_the_layers_inputs_block_by_block() -> None:
    x = inputs(300)
    drawn = sample_activations(network(), ["0", "2"], x, 4, 50, seed=3)
    assert {name: blocks.shape for name, blocks in drawn.items()} == {"0": (2, 50, 4), "2": (2, 50, 4)}
    rows = np.concatenate([drawn["0"][0], drawn["0"][1]], axis=1)
    assert not rows[:, 5:].any()
    known = {tuple(row) for row in x.reshape(-1, 5).double().numpy()}
    assert {tuple(row) for row in rows[:, :5]} <= known
    assert len({tuple(row) for row in rows}) == 50, "without replacement"
    again, other = (sample_activations(network(), ["0"], x, 4, 50, seed=s)["0"] for s in (3, 4))
    np.testing.assert_array_equal(again, drawn["0"])
    assert (other != drawn["0"]).any()


def test_a_sample_of_more_than_there_are_is_everything() -> None:
    drawn = sample_activations(network(), ["0"], inputs(3), 5, 50, seed=0)["0"][0]
    np.testing.assert_array_equal(drawn, inputs(3).reshape(-1, 5).double().numpy())
    with pytest.raises(InputError, match="no sample"):
        sample_activations(network(), ["0"], inputs(3), 5, 0, seed=0)


def test_every_token_is_as_likely_as_any_other() -> None:
    """Also the ones of later batches: 300 examples are two of them."""
    x = torch.arange(300.0)[:, None, None].expand(300, 1, 5).contiguous()
    counts = np.zeros(300)
    for seed in range(200):
        counts[sample_activations(network(), ["0"], x, 5, 30, seed)["0"][0][:, 0].astype(int)] += 1
    assert counts.sum() == 200 * 30
    assert counts[256:].mean() == pytest.approx(20, rel=0.1)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, ROWS),
    size=st.floats(1e-6, 1e6),
    spread=st.floats(0, 4),
)
def test_the_tolerance_is_the_least_that_holds(seed: int, count: int, size: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, WIDTH)) * np.exp(spread * rng.normal(size=WIDTH)) * size
    factor = encode(x.T @ x / count, WIDTH, ENCODING).factor
    encoded = encode_activations(x, factor, SPEC, KAPPA)
    assert encoded.values.shape == (ROWS, WIDTH)
    assert not encoded.values[count:].any()
    assert np.abs(encoded.values).max() <= SPEC.weight_limit
    assert 1 <= encoded.scale <= SCALE
    residual = encoded.scale * (factor.T @ factor) - encoded.values.T @ encoded.values
    total = sum(v * v for v in residual.ravel().tolist())
    public = MomentPublic(encoded.scale, encoded.per_mille, KAPPA, 0)
    assert total <= public.slack(SPEC).largest
    assert total > ((encoded.per_mille - 1) / 1000 * encoded.scale * 2**KAPPA) ** 2 * (1 - 1e-12)
    assert encoded.per_mille <= 50, "honest encoding is accepted by default"


def test_activations_that_are_too_large_at_the_usual_scale_get_a_smaller_one() -> None:
    x = np.zeros((ROWS, WIDTH))
    x[0, 0] = 1.0
    factor = encode(x.T @ x, WIDTH, ENCODING).factor
    encoded = encode_activations(x, factor, SPEC, KAPPA)
    assert encoded.scale < SCALE
    assert encoded.values[0, 0] >= SPEC.weight_limit - 40
    assert encoded.per_mille <= 50


def test_a_dead_block_is_the_second_moment_of_nothing() -> None:
    x = np.zeros((3, WIDTH))
    encoded = encode_activations(x, np.zeros(SPEC.factor_shape, np.int64), SPEC, KAPPA)
    assert (encoded.values.any(), encoded.per_mille) == (False, 1)


def test_other_activations_need_a_tolerance_that_is_not_accepted() -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(ROWS, WIDTH)) @ rng.normal(size=(WIDTH, WIDTH)) for _ in range(2))
    factor = encode(x.T @ x / ROWS, WIDTH, ENCODING).factor
    assert encode_activations(x, factor, SPEC, KAPPA).per_mille <= 30
    assert encode_activations(y, factor, SPEC, KAPPA).per_mille > 300


def test_what_does_not_fit_is_refused() -> None:
    factor = np.zeros(SPEC.factor_shape, np.int64)
    for bad in (
        np.zeros((ROWS + 1, WIDTH)),
        np.zeros((0, WIDTH)),
        np.zeros((3, WIDTH - 1)),
        np.full((3, WIDTH), np.nan),
    ):
        with pytest.raises(InputError, match="fit"):
            encode_activations(bad, factor, SPEC, KAPPA)
    with pytest.raises(InputError, match="fit"):
        encode_activations(np.zeros((3, WIDTH)), factor[:-1], SPEC, KAPPA)

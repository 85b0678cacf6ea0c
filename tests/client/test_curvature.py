"""Encoded curvature: positive definite by construction, bounded, damped at least as asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import inputs, network

from zkapex.circuits.profiles import profile
from zkapex.unlearning.curvature.factor import KAPPA, CurvatureEncoding, CurvatureError, curvature_of, encode
from zkapex.unlearning.curvature.moments import fisher_moments, weighted_moments


def encoding(width: int, rank: int, ridge: int = 20, kappa: int = 12, damping: float = 0.03) -> CurvatureEncoding:
    return CurvatureEncoding("kfac", width, rank, ridge, kappa, damping)


def moments(rng: np.random.Generator, width: int, columns: int, examples: int, spread: float) -> np.ndarray:
    """A second moment over `columns` columns, zero elsewhere; of low rank if there are few examples."""
    x = np.zeros((examples, width))
    x[:, :columns] = rng.normal(size=(examples, columns)) * np.exp(spread * rng.normal(size=columns))
    return x.T @ x / examples


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.sampled_from([2, 8, 32]),
    rank=st.integers(1, 40),
    missing=st.integers(0, 1),
    examples=st.sampled_from([1, 3, 60]),
    spread=st.floats(0, 4),
    kappa=st.integers(10, 15),
    ridge=st.integers(1, 60),
    damping=st.sampled_from([1e-4, 0.03, 1.0]),
)
def test_encoded_curvature_is_symmetric_positive_bounded_and_damped(
    seed: int,
    width: int,
    rank: int,
    missing: int,
    examples: int,
    spread: float,
    kappa: int,
    ridge: int,
    damping: float,
) -> None:
    columns = width - missing
    m = moments(np.random.default_rng(seed), width, columns, examples, spread)
    wanted = encoding(width, rank, ridge, kappa, damping)
    encoded = encode(m, columns, wanted)
    assert encoded.factor.shape == (rank, width)
    assert encoded.factor.dtype == np.int64
    matrix = encoded.matrix
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(matrix, encoded.factor.T @ encoded.factor + ridge * np.eye(width, dtype=np.int64))
    assert np.linalg.eigvalsh(matrix.astype(np.float64))[0] >= ridge * (1 - 1e-9) - 1e-6
    assert np.linalg.norm(matrix.astype(np.float64)) <= 2.0**kappa
    assert encoded.damping >= damping * (1 - 1e-12)
    if missing:
        np.testing.assert_array_equal(matrix[columns], ridge * np.eye(width)[columns])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, 40), spread=st.floats(0, 2))
def test_the_factor_is_the_damped_moment_up_to_rounding_and_what_is_left_out(
    seed: int, rank: int, spread: float
) -> None:
    """``H / s`` is the moment over its mean, damped by ``ridge / s``, but for the eigenvectors beyond the rank."""
    width = 16
    m = moments(np.random.default_rng(seed), width, width, 200, spread)
    encoded = encode(m, width, encoding(width, rank, ridge=192, kappa=KAPPA))
    scale = 192 / encoded.damping
    normal = m / (np.trace(m) / width)
    values, vectors = np.linalg.eigh(normal)
    kept = np.where(np.arange(width) >= width - rank, values, 0.0)
    ideal = (vectors * kept) @ vectors.T + encoded.damping * np.eye(width)
    # Each entry of F is off by at most 1/2, so F^T F by at most |F| sqrt(q B) / 2 twice, and q B / 4.
    size = min(rank, width) * width
    slack = (np.linalg.norm(encoded.factor) * np.sqrt(size) + size / 4) / scale
    assert np.linalg.norm(encoded.matrix / scale - ideal) <= slack
    if rank < width:
        assert encoded.damping >= values[: width - rank].mean() * (1 - 1e-9), "what is left out is made up for"


def test_the_scale_is_as_large_as_the_bounds_allow() -> None:
    """Either the damping asked for is met, or the norm is used up."""
    m = moments(np.random.default_rng(0), 16, 16, 200, 0.5)
    met = encode(m, 16, encoding(16, 16, ridge=192, kappa=KAPPA, damping=0.5))
    assert met.damping == pytest.approx(0.5)
    full = encode(m, 16, encoding(16, 16, ridge=192, kappa=KAPPA, damping=1e-6))
    assert 0.95 * 2**KAPPA <= np.linalg.norm(full.matrix) <= 2**KAPPA
    assert full.damping > 1e-6


def test_moments_of_rank_below_the_factors_leave_rows_of_zeros() -> None:
    m = np.zeros((8, 8))
    m[2, 2] = 5.0
    encoded = encode(m, 8, encoding(8, 4))
    assert np.count_nonzero(encoded.factor.any(1)) == 1
    assert np.count_nonzero(encoded.matrix - 20 * np.eye(8)) == 1
    wide = encode(m, 8, encoding(8, 12))
    assert wide.factor.shape == (12, 8)
    assert not wide.factor[8:].any(), "a matrix of width 8 has no more eigenvectors"


@pytest.mark.parametrize("columns", [8, 5])
def test_without_any_signal_there_is_the_ridge_alone(columns: int) -> None:
    encoded = encode(np.zeros((8, 8)), columns, encoding(8, 4))
    assert not encoded.factor.any()
    np.testing.assert_array_equal(encoded.matrix, 20 * np.eye(8))
    assert np.isfinite(encoded.damping)
    assert encoded.damping == pytest.approx(0.03)


def test_what_stands_in_padding_columns_does_not_count() -> None:
    m = moments(np.random.default_rng(1), 8, 8, 50, 0.5)
    cut = np.zeros_like(m)
    cut[:5, :5] = m[:5, :5]
    first, second = encode(m, 5, encoding(8, 4)), encode(cut, 5, encoding(8, 4))
    np.testing.assert_array_equal(first.factor, second.factor)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 6), rank=st.integers(1, 10), columns=st.integers(1, 8))
def test_a_batch_is_encoded_row_by_row(seed: int, rows: int, rank: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    stack = np.stack([moments(rng, 8, columns, 1 + i, 2.0) for i in range(rows)])
    stack[rng.random(rows) < 0.3] = 0.0
    wanted = replace(encoding(8, rank), kind="block-fisher")
    batch = encode(stack, columns, wanted)
    singles = [encode(m, columns, wanted) for m in stack]
    assert batch.factor.shape == (rows, rank, 8)
    # Eigenvectors are unique up to sign, and up to rotation where eigenvalues repeat.
    np.testing.assert_array_equal(batch.factor, np.stack([one.factor for one in singles]))
    np.testing.assert_array_equal(batch.matrix, np.stack([one.matrix for one in singles]))
    assert batch.damping == max(one.damping for one in singles)


def test_unusable_moments_are_refused() -> None:
    good = np.eye(3)
    wanted = encoding(3, 2)
    for bad in (np.full((3, 3), np.nan), np.full((3, 3), np.inf), np.ones((2, 3)), np.eye(4), np.ones((2, 3, 4))):
        with pytest.raises(CurvatureError, match="not finite square"):
            encode(bad, 3, wanted)
    for columns in (0, 4):
        with pytest.raises(CurvatureError, match="columns"):
            encode(good, columns, wanted)
    with pytest.raises(CurvatureError, match="symmetric"):
        encode(np.triu(np.ones((3, 3))), 3, wanted)
    for damping in (0.0, -1.0, float("nan")):
        with pytest.raises(CurvatureError, match="damping must be positive"):
            encode(good, 3, replace(wanted, damping=damping))
    with pytest.raises(CurvatureError, match="leaves no room"):
        encode(good, 3, replace(wanted, ridge=2000, kappa=11))


@pytest.mark.parametrize("name", ["tiny", "edge", "server"])
def test_every_profile_leaves_room_above_its_ridge(name: str) -> None:
    spec = profile(name).statement()
    wanted = CurvatureEncoding.of(spec)
    assert (wanted.block_width, wanted.rank, wanted.ridge) == (spec.block_width, spec.curvature_rank, spec.ridge)
    m = moments(np.random.default_rng(0), spec.block_width, spec.block_width, 500, 1.0)
    encoded = encode(m, spec.block_width, wanted)
    assert np.abs(encoded.factor).max() <= spec.weight_limit, "the factor passes the lookup"
    assert encoded.damping < 0.5


def test_kfac_covers_every_block_of_every_layer() -> None:
    wanted = replace(encoding(4, 3), damping=0.1)
    blocks = curvature_of(network(), ["0", "2"], inputs(30, 4), wanted)
    found = weighted_moments(network(), ["0", "2"], inputs(30, 4), 4)
    assert {name: len(b) for name, b in blocks.items()} == {"0": 2, "2": 2}
    for name, columns in (("0", (4, 1)), ("2", (4, 3))):
        for block, m, count in zip(blocks[name], found[name], columns, strict=True):
            np.testing.assert_array_equal(block.factor, encode(m, count, wanted).factor)


def test_block_fisher_has_a_factor_for_every_row_of_every_block() -> None:
    wanted = replace(encoding(4, 2), kind="block-fisher")
    blocks = curvature_of(network(), ["0", "2"], inputs(30), wanted)
    found = fisher_moments(network(), ["0", "2"], inputs(30), 4)
    for name, rows, columns in (("0", 7, (4, 1)), ("2", 3, (4, 3))):
        assert [block.factor.shape for block in blocks[name]] == [(rows, 2, 4)] * 2
        for block, m, count in zip(blocks[name], found[name], columns, strict=True):
            np.testing.assert_array_equal(block.factor, encode(m, count, wanted).factor)
    assert torch.is_grad_enabled()

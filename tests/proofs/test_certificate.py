"""The certified distance is a bound: no change that a tolerance admits is further from the exact operator."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import KAPPA, curvature, guard, spec

from zkapex.circuits.statement import StatementSpec
from zkapex.proofs.certificate import chunk_distance
from zkapex.proofs.chunk import IntArray, PublicInputs, square_sums

ROWS, WIDTH, RANK = 4, 16, 2
SPEC = StatementSpec(rows_per_chunk=ROWS, block_width=WIDTH, guard_rank=RANK, weight_limit=4032, log2_rows=13)
Matrix = npt.NDArray[np.float64]


def exact(theta: IntArray, mask: npt.NDArray[np.bool_], h: IntArray, v: IntArray) -> tuple[Matrix, Matrix]:
    """The exact operator on every row, unrounded: its change and its multipliers, from the dense KKT system."""
    delta, mu = np.zeros(theta.shape), np.zeros((len(theta), v.shape[1]))
    for i, row in enumerate(mask):
        u = ~row
        delta[i, row] = -theta[i, row]
        vu = v[u].astype(np.float64)
        top = np.hstack([h[np.ix_(u, u)], -vu])
        bottom = np.hstack([vu.T, np.zeros((v.shape[1], v.shape[1]))])
        right = np.concatenate([-h[np.ix_(u, row)] @ delta[i, row], np.zeros(v.shape[1])])
        solution = np.linalg.lstsq(np.vstack([top, bottom]), right, rcond=None)[0]
        delta[i, u], mu[i] = solution[: u.sum()], solution[u.sum() :]
    return delta, mu


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.6, 3.0, 40.0]), st.booleans())
def test_an_accepted_change_is_no_further_than_certified(seed: int, noise: float, along_guard: bool) -> None:
    rng = np.random.default_rng(seed)
    theta = rng.integers(-900, 901, (ROWS, WIDTH))
    mask = rng.random((ROWS, WIDTH)) < 0.2
    mask[0, 0] = True
    h, v = curvature(rng, WIDTH), guard(rng, WIDTH, RANK)
    ideal, multipliers = exact(theta, mask, h, v)
    push = rng.normal(size=(ROWS, RANK)) @ v.T * noise / 2**10 if along_guard else rng.normal(size=ideal.shape) * noise
    delta = np.where(mask, -theta, np.rint(ideal + push)).astype(np.int64)
    mu = np.rint(multipliers).astype(np.int64)
    residuals = delta @ h - mu @ v.T, (delta * ~mask) @ v
    tau_s, tau_g = square_sums(residuals, mask)
    public = PublicInputs(mask, v, tau_s, tau_g, 1)
    smallest = float(np.linalg.eigvalsh(h)[0])
    norm = math.log2(float(np.linalg.norm(h, axis=0).max()))
    bound = chunk_distance(SPEC, public, math.ceil(norm), smallest)
    assert np.linalg.norm(delta - ideal) <= bound


def test_the_distance_shrinks_with_the_tolerances_and_grows_without_damping() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((ROWS, WIDTH)) < 0.2
    mask[0, 0] = True
    v = guard(rng, WIDTH, RANK)
    public = PublicInputs(mask, v, 10**8, 10**8, 1)
    base = chunk_distance(SPEC, public, KAPPA, 10.0)
    assert chunk_distance(SPEC, PublicInputs(mask, v, 10**6, 10**8, 1), KAPPA, 10.0) < base
    assert chunk_distance(SPEC, PublicInputs(mask, v, 10**8, 10**6, 1), KAPPA, 10.0) < base
    assert chunk_distance(SPEC, public, KAPPA, 1.0) > base
    none = PublicInputs(mask, np.zeros_like(v), 10**8, 10**8, 1)
    assert chunk_distance(SPEC, none, KAPPA, 10.0) == pytest.approx(1000.0, rel=1e-3), "sqrt(tau) / lambda"


def test_a_guard_that_the_mask_leaves_no_room_for_certifies_nothing() -> None:
    mask = np.zeros((ROWS, WIDTH), np.bool_)
    mask[1, 1:] = True
    v = guard(np.random.default_rng(1), WIDTH, RANK)
    assert chunk_distance(SPEC, PublicInputs(mask, v, 1, 1, 1), KAPPA, 1.0) == math.inf
    twice = np.repeat(v[:, :1], RANK, axis=1)
    mask[1, 1:] = False
    mask[1, 3] = True
    assert chunk_distance(SPEC, PublicInputs(mask, twice, 1, 1, 1), KAPPA, 1.0) > 1e9
    assert spec().weight_limit == SPEC.weight_limit

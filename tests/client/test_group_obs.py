from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zkapex.circuits.operators.guarded_group_obs import RIDGE
from zkapex.circuits.operators.tolerances import GUARD_BITS, tolerances
from zkapex.errors import InputError
from zkapex.proofs.chunk.witness import square_sums
from zkapex.simulation.data.digits import digits_scenario
from zkapex.simulation.models.tiny import target_layers, vision_transformer
from zkapex.unlearning.curvature.factor import KAPPA, CurvatureEncoding, curvature_of, encode
from zkapex.unlearning.operators import group_obs
from zkapex.unlearning.operators.group_obs import RangeExceededError, Solution, mask_only, response, solve, solve_layer

WIDE = 10**7
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
on_every_device = pytest.mark.parametrize("device", DEVICES)


def residuals(delta: np.ndarray, mu: np.ndarray, h: np.ndarray, v: np.ndarray, mask: np.ndarray) -> tuple[int, int]:
    """The two sums the circuit bounds, for one curvature matrix or one per row."""
    product = delta @ h if h.ndim == 2 else np.einsum("ij,ijk->ik", delta, h)
    return square_sums((product - mu @ v.T, np.where(mask, 0, delta) @ v), mask)


def curvature(rng: np.random.Generator, width: int, spread: float) -> np.ndarray:
    """Encoded second moment of inputs with a mean and, for a large spread, a few outlier columns."""
    x = rng.normal(size=(8 * width, width)) + rng.normal(size=width)
    x *= np.exp(spread * rng.normal(size=width))
    encoding = CurvatureEncoding("kfac", width, width, RIDGE)
    return encode(x.T @ x / len(x), width, encoding).matrix


def guard(rng: np.random.Generator, width: int, rank: int, zero_columns: int = 0) -> np.ndarray:
    v = np.linalg.qr(rng.normal(size=(width, rank)))[0] if rank else np.zeros((width, 0))
    v[:, rank - zero_columns :] = 0.0
    return np.rint(v * 2**GUARD_BITS).astype(np.int64)


def instance(
    seed: int, rows: int, width: int, rank: int, fraction: float, spread: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    theta = rng.integers(-500, 501, size=(rows, width))
    return theta, rng.random((rows, width)) < fraction, curvature(rng, width, spread), guard(rng, width, rank)


def dense_kkt(theta: np.ndarray, mask: np.ndarray, h: np.ndarray, v: np.ndarray) -> np.ndarray:
    """One row by the textbook: [H, C^T; C, 0] with C stacking the mask's and the guard's constraints."""
    width, rank = len(theta), v.shape[1]
    fixed = np.eye(width)[mask]
    constraints = np.vstack([fixed, ((~mask)[:, None] * v).T])
    n = len(constraints)
    system = np.block([[h.astype(float), constraints.T], [constraints, np.zeros((n, n))]])
    right = np.concatenate([np.zeros(width), -theta[mask], np.zeros(rank)])
    return scipy.linalg.lstsq(system, right)[0][:width]


@on_every_device
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.sampled_from([4, 8, 32]),
    rank=st.integers(0, 3),
    fraction=st.floats(0.02, 0.4),
    spread=st.floats(0, 1.5),
)
def test_agrees_with_a_dense_kkt_solve(
    device: str, seed: int, width: int, rank: int, fraction: float, spread: float
) -> None:
    theta, mask, h, v = instance(seed, 5, width, rank, fraction, spread)
    solution = solve(theta, mask, h, v, WIDE, device=device)
    for row in range(5):
        if not mask[row].any():
            assert not solution.delta[row].any()
            assert not solution.mu[row].any()
        elif (~mask[row]).sum() > rank:
            exact = dense_kkt(theta[row], mask[row], h, v)
            np.testing.assert_allclose(solution.delta[row], exact, atol=0.5 + 1e-4 * np.abs(exact).max())
    assert not (theta + solution.delta)[mask].any()


@on_every_device
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 64),
    width=st.sampled_from([32, 64]),
    rank=st.integers(0, 8),
    fraction=st.floats(0.005, 0.3),
    spread=st.floats(0, 2.5),
)
def test_honest_solutions_are_within_tolerance(
    device: str, seed: int, rows: int, width: int, rank: int, fraction: float, spread: float
) -> None:
    theta, mask, h, v = instance(seed, rows, width, rank, fraction, spread)
    touched = int(mask.any(1).sum())
    if not touched:
        return
    solution = solve(theta, mask, h, v, WIDE, device=device)
    stationarity, leak = residuals(solution.delta, solution.mu, h, v, mask)
    tau_s, tau_g = tolerances(touched, width, rank, KAPPA, GUARD_BITS)
    assert stationarity <= tau_s
    assert leak <= tau_g


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(0, 1))
def test_a_large_change_of_one_weight_exceeds_the_tolerance(seed: int, spread: float) -> None:
    theta, mask, h, v = instance(seed, 64, 32, 4, 0.05, spread)
    solution = solve(theta, mask, h, v, WIDE)
    tau_s, _ = tolerances(int(mask.any(1).sum()), 32, 4, KAPPA, GUARD_BITS)
    column = int(np.linalg.norm(h, axis=0).argmax())
    row = int(np.flatnonzero(mask.any(1) & ~mask[:, column])[0])
    delta = solution.delta.copy()
    # The least this can leave, over all mu and against the honest residual, is the change's part outside the guard.
    vu = v[~mask[row]].astype(float)
    hu = h[column, ~mask[row]].astype(float)
    outside = np.linalg.norm(hu - vu @ np.linalg.lstsq(vu, hu, rcond=None)[0])
    delta[row, column] += int(2.1 * np.sqrt(tau_s) / outside)
    assert residuals(delta, solution.mu, h, v, mask)[0] > tau_s


def test_mask_only_and_a_solution_without_guard_are_told_apart() -> None:
    theta, mask, h, v = instance(7, 64, 32, 4, 0.05, 0.5)
    tau_s, tau_g = tolerances(int(mask.any(1).sum()), 32, 4, KAPPA, GUARD_BITS)
    bare = mask_only(theta, mask, 4)
    assert residuals(bare.delta, bare.mu, h, v, mask)[0] > tau_s
    plain = solve(theta, mask, h, v[:, :0], WIDE)
    assert residuals(plain.delta, np.zeros((64, 4), np.int64), h, v, mask)[1] > tau_g


def test_rounding_model_predicts_the_sums() -> None:
    """The expectations the tolerances are built on: |H|^2 / 12 and |V|^2 / 12 per row, to a few per cent."""
    rng = np.random.default_rng(0)
    h, v = curvature(rng, 32, 0.3), guard(rng, 32, 4)
    theta = rng.integers(-1000, 1001, size=(4000, 32))
    mask = np.zeros(theta.shape, bool)
    mask[np.arange(4000), rng.integers(0, 32, 4000)] = True
    solution = solve(theta, mask, h, v, WIDE)
    stationarity, leak = residuals(solution.delta, solution.mu, h, v, mask)
    assert leak / 4000 == pytest.approx((v.astype(float) ** 2).sum() / 12 * 31 / 32, rel=0.05)
    assert (
        0.5 * (h.astype(float) ** 2).sum() / 12 < stationarity / 4000 < 1.2 * (h.astype(float) ** 2).sum() / 12 + 4**10
    )


@on_every_device
@pytest.mark.parametrize("zero_columns", [1, 3])
def test_vanishing_and_dependent_guard_columns_do_no_harm(device: str, zero_columns: int) -> None:
    rng = np.random.default_rng(1)
    theta, mask, h, _ = instance(1, 16, 16, 0, 0.1, 0.5)
    v = guard(rng, 16, 4, zero_columns)
    expected = solve(theta, mask, h, v[:, : 4 - zero_columns], WIDE, device=device)
    padded = solve(theta, mask, h, v, WIDE, device=device)
    repeated = solve(theta, mask, h, np.hstack([v, v[:, :1]]), WIDE, device=device)
    np.testing.assert_array_equal(padded.delta, expected.delta)
    np.testing.assert_allclose(repeated.delta, expected.delta, atol=1)
    assert not padded.mu[:, 4 - zero_columns :].any()


def test_a_fully_masked_row_is_zeroed() -> None:
    theta, mask, h, v = instance(2, 3, 8, 2, 0.0, 0.0)
    mask[1] = True
    solution = solve(theta, mask, h, v, WIDE)
    np.testing.assert_array_equal(solution.delta[1], -theta[1])
    assert not solution.delta[[0, 2]].any()
    assert residuals(solution.delta, solution.mu, h, v, mask) == (0, 0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 20))
def test_sums_are_exact_beyond_64_bits(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    delta, mu = rng.integers(-(2**16), 2**16, (4, size)), rng.integers(-(2**16), 2**16, (4, 2))
    h, v = rng.integers(-(2**16), 2**16, (size, size)), rng.integers(-(2**16), 2**16, (size, 2))
    mask = rng.random((4, size)) < 0.3
    d, m, hh, vv, u = (x.astype(object) for x in (delta, mu, h, v, (~mask).astype(int)))
    expected = int((((d.dot(hh) - m.dot(vv.T)) * u) ** 2).sum()), int(((d * u).dot(vv) ** 2).sum())
    assert residuals(delta, mu, h, v, mask) == expected


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(5, 24), rows=st.integers(1, 12))
def test_a_layer_is_its_blocks_and_its_bands(seed: int, columns: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    width = 8
    blocks = -(-columns // width)
    theta, mask = rng.integers(-500, 501, (rows, columns)), rng.random((rows, columns)) < 0.15
    h, v = [curvature(rng, width, 0.5) for _ in range(blocks)], [guard(rng, width, 2) for _ in range(blocks)]
    whole = solve_layer(theta, mask, h, v, WIDE)
    half = rows // 2
    band = solve_layer(theta[half:], mask[half:], h, v, WIDE)
    np.testing.assert_array_equal(whole.delta[half:], band.delta)
    np.testing.assert_array_equal(whole.mu[:, half:], band.mu)
    first = solve(theta[:, :width], mask[:, :width], h[0], v[0], WIDE) if columns >= width else None
    if isinstance(first, Solution):
        np.testing.assert_array_equal(whole.delta[:, :width], first.delta)
    assert whole.delta.shape == theta.shape
    assert whole.mu.shape == (blocks, rows, 2)


def test_out_of_range_is_refused_with_a_way_out() -> None:
    theta, mask, h, v = instance(3, 8, 16, 2, 0.2, 0.5)
    with pytest.raises(RangeExceededError, match="admits at most 100") as caught:
        solve(theta, mask, h, v, 100)
    assert "smaller mask" in caught.value.fix


def test_realistic_multipliers_fit_the_weights_range() -> None:
    """kappa and guard_bits are chosen so that mu, like theta, stays within the smallest profile's limit."""
    for seed in range(40):
        theta, mask, h, v = instance(seed, 64, 32, 4, 0.05, 0.5)
        assert np.abs(solve(theta, mask, h, v, WIDE).mu).max() <= 2020


def test_shapes_are_checked() -> None:
    theta, mask, h, v = instance(4, 4, 8, 2, 0.2, 0.5)
    with pytest.raises(InputError, match="do not fit"):
        solve(theta, mask[:2], h, v, WIDE)
    with pytest.raises(InputError, match="guard"):
        solve(theta, mask, h, v[:4], WIDE)
    with pytest.raises(InputError, match="shape"):
        mask_only(theta, mask[:2])
    with pytest.raises(InputError, match="need 1 curvature"):
        solve_layer(theta, mask, [h, h], [v, v], WIDE)
    with pytest.raises(InputError, match="one shape"):
        solve_layer(theta, mask[:2], [h], [v], WIDE)
    with pytest.raises(InputError, match="at least one row"):
        tolerances(0, 8, 2, KAPPA, GUARD_BITS)


def test_no_guard_needs_no_guard_tolerance() -> None:
    assert tolerances(64, 32, 0, KAPPA, GUARD_BITS)[1] == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 12), rank=st.integers(0, 3))
def test_rows_with_curvature_of_their_own_are_solved_one_by_one(seed: int, rows: int, rank: int) -> None:
    rng = np.random.default_rng(seed)
    width = 8
    theta, mask, _, v = instance(seed, rows, width, rank, 0.2, 0.5)
    h = np.stack([curvature(rng, width, 0.5) for _ in range(rows)])
    together = solve(theta, mask, h, v, WIDE)
    for i in range(rows):
        alone = solve(theta[i : i + 1], mask[i : i + 1], h[i], v, WIDE)
        np.testing.assert_array_equal(together.delta[i : i + 1], alone.delta)
        np.testing.assert_array_equal(together.mu[i : i + 1], alone.mu)
    layer = solve_layer(theta, mask, [h], [v], WIDE)
    np.testing.assert_array_equal(layer.delta, together.delta)


@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
def test_honest_solutions_under_curvature_of_their_own_are_within_tolerance(spread: float) -> None:
    rng = np.random.default_rng(3)
    theta, mask, _, v = instance(3, 32, 32, 4, 0.1, spread)
    h = np.stack([curvature(rng, 32, spread) for _ in range(32)])
    solution = solve(theta, mask, h, v, WIDE)
    tau_s, tau_g = tolerances(32, 32, 4, KAPPA, GUARD_BITS)
    stationarity, leak = residuals(solution.delta, solution.mu, h, v, mask)
    assert stationarity <= tau_s
    assert leak <= tau_g


def test_a_layer_needs_curvature_of_its_own_number_of_rows() -> None:
    theta, mask, h, v = instance(4, 4, 8, 2, 0.2, 0.5)
    with pytest.raises(InputError, match="do not fit"):
        solve(theta, mask, np.stack([h] * 3), v, WIDE)


def in_numpy(theta: np.ndarray, mask: np.ndarray, h: np.ndarray, v: np.ndarray, c: np.ndarray) -> Solution:
    """Every touched row by itself, by other factorisations of another library."""
    delta, mu = np.zeros_like(theta), np.zeros((len(theta), v.shape[1]), np.int64)
    for row in np.flatnonzero(mask.any(1)):
        u, fixed = ~mask[row], np.where(mask[row], -theta[row], 0).astype(float)
        vu, inverse = v[u].astype(float), np.linalg.inv(h[np.ix_(u, u)].astype(float))
        free = -inverse @ (h @ fixed)[u]
        moved = fixed.copy()
        moved[u] = free + inverse @ vu @ np.linalg.pinv(vu.T @ inverse @ vu, 1e-10) @ (c[row] - vu.T @ free)
        delta[row] = np.rint(moved)
        mu[row] = np.rint(np.linalg.lstsq(vu, (h @ delta[row])[u].astype(float), 1e-10)[0])
    return Solution(delta, mu)


@on_every_device
def test_on_the_digits_every_integer_is_that_of_another_library(device: str) -> None:
    """The demo's layers, curvature and width; on an accelerator the last bits may differ, and an integer by one."""
    model, world = vision_transformer(0), digits_scenario(seed=0)
    names = tuple(target_layers(model))
    found = curvature_of(model, names, world.retain_set.inputs[:200], CurvatureEncoding("kfac", 32, 32, RIDGE))
    rng = np.random.default_rng(0)
    differing = 0
    for name in names:
        theta = np.rint(model.get_parameter(f"{name}.weight").detach().double().numpy() * 2**12).astype(np.int64)
        for block, matrix in enumerate(found[name]):
            part, v = theta[:, 32 * block : 32 * (block + 1)], guard(rng, 32, 2)
            mask = rng.random(part.shape) < 0.03
            c = rng.integers(-40, 41, (len(part), 2)) * 2**GUARD_BITS
            here, there = (
                solve(part, mask, matrix.matrix, v, WIDE, c, device),
                in_numpy(part, mask, matrix.matrix, v, c),
            )
            differing += int((here.delta != there.delta).sum() + (here.mu != there.mu).sum())
    assert differing <= (0 if device == "cpu" else 2)


@pytest.mark.parametrize("own", [False, True])
def test_memory_is_bounded_by_batches_that_change_nothing(monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    theta, mask, h, v = instance(5, 40, 32, 2, 0.1, 0.5)
    if own:
        h = np.stack([curvature(np.random.default_rng(i), 32, 0.5) for i in range(40)])
    whole, answer = solve(theta, mask, h, v, WIDE), response(theta, mask, h, v)
    seen = []
    inner = torch.linalg.solve
    monkeypatch.setattr(group_obs, "_BATCH_BYTES", 7 * 8 * 32 * 32)
    monkeypatch.setattr(torch.linalg, "solve", lambda a, b: seen.append(len(a)) or inner(a, b))
    batched = solve(theta, mask, h, v, WIDE)
    assert max(seen) == 7
    assert sum(seen) == mask.any(1).sum()
    np.testing.assert_array_equal(batched.delta, whole.delta)
    np.testing.assert_array_equal(batched.mu, whole.mu)
    for one, other in zip(response(theta, mask, h, v), answer, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@on_every_device
def test_the_response_is_affine_in_the_steering_and_rounds_to_the_solution(device: str) -> None:
    theta, mask, h, v = instance(6, 16, 32, 2, 0.2, 0.5)
    rows = mask.any(1)
    theta, mask = theta[rows], mask[rows]
    c = np.random.default_rng(0).integers(-50, 51, (len(theta), 2)) * 2**GUARD_BITS
    change, push = response(theta, mask, h, v, device)
    exact = change + (push @ c[:, :, None])[:, :, 0]
    np.testing.assert_array_equal(solve(theta, mask, h, v, WIDE, c, device).delta, np.rint(exact))
    np.testing.assert_allclose((exact * ~mask) @ v, c, rtol=1e-8, atol=1e-3)


@pytest.mark.parametrize("device", ["warp", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused_by_the_settings_name(device: str) -> None:
    theta, mask, h, v = instance(4, 4, 8, 2, 0.2, 0.5)
    with pytest.raises(InputError, match=f"device='{device}'") as caught:
        solve(theta, mask, h, v, WIDE, device=device)
    assert caught.value.why
    assert "cpu" in caught.value.fix
    with pytest.raises(InputError, match=f"device='{device}'"):
        solve_layer(theta, mask, [h], [v], WIDE, device=device)

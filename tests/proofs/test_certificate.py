"""The certified distance is a bound: no change that a tolerance admits is further from the exact operator."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parties import DAMPENING, MASK, Party, Provider, make_manifest
from tiny import FloatArray, case, guard, honest

from zkapex.circuits.statement import FACTOR_UNIT, StatementSpec
from zkapex.proofs.chunk.certificate import chunk_distance, request_distance
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.chunk.public import IntArray, PublicInputs
from zkapex.proofs.chunk.witness import SaltedVector, Witness, square_sums
from zkapex.proofs.records.packing import pack_masks

ROWS, WIDTH = 4, 16


def statement(curvature: str, ridge: int, rank: int) -> StatementSpec:
    sizes = {"rows_per_chunk": ROWS, "block_width": WIDTH, "weight_limit": 4032, "log2_rows": 13}
    return StatementSpec(**sizes, curvature=curvature, curvature_rank=5, ridge=ridge, guard_rank=rank)


def certified(spec: StatementSpec, public: PublicInputs) -> float:
    """`chunk_distance` of a statement that has one."""
    found = chunk_distance(spec, public)
    assert found is not None
    return found


def exact(theta: IntArray, mask: npt.NDArray[np.bool_], h: FloatArray, v: IntArray, leak: FloatArray) -> FloatArray:
    """The exact change of every row whose component along the guard is `leak`, from the dense KKT system."""
    delta = np.zeros(theta.shape)
    for i, row in enumerate(mask):
        u = ~row
        delta[i, row] = -theta[i, row]
        vu = v[u].astype(np.float64)
        top = np.hstack([h[i][np.ix_(u, u)], -vu])
        bottom = np.hstack([vu.T, np.zeros((v.shape[1], v.shape[1]))])
        right = np.concatenate([-h[i][np.ix_(u, row)] @ delta[i, row], leak[i]])
        delta[i, u] = np.linalg.lstsq(np.vstack([top, bottom]), right, rcond=None)[0][: u.sum()]
    return delta


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    noise=st.sampled_from([0.0, 0.6, 3.0, 40.0]),
    rank=st.integers(0, 3),
    ridge=st.sampled_from([1, 20, 192]),
    size=st.sampled_from([0, 3, 60]),
    curvature=st.sampled_from(["kfac", "block-fisher"]),
)
def test_an_accepted_change_is_no_further_than_certified(
    seed: int, noise: float, rank: int, ridge: int, size: int, curvature: str
) -> None:
    """Any factor, any change of the unmasked weights, any multipliers; the tolerance is what they just meet."""
    rng = np.random.default_rng(seed)
    spec = statement(curvature, ridge, rank)
    theta = rng.integers(-900, 901, (ROWS, WIDTH))
    mask = rng.random((ROWS, WIDTH)) < 0.2
    v = guard(rng, WIDTH, rank)
    f = rng.integers(-size, size + 1, spec.factor_shape)
    factors = np.broadcast_to(f, (ROWS, *spec.factor_shape[-2:]))
    h = (np.swapaxes(factors, 1, 2) @ factors + ridge * np.eye(WIDTH)).astype(np.float64)
    ideal = exact(theta, mask, h, v, np.zeros((ROWS, rank)))
    delta = np.where(mask, -theta, np.rint(ideal + rng.normal(size=ideal.shape) * noise)).astype(np.int64)
    wanted = np.einsum("ij,ijk->ik", delta.astype(np.float64), h) * ~mask
    fitted = [
        np.linalg.lstsq(v[~m].astype(np.float64), w[~m], rcond=None)[0] for m, w in zip(mask, wanted, strict=True)
    ]
    mu = np.rint(np.reshape(fitted, (ROWS, rank))).astype(np.int64)
    witness = Witness(SaltedVector(theta + delta), SaltedVector(delta), SaltedVector(f), mu)
    residuals = witness.residuals(spec, PublicInputs(mask, v, 0, 0, 1))
    public = PublicInputs(mask, v, *square_sums(residuals, mask), 1)
    nearest = exact(theta, mask, h, v, residuals[1].astype(np.float64))
    distance = float(np.linalg.norm(delta - nearest))
    assert distance <= certified(spec, public) * (1 + 1e-9) + 1e-6


def test_the_bound_is_attained_where_the_curvature_is_the_ridge_alone() -> None:
    spec = statement("kfac", 7, 0)
    delta = np.zeros((ROWS, WIDTH), np.int64)
    delta[0, 0] = 1000
    flat = SaltedVector(np.zeros(spec.factor_shape, np.int64))
    mask = np.zeros((ROWS, WIDTH), np.bool_)
    nothing = np.zeros((WIDTH, 0), np.int64)
    witness = Witness(SaltedVector(delta), SaltedVector(delta), flat, np.zeros((ROWS, 0), np.int64))
    tau = square_sums(witness.residuals(spec, PublicInputs(mask, nothing, 0, 0, 1)), mask)[0]
    assert tau == 7000**2
    assert 1000 <= certified(spec, PublicInputs(mask, nothing, tau, 0, 1)) < 1000.1


def test_the_distance_is_that_of_the_enforced_tolerance_over_the_ridge() -> None:
    public = honest().public
    enforced = public.slacks(case("kfac"))[0].largest
    assert enforced >= public.tau_stationarity
    assert certified(case("kfac"), public) == pytest.approx(math.sqrt(enforced) / 192)
    wider = replace(public, tau_stationarity=4 * public.tau_stationarity)
    assert certified(case("kfac"), wider) > 1.9 * certified(case("kfac"), public)
    assert certified(case("kfac"), replace(public, tau_guard=10**9)) == certified(case("kfac"), public)


def test_masked_weights_alone_certify_nothing() -> None:
    assert chunk_distance(case("mask-only"), honest("mask-only").public) is None


def test_dampening_is_exact_but_for_rounding() -> None:
    """The worst that every weight's lookup admits together is the distance, and no less than half a unit each."""
    spec = case("dampening")
    bound = certified(spec, honest("dampening").public)
    assert 0.5 * math.sqrt(spec.weights) <= bound <= 0.55 * math.sqrt(spec.weights)
    k = spec.rounding_weight
    errors = np.arange(-FACTOR_UNIT, FACTOR_UNIT + 1)
    admitted = errors[(k * errors >= -spec.weight_limit) & (k * errors <= spec.largest_value)]
    assert bound == pytest.approx(np.abs(admitted).max() / FACTOR_UNIT * math.sqrt(spec.weights))


def test_a_request_adds_up_its_touched_chunks_in_units_of_the_weights() -> None:
    manifest = make_manifest(statement=DAMPENING)
    party = Party("a")
    party.enrol()
    mask = pack_masks(manifest, MASK, {name: np.zeros(m.shape, np.int64) for name, m in MASK.items()})
    asked = Provider().ask(party, operator="dampening", mask=mask, guards=()).record
    instance = Instance(manifest, asked)
    one = DAMPENING.largest_rounding * math.sqrt(DAMPENING.weights)
    exponents = {layer.name: layer.exponent for layer in manifest.layers}  # 11 and 12
    assert len(instance.touched) == 3, "two chunks of the first layer and one of the second"
    assert set(exponents.values()) == {11, 12}
    assert request_distance(instance, instance.touched) == pytest.approx(one * math.sqrt(2 * 4.0**-11 + 4.0**-12))

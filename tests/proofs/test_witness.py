"""Every circuit against exact integers, and what a prover refuses to put into one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny import CASES, Chunk, built, case, honest, make_chunk, witness_outputs

from zkapex.circuits.field import MODULUS, felts, from_felt, random_elements
from zkapex.circuits.halo2.slack import SLACK_LIMBS
from zkapex.circuits.statement import FACTOR_UNIT, StatementSpec
from zkapex.errors import ProverError
from zkapex.proofs.chunk.prove import complete, prove_vectors
from zkapex.proofs.chunk.public import IntArray, PublicInputs
from zkapex.proofs.chunk.witness import SaltedVector, Witness, check_lookups, square_sums

REPAIRS = CASES[:6]
"""Those of guarded Group-OBS."""


def integer(felt: str) -> int:
    value = from_felt(felt)
    return value if value < MODULUS // 2 else value - MODULUS


def random_chunk(spec: StatementSpec, seed: int, density: float, kind: str) -> Chunk:
    """A chunk that satisfies nothing, to compare what is computed: small, typical or at the lookup's edge."""
    rows, width, rank, limit = spec.rows_per_chunk, spec.block_width, spec.guard_rank, spec.weight_limit
    rng = np.random.default_rng(seed)

    def values(*shape: int) -> IntArray:
        match kind:
            case "edge":
                return rng.choice([-limit, limit, 0], shape, p=[0.45, 0.45, 0.1]).astype(np.int64)
            case "small":
                return rng.integers(-3, 4, shape)
            case _:
                return rng.integers(-limit // 3, limit // 3, shape)

    mask = rng.random((rows, width)) < density
    mask[rng.random(rows) < 0.3] = False  # rows without a masked weight
    theta_u = np.where(rng.random((rows, width)) < 0.5, values(rows, width), 0)
    delta = values(rows, width)
    delta[:, rng.random(width) < 0.2] = 0  # columns that do not change
    v = rng.integers(-spec.guard_limit, spec.guard_limit + 1, (width, rank))
    factor = SaltedVector(values(*spec.factor_shape), random_elements(spec.parts("factor")["salts"]))
    public = PublicInputs(mask, v, 10**12, 10**11, int(rng.integers(1, 2**62)))
    witness = Witness(SaltedVector(theta_u), SaltedVector(delta), factor, values(rows, rank))
    return Chunk(public, SaltedVector(theta_u - delta), witness)


def exact_residuals(spec: StatementSpec, chunk: Chunk) -> tuple[Any, Any]:
    """E and L in Python's integers, from their definition: with the curvature matrix itself."""
    w, public = chunk.witness, chunk.public
    assert w.delta is not None
    assert w.factor is not None
    assert w.mu is not None
    delta, factor, mu, v = (x.astype(object) for x in (w.delta.values, w.factor.values, w.mu, public.guard))
    factors = [factor] * len(delta) if spec.curvature == "kfac" else list(factor)
    identity = np.eye(spec.block_width, dtype=np.int64).astype(object)
    rows = [d @ (f.T @ f + spec.ridge * identity) for d, f in zip(delta, factors, strict=True)]
    if not spec.guard_rank:
        return np.stack(rows), np.zeros((len(delta), 0), object)
    return np.stack(rows) - mu @ v.T, np.where(public.mask, 0, delta) @ v


CASES_OF_VALUES = [(0, 0.05, "typical"), (1, 0.0, "typical"), (2, 1.0, "edge"), (3, 0.3, "edge"), (4, 0.9, "small")]


@pytest.mark.parametrize(("seed", "density", "kind"), CASES_OF_VALUES)
@pytest.mark.parametrize("name", REPAIRS)
def test_the_circuit_computes_what_exact_integers_do(name: str, seed: int, density: float, kind: str) -> None:
    """Outputs of arbitrary values: masked weights (weighted by the challenge), both sums with slack, no error."""
    spec = case(name)
    chunk = random_chunk(spec, seed, density, kind)
    w, public = chunk.witness, chunk.public
    rng = np.random.default_rng(seed + 100)
    limbs = [int(x) for x in rng.integers(-spec.weight_limit, spec.weight_limit + 1, 2 * SLACK_LIMBS)]
    residuals, exact = w.residuals(spec, public), exact_residuals(spec, chunk)
    assert all((mine == theirs).all() for mine, theirs in zip(residuals, exact, strict=True))
    vectors = complete(built(name), public, w.with_limbs(spec, residuals, limbs))
    outputs = [integer(o) for o in witness_outputs(built(name), vectors)]
    sums = [int((exact[0][~public.mask] ** 2).sum()), int((exact[1] ** 2).sum())]
    assert tuple(sums) == square_sums(residuals, public.mask)
    for i, slack in enumerate(public.slacks(spec)):
        sums[i] += sum(x * y for x, y in zip(limbs[i * SLACK_LIMBS :], slack.weights, strict=False))
    assert outputs[1:] == [*sums, *([0] if spec.freivalds else [])]
    masked = w.theta_u.values[public.mask].tolist()
    if spec.freivalds:
        powers = [from_felt(x) for x in vectors[3][spec.weights : 2 * spec.weights]]
        chosen = [p for p, m in zip(powers, public.mask.ravel(), strict=True) if m]
        assert all(p == 0 for p, m in zip(powers, public.mask.ravel(), strict=True) if not m)
        assert outputs[0] % MODULUS == sum(p * t for p, t in zip(chosen, masked, strict=True)) % MODULUS
    else:
        assert outputs[0] == sum(t * t for t in masked)


def test_residuals_are_exact_at_the_edges_of_what_a_statement_admits() -> None:
    """All values as large as they can be, of one sign, in the largest of the profiles and beyond: still 64 bits."""
    for changes in ({}, {"curvature": "block-fisher", "rows_per_chunk": 4}, {"weight_limit": 60000, "block_width": 64}):
        log2_rows = {"log2_rows": 17 if "weight_limit" in changes else 13} if changes else {}
        spec = case("kfac").model_copy(update={"rows_per_chunk": 4, **changes, **log2_rows})
        spec = StatementSpec(**spec.model_dump())
        chunk = random_chunk(spec, 0, 0.1, "edge")
        ones = replace(
            chunk.witness,
            delta=SaltedVector(np.full((4, spec.block_width), -spec.weight_limit)),
            factor=SaltedVector(np.full(spec.factor_shape, spec.weight_limit)),
        )
        one = replace(chunk, witness=ones)
        for mine, theirs in zip(ones.residuals(spec, one.public), exact_residuals(spec, one), strict=True):
            assert (mine == theirs).all()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("density", [0.002, 0.05, 0.2])
def test_the_honest_operator_satisfies_the_statement(name: str, density: float) -> None:
    made = built(name)
    chunk = make_chunk(made.spec, seed=int(density * 1000), density=density)
    vectors = complete(made, chunk.public, chunk.witness.private(made.spec, chunk.public))
    check_lookups(made.spec, dict(zip(made.spec.inputs, vectors, strict=True)))
    assert witness_outputs(made, vectors) == chunk.public.outputs(made.spec)


@pytest.mark.parametrize("name", ["kfac", "block-fisher"])
def test_a_chunk_of_padding_satisfies_the_statement(name: str) -> None:
    """Rows beyond the layer and columns beyond its last are zeros, and their part of the guard may be too."""
    made, chunk = built(name), honest(name)
    keep = np.zeros_like(chunk.public.mask)
    keep[:3, :5] = True
    v = np.where(np.arange(32)[:, None] < 5, chunk.public.guard, 0)
    public = replace(chunk.public, mask=chunk.public.mask & keep, guard=v)
    zeros = SaltedVector(np.zeros(keep.shape, np.int64))
    mu = np.zeros((len(keep), 4), np.int64)
    witness = Witness.build(zeros, SaltedVector(zeros.values), chunk.witness.factor, mu)
    vectors = complete(made, public, witness.private(made.spec, public))
    assert witness_outputs(made, vectors) == public.outputs(made.spec)


# -- what the prover refuses -------------------------------------------------------------------------------------------


def with_value(witness: Witness, name: str, value: int) -> Witness:
    """The witness with the first value of a vector, or of mu, replaced."""
    old = getattr(witness, name)
    values = (old if name == "mu" else old.values).copy()
    values.ravel()[0] = value
    changes: dict[str, Any] = {name: values if name == "mu" else SaltedVector(values, old.salts)}
    return replace(witness, **changes)


VECTORS = [
    *(("kfac", name) for name in ("theta_u", "delta", "factor", "mu")),
    ("block-fisher", "factor"),
    ("mask-only", "theta_u"),
    ("dampening", "theta_u"),
    ("dampening", "delta"),
]


@pytest.mark.parametrize(("name", "vector"), VECTORS)
def test_the_prover_refuses_values_outside_the_range(name: str, vector: str) -> None:
    made, chunk = built(name), honest(name)
    limit = made.spec.weight_limit
    for value in (limit + 1, -limit - 1, 2**63 - 1, -(2**63)):
        lie = with_value(chunk.witness, vector, value)
        with pytest.raises(ProverError, match=f"{vector} holds {value}, outside"):
            lie.private(made.spec, chunk.public)
        beyond = {n: v.vector() for n, v in lie.salted().items()} | {"aux": felts([value])}
        with pytest.raises(ProverError, match="outside the circuit's range"):
            check_lookups(case("kfac"), {n: v for n, v in beyond.items() if n == {"mu": "aux"}.get(vector, vector)})
    for value in (limit, -limit):
        fits = with_value(chunk.witness, vector, value)
        check_lookups(case("kfac"), {n: v.vector() for n, v in fits.salted().items() if name == "kfac"})


def test_mask_only_does_not_mind_how_far_weights_moved() -> None:
    """It says nothing about the difference: weights may go from one end of the range to the other."""
    made, chunk = built("mask-only"), honest("mask-only")
    limit = made.spec.weight_limit
    before = SaltedVector(np.full(chunk.public.mask.shape, -limit))
    after = SaltedVector(np.where(chunk.public.mask, 0, limit))
    assert set(Witness.build(before, after).private(made.spec, chunk.public)) == {"theta_u"}


@pytest.mark.parametrize("by", [-1, 1])
def test_a_weight_dampened_by_another_factor_is_refused(by: int) -> None:
    """One unit off what rounding gives: what the lookup would not admit, and ezkl would look for without end."""
    made, chunk = built("dampening"), honest("dampening")
    values = chunk.witness.theta_u.values.copy()
    at = tuple(int(i[0]) for i in np.nonzero(chunk.public.mask))
    values[at] += by
    lie = Witness.build(chunk.theta_p, SaltedVector(values))
    vectors = complete(made, chunk.public, lie.private(made.spec, chunk.public))
    with pytest.raises(ProverError, match="dampening factor"):
        prove_vectors(made, vectors)


def test_dampening_admits_rounding_either_way_and_nothing_else() -> None:
    """For every factor and many weights: the nearest integers, the other one at a tie, and hardly any more."""
    spec = case("dampening")
    for factor in range(FACTOR_UNIT + 1):
        theta = np.arange(-505, 506, 7)
        for error in (-1, 0, 1):
            result = np.rint(theta * factor / FACTOR_UNIT).astype(np.int64) + error
            e = spec.rounding_weight * (FACTOR_UNIT * result - factor * theta)
            admitted = (e >= -spec.weight_limit) & (e <= spec.largest_value)
            distance = np.abs(result - theta * factor / FACTOR_UNIT)
            assert admitted[distance <= 0.5].all()
            assert not admitted[distance > spec.largest_rounding].any()
            if not error:
                assert admitted.all(), "what the operator computes"
    assert spec.largest_rounding < 0.55


@pytest.mark.parametrize(("name", "vector"), [v for v in VECTORS if v[1] != "mu"])
def test_vectors_of_another_length_are_refused(name: str, vector: str) -> None:
    made, chunk = built(name), honest(name)
    old: SaltedVector = getattr(chunk.witness, vector)
    short: dict[str, Any] = {vector: SaltedVector(old.values, old.salts[:-1])}
    with pytest.raises(ProverError, match=f"{vector} has"):
        replace(chunk.witness, **short).private(made.spec, chunk.public)
    missing: dict[str, Any] = {vector: None}
    if vector != "theta_u":
        with pytest.raises(ProverError, match="needs"):
            replace(chunk.witness, **missing).private(made.spec, chunk.public)


def test_multipliers_are_needed_for_a_repair() -> None:
    with pytest.raises(ProverError, match="multipliers"):
        replace(honest().witness, mu=None).private(built("kfac").spec, honest().public)


def test_salts_are_never_printed() -> None:
    for vector in honest().witness.salted().values():
        assert all(str(s) not in repr(honest().witness) for s in vector.salts)


def test_the_difference_of_two_vectors_has_the_difference_of_their_salts() -> None:
    w, p = honest().witness, honest().theta_p
    assert w.delta is not None
    assert [from_felt(x) for x in w.delta.vector()] == [
        (from_felt(u) - from_felt(x)) % MODULUS for u, x in zip(w.theta_u.vector(), p.vector(), strict=True)
    ]
    assert w.theta_u.vector() == felts(w.theta_u.values) + felts(w.theta_u.salts)


def test_fresh_salts_hide_equal_values() -> None:
    values = np.zeros((2, 2), np.int64)
    assert SaltedVector(values).vector() != SaltedVector(values).vector()

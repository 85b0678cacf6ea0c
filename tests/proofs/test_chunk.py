"""At least one dishonest variant per check, each failing its own equation; and what a verifier accepts of a proof."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from py_ecc.optimized_bn128 import field_modulus
from tiny import (
    CASES,
    Chunk,
    built,
    bump,
    case,
    empty,
    expected,
    honest,
    honest_expected,
    honest_proof,
    places,
    tiny,
    with_theta_u,
    witness_outputs,
)

from zkapex.circuits.field import MODULUS, felts, from_felt, to_felt
from zkapex.circuits.halo2.slack import SLACK_LIMBS, slack_limbs
from zkapex.circuits.halo2.store import circuit
from zkapex.circuits.operators.tolerances import GUARD_BITS
from zkapex.errors import CommitmentError, ProofError, ProverError, VerificationError
from zkapex.proofs.chunk.commitment import POINT_BYTES, Point, commit
from zkapex.proofs.chunk.prove import (
    Expected,
    challenge,
    complete,
    leading_points,
    prove_chunk,
    prove_vectors,
    verify_chunk,
    verify_raw,
)
from zkapex.proofs.chunk.public import PublicInputs
from zkapex.proofs.chunk.witness import SaltedVector, Witness, square_sums
from zkapex.unlearning.operators.group_obs import solve

MASKED, STATIONARITY, GUARD, PRODUCTS = range(4)
"""Public outputs, by the equation they belong to."""

REPAIRS = CASES[:6]
CHECKED = [name for name in REPAIRS if not name.endswith("plain")]
"""Repairs whose matrix products are checked at a challenge."""

SLOW = ("block-fisher", "kfac-plain", "kfac-unguarded", "block-fisher-unguarded", "block-fisher-plain")
"""Left out of the default run: they differ from the others in their circuits alone."""


def by(*fields: Any) -> Any:
    """As a parameter, which begins with the name of a case."""
    return pytest.param(*fields, marks=pytest.mark.slow if fields[0] in SLOW else ())


def some(names: Sequence[str]) -> list[Any]:
    """The names of cases, as parameters."""
    return [by(name) for name in names]


def forced(name: str, chunk: Chunk) -> dict[str, list[str]]:
    """The private vectors of a witness that need not satisfy the statement: the best slack there is, else none."""
    spec = case(name)
    if name not in REPAIRS:
        return {n: v.vector() for n, v in chunk.witness.salted().items() if n in spec.inputs}
    residuals = chunk.witness.residuals(spec, chunk.public)
    limbs: list[int] = []
    for total, slack in zip(square_sums(residuals, chunk.public.mask), chunk.public.slacks(spec), strict=True):
        try:
            limbs += slack_limbs(slack, total, spec.weight_limit)
        except ProverError:
            limbs += [0] * SLACK_LIMBS
    return chunk.witness.with_limbs(spec, residuals, limbs)


def failing(name: str, chunk: Chunk, vectors: list[list[str]] | None = None) -> set[int]:
    """Which of the equations a chunk's vectors do not satisfy."""
    made = built(name)
    given = vectors or complete(made, chunk.public, forced(name, chunk))
    points = {n: commit(made, vector) for n, vector in zip(made.spec.inputs, given, strict=True)}
    outputs = witness_outputs(made, given)
    wanted = chunk.public.outputs(made.spec, challenge(made, chunk.public, points))
    return {i for i, (is_, ought) in enumerate(zip(outputs, wanted, strict=True)) if is_ != ought}


def changed(public: PublicInputs, **changes: Any) -> PublicInputs:
    return replace(public, **changes)


def masked_place(chunk: Chunk) -> tuple[int, int]:
    row, column = (int(i[0]) for i in np.nonzero(chunk.public.mask))
    return row, column


def untouched_row(chunk: Chunk) -> int:
    return next(i for i, row in enumerate(chunk.public.mask) if not row.any())


def matrix(name: str, chunk: Chunk, row: int) -> np.ndarray:
    """The curvature of a row, float64 [B, B]."""
    spec, w = case(name), chunk.witness
    assert w.factor is not None
    f = w.factor.values if spec.curvature == "kfac" else w.factor.values[row]
    return (f.T @ f + spec.ridge * np.eye(spec.block_width)).astype(np.float64)


# -- one dishonest variant per check, each failing its own equation ----------------------------------------------------


@pytest.mark.parametrize("name", some(CASES))
def test_honest_fails_nothing(name: str) -> None:
    assert failing(name, honest(name)) == set()


@pytest.mark.parametrize("name", some(CASES[:-1]))
@pytest.mark.parametrize("by", [1, -1])
def test_a_masked_weight_left_at_one_fails_the_first_equation(name: str, by: int) -> None:
    chunk = honest(name)
    theta_u = bump(chunk.witness.theta_u.values, masked_place(chunk), by)
    assert failing(name, with_theta_u(chunk, theta_u)) == {MASKED}


@pytest.mark.parametrize("name", some(REPAIRS))
def test_a_weight_off_by_more_than_rounding_fails_the_second_equation_alone(name: str) -> None:
    """The change of one row is moved orthogonally to the guard, so that only stationarity can notice."""
    chunk = honest(name)
    row = untouched_row(chunk)
    v = chunk.public.guard.astype(np.float64)
    steep = np.eye(32)[int(np.argmax(np.linalg.norm(matrix(name, chunk, row), axis=0)))]
    direction = steep - v @ np.linalg.lstsq(v, steep, rcond=None)[0] if v.size else steep
    theta_u = chunk.witness.theta_u.values.copy()
    theta_u[row] += np.rint(150 * direction).astype(np.int64)
    assert failing(name, with_theta_u(chunk, theta_u)) == {STATIONARITY}


@pytest.mark.parametrize("name", some(REPAIRS))
def test_one_unit_beyond_the_enforced_tolerance_is_refused_and_the_last_one_within_is_not(name: str) -> None:
    """Tolerances that the honest sums just meet, and just miss."""
    chunk, spec = honest(name), case(name)
    sums = square_sums(chunk.witness.residuals(spec, chunk.public), chunk.public.mask)
    for which, tolerance in ((0, "tau_stationarity"), (1, "tau_guard")):
        tau = sums[which]
        if not tau:
            continue  # no guard
        while changed(chunk.public, **{tolerance: tau}).slacks(spec)[which].largest >= sums[which]:
            tau -= 1
        within = replace(chunk, public=changed(chunk.public, **{tolerance: tau + 1}))
        beyond = replace(chunk, public=changed(chunk.public, **{tolerance: tau}))
        assert failing(name, within) == set()
        assert failing(name, beyond) == {1 + which}
        with pytest.raises(ProverError, match="above the tolerance"):
            beyond.witness.private(spec, beyond.public)


@pytest.mark.parametrize("name", some([name for name in REPAIRS if not name.endswith("unguarded")]))
def test_a_change_along_the_guard_fails_the_third_equation(name: str) -> None:
    """A change along the guard, which multipliers make up for exactly where the curvature is the ridge alone."""
    chunk, spec = honest(name), case(name)
    w, public = chunk.witness, chunk.public
    assert w.factor is not None
    flat = SaltedVector(np.zeros_like(w.factor.values), w.factor.salts)
    h = spec.ridge * np.eye(spec.block_width, dtype=np.int64)
    solution = solve(chunk.theta_p.values, public.mask, h, public.guard, spec.weight_limit)
    theta_u, mu, row = chunk.theta_p.values + solution.delta, solution.mu.copy(), untouched_row(chunk)
    steps = 8
    theta_u[row] += np.rint(public.guard[:, 0] * steps / spec.ridge).astype(np.int64)
    mu[row, 0] = steps
    assert 2**GUARD_BITS * steps / spec.ridge > 100, "a change of hundreds of units"
    flattened = Witness.build(chunk.theta_p, SaltedVector(chunk.theta_p.values + solution.delta), flat, solution.mu)
    assert failing(name, replace(chunk, witness=flattened)) == set()
    along = Witness.build(chunk.theta_p, SaltedVector(theta_u), flat, mu)
    assert failing(name, replace(chunk, witness=along)) == {GUARD}


def with_part(name: str, private: dict[str, list[str]], part: str, at: int, *values: int) -> dict[str, list[str]]:
    """Private vectors with some values of a part of ``aux`` replaced."""
    aux, first = list(private["aux"]), places(case(name), "aux", part)[0] + at
    aux[first : first + len(values)] = [to_felt(v) for v in values]
    return {**private, "aux": aux}


@pytest.mark.parametrize("part", ["residual", "leak"])
@pytest.mark.parametrize("name", some(CHECKED))
def test_false_residuals_fail_the_fourth_equation_even_if_their_squares_cancel(name: str, part: str) -> None:
    """Squares that cancel modulo p are real here: p is 1 modulo 4, so -1 has a square root."""
    chunk, spec = honest(name), case(name)
    if not spec.parts("aux")[part]:
        assert not spec.guard_rank
        return
    imaginary = pow(5, (MODULUS - 1) // 4, MODULUS)
    assert imaginary**2 % MODULUS == MODULUS - 1
    residuals = chunk.witness.residuals(spec, chunk.public)
    row = untouched_row(chunk)
    line = residuals[part == "leak"][row].tolist()
    total = line[0] ** 2 + line[1] ** 2
    # (x + i y)(x - i y) = total with x + i y = s: any s gives a pair of the same sum of squares.
    s = 2**190 + 9
    t = total * pow(s, -1, MODULUS)
    half = pow(2, -1, MODULUS)
    x, y = (s + t) * half % MODULUS, (s - t) * half * pow(imaginary, -1, MODULUS) % MODULUS
    assert (x * x + y * y - total) % MODULUS == 0
    private = with_part(name, chunk.witness.private(spec, chunk.public), part, row * len(line), x, y)
    assert failing(name, chunk, complete(built(name), chunk.public, private)) == {PRODUCTS}


@pytest.mark.parametrize("name", some(CHECKED))
def test_residuals_of_another_factor_or_ridge_fail_the_fourth_equation(name: str) -> None:
    """The residuals of a curvature of one's own, and of one with a lower ridge, under the one committed to."""
    chunk, spec = honest(name), case(name)
    w = chunk.witness
    assert w.factor is not None
    other = replace(w, factor=SaltedVector(bump(w.factor.values, (0,) * w.factor.values.ndim, 1), w.factor.salts))
    lower = spec.model_copy(update={"ridge": spec.ridge - 1})
    for lie in (other.residuals(spec, chunk.public), w.residuals(lower, chunk.public)):
        limbs: list[int] = []
        for total, slack in zip(square_sums(lie, chunk.public.mask), chunk.public.slacks(spec), strict=True):
            limbs += slack_limbs(slack, total, spec.weight_limit)
        private = w.with_limbs(spec, lie, limbs)
        assert failing(name, chunk, complete(built(name), chunk.public, private)) == {PRODUCTS}


# -- the challenge comes last ------------------------------------------------------------------------------------------


def under(name: str, chunk: Chunk, private: dict[str, list[str]], at: int) -> list[list[str]]:
    """Committed vectors whose public one is derived from a challenge of the prover's choosing."""
    vectors = {**private, "public": chunk.public.vector(case(name), at)}
    return [vectors[n] for n in case(name).inputs]


def cancelling(name: str) -> Chunk:
    """Two masked weights, of neighbouring columns, that cancel under the challenge 2: 2 z^j - z^(j + 1) == 0."""
    chunk = honest(name)
    mask, theta_u = chunk.public.mask.copy(), chunk.witness.theta_u.values.copy()
    row, column = masked_place(chunk)
    column = min(column, 30)
    mask[row, column : column + 2] = True
    theta_u[row, column : column + 2] = 2, -1
    return with_theta_u(replace(chunk, public=replace(chunk.public, mask=mask)), theta_u)


@pytest.mark.parametrize("name", some([*CHECKED, "mask-only"]))
def test_masked_weights_that_cancel_under_one_challenge_fail_under_the_one_that_follows(name: str) -> None:
    lie = cancelling(name)
    private = forced(name, lie)
    assert MASKED not in failing(name, lie, under(name, lie, private, 2)), "had the prover chosen the challenge"
    assert MASKED in failing(name, lie, complete(built(name), lie.public, private))


def test_a_proof_under_a_challenge_of_the_provers_choosing_is_refused() -> None:
    """The lie about masked weights has a proof that halo2 accepts; the public vector gives it away."""
    name, lie = "mask-only", cancelling("mask-only")
    proof, outputs = prove_vectors(built(name), under(name, lie, forced(name, lie), 2))
    assert outputs == lie.public.outputs(case(name))
    verify_raw(built(name), outputs, proof)
    with pytest.raises(CommitmentError, match="does not commit to this request's mask"):
        verify_chunk(built(name), lie.public, expected(built(name), lie), proof, empty(name))


def test_a_challenge_cannot_be_used_again_for_other_weights() -> None:
    """Weights that changed after the challenge was known have another commitment, and so another challenge."""
    name, chunk = "mask-only", honest("mask-only")
    old = complete(built(name), chunk.public, forced(name, chunk))
    at = int(np.flatnonzero(~chunk.public.mask.ravel())[0])
    theta_u = [*old[0][:at], to_felt(from_felt(old[0][at]) + 1), *old[0][at + 1 :]]
    proof, outputs = prove_vectors(built(name), [theta_u, old[1]])
    assert outputs == chunk.public.outputs(case(name)), "the weight is not masked, so the output is right"
    announced = Expected(commit(built(name), theta_u))
    with pytest.raises(CommitmentError, match="does not commit to this request's"):
        verify_chunk(built(name), chunk.public, announced, proof, empty(name))


@pytest.mark.parametrize("name", some(CHECKED))
def test_residuals_that_fit_another_challenge_fail_the_fourth_equation(name: str) -> None:
    """A prover that picks its residuals after it knows a challenge changes the commitment, and so the challenge."""
    chunk, spec = honest(name), case(name)
    private = chunk.witness.private(spec, chunk.public)
    vectors = dict(zip(spec.inputs, complete(built(name), chunk.public, private), strict=True))
    a, b = ([from_felt(vectors["public"][i]) for i in places(spec, "public", part)] for part in ("a", "b"))
    aux, at = [from_felt(x) for x in private["aux"]], places(spec, "aux", "residual")[0]
    # Move E_00 by 1 and make up for it in E_11 for this challenge: a_0 b_0 d_00 + a_1 b_1 d_11 == 0.
    aux[at] += 1
    aux[at + 33] -= a[0] * b[0] * pow(a[1] * b[1], -1, MODULUS)
    cheat = {**vectors, "aux": felts(aux)}
    assert PRODUCTS not in failing(name, chunk, [cheat[n] for n in spec.inputs]), (
        "under the old challenge it would pass"
    )
    del cheat["public"]
    assert PRODUCTS in failing(name, chunk, complete(built(name), chunk.public, cheat))


@pytest.mark.parametrize("name", some(CASES))
def test_the_challenge_depends_on_every_private_commitment(name: str) -> None:
    spec, other = case(name), commit(built(name), felts(range(5)))
    points = {n: commit(built(name), felts([i])) for i, n in enumerate(spec.inputs)}
    base = challenge(built(name), honest(name).public, points)
    assert 0 <= base < MODULUS
    for n in spec.inputs:
        assert (challenge(built(name), honest(name).public, {**points, n: other}) != base) == (n != "public"), n


@pytest.mark.parametrize("name", some(CASES))
def test_the_challenge_depends_on_everything_public(name: str) -> None:
    points = {n: commit(built(name), felts([i])) for i, n in enumerate(case(name).inputs)}
    public = honest(name).public
    variants = [public, *(change(public) for change in others(name).values())]
    seen = {challenge(built(name), v, points) for v in variants}
    seen.add(challenge(replace(built(name), vk_digest="0" * 64), public, points))
    assert len(seen) == len(variants) + 1


# -- every role of every vector counts ---------------------------------------------------------------------------------

ROLES: dict[tuple[str, str], set[int]] = {
    ("theta_u", "masked"): {MASKED},
    ("theta_u", "kept"): set(),
    ("theta_u", "salts"): set(),
    ("delta", "masked"): {PRODUCTS},
    ("delta", "kept"): {PRODUCTS},
    ("delta", "salts"): set(),
    ("factor", "values"): {PRODUCTS},
    ("factor", "salts"): set(),
    ("public", "keep"): {STATIONARITY},
    ("public", "mask_powers"): {MASKED},
    ("public", "guard_powers"): {PRODUCTS},
    ("public", "guard_c"): {PRODUCTS},
    ("public", "guard_b"): {PRODUCTS},
    ("public", "c"): {PRODUCTS},
    ("public", "slack"): {STATIONARITY},
    ("public", "unit"): {STATIONARITY, PRODUCTS},
    ("public", "ridge"): {PRODUCTS},
    ("public", "context"): set(),
    ("public", "a"): {PRODUCTS},
    ("public", "b"): {PRODUCTS},
    ("aux", "mu"): {PRODUCTS},
    ("aux", "limbs"): {STATIONARITY},
    ("aux", "residual"): {STATIONARITY, PRODUCTS},
    ("aux", "leak"): {GUARD, PRODUCTS},
    ("aux", "salts"): set(),
}
"""What one changed value of each part of each vector makes false."""

PLAIN_ROLES = {
    **{role: outputs - {PRODUCTS} for role, outputs in ROLES.items() if role[0] in ("theta_u", "aux", "public")},
    ("delta", "masked"): {STATIONARITY},
    ("delta", "kept"): {STATIONARITY, GUARD},
    ("delta", "salts"): set(),
    ("factor", "values"): {STATIONARITY},
    ("factor", "salts"): set(),
    ("public", "keep"): {STATIONARITY, GUARD},
    ("public", "mask"): {MASKED},
    ("public", "guard"): {STATIONARITY, GUARD},
    ("public", "unit"): {STATIONARITY, GUARD},
    ("public", "ridge"): {STATIONARITY},
    ("aux", "mu"): {STATIONARITY},
}

ROLES_OF = {
    "kfac": ROLES,
    "block-fisher": ROLES,
    "kfac-plain": PLAIN_ROLES,
    "mask-only": {
        ("theta_u", "masked"): {MASKED},
        ("theta_u", "kept"): set(),
        ("theta_u", "salts"): set(),
        ("public", "mask_powers"): {MASKED},
        ("public", "context"): set(),
    },
}


def roles() -> list[tuple[str, str, str]]:
    found = []
    for name, table in ROLES_OF.items():
        spec = case(name)
        for vector in spec.inputs:
            named = [
                p for part in spec.parts(vector) for p in ([part] if (vector, part) in table else ["masked", "kept"])
            ]
            assert all((vector, part) in table for part in named), named
            found += [(name, vector, part) for part in named]
    return found


def role_place(name: str, vector: str, part: str) -> int:
    """Where a part is found that counts: in a row with a masked weight, at an unmasked one."""
    spec, chunk = case(name), honest(name)
    row, column = masked_place(chunk)
    kept = next(j for j in range(32) if not chunk.public.mask[row, j])
    if part == "masked":
        return row * 32 + column
    if part in ("kept", "keep", "mask_powers", "guard_powers", "residual", "mask"):
        return places(spec, vector, "values" if part == "kept" else part)[row * 32 + kept]
    at = {"a": row, "mu": row * spec.guard_rank, "leak": row * spec.guard_rank}.get(part, 0)
    if part == "values" and spec.curvature == "block-fisher":
        at = row * spec.curvature_rank * 32
    return places(spec, vector, part)[at]


@pytest.mark.parametrize(("name", "vector", "part"), [by(*role) for role in roles()])
def test_every_part_changes_its_commitment_and_its_outputs(name: str, vector: str, part: str) -> None:
    """One value of one committed vector changes, and nothing else; what follows from the challenge stays as it was."""
    spec = case(name)
    vectors = [list(v) for v in honest_vectors(name)]
    column, at = spec.inputs.index(vector), role_place(name, vector, part)
    before = commit(built(name), vectors[column])
    vectors[column][at] = to_felt(from_felt(vectors[column][at]) + 1)
    assert commit(built(name), vectors[column]) != before
    assert failing(name, honest(name), vectors) == ROLES_OF[name][vector, part]


@cache
def honest_vectors(name: str) -> list[list[str]]:
    return complete(built(name), honest(name).public, honest(name).witness.private(case(name), honest(name).public))


def test_the_output_of_dampening_is_the_looked_up_values_times_the_public_zero() -> None:
    vectors = [list(v) for v in honest_vectors("dampening")]
    (zero,) = places(case("dampening"), "public", "zero")
    vectors[2][zero] = to_felt(1)
    assert failing("dampening", honest("dampening"), vectors) == {0}


# -- what the verifier expects -----------------------------------------------------------------------------------------


def check(
    proof: bytes, public: PublicInputs | None = None, expected_: Expected | None = None, name: str = "kfac"
) -> None:
    chunk = honest(name)
    verify_chunk(built(name), public or chunk.public, expected_ or honest_expected(name), proof, empty(name))


@pytest.mark.parametrize("name", some(CASES))
def test_an_honest_proof_is_accepted_and_has_the_announced_length(name: str) -> None:
    proof = honest_proof(name)
    check(proof, name=name)
    assert len(proof) == built(name).proof_bytes
    assert tuple(leading_points(case(name), proof)) == case(name).inputs


@pytest.mark.parametrize("name", ["kfac", "mask-only"])
def test_proofs_are_randomised_but_commit_to_the_same(name: str) -> None:
    again = prove_chunk(built(name), honest(name).public, honest(name).witness)
    check(again, name=name)
    first, second = leading_points(case(name), honest_proof(name)), leading_points(case(name), again)
    assert again != honest_proof(name)
    fresh = {"aux", "public"} if name == "kfac" else set()
    assert {n for n in first if first[n] != second[n]} == fresh, "aux is salted afresh"


def others(name: str) -> dict[str, Callable[[PublicInputs], PublicInputs]]:
    """Other public inputs, and all there are."""
    found: dict[str, Callable[[PublicInputs], PublicInputs]] = {
        "context": lambda p: changed(p, context=8),
        "tau_s": lambda p: changed(p, tau_stationarity=2 * p.tau_stationarity + 1),
        "tau_g": lambda p: changed(p, tau_guard=2 * p.tau_guard + 1),
    }
    if name == "dampening":

        def another_factor(p: PublicInputs) -> PublicInputs:
            assert p.dampening is not None
            row, column = (int(i[0]) for i in np.nonzero(p.mask & (p.dampening > 0)))
            return changed(p, dampening=bump(p.dampening, (row, column), -1))

        return {**found, "factor": another_factor, "wider mask": lambda p: changed(p, mask=np.ones_like(p.mask))}
    found["mask"] = lambda p: changed(p, mask=~p.mask)
    if case(name).guard_rank:
        found["guard"] = lambda p: changed(p, guard=p.guard[:, ::-1].copy())
    return found


DIFFERENT = [
    (name, which)
    for name in ("kfac", "kfac-plain", "block-fisher", "mask-only", "dampening")
    for which in others(name)
    if name in REPAIRS or name == "mask-only" or which in ("context", "factor")
]


@pytest.mark.parametrize(("name", "which"), [by(*one) for one in DIFFERENT])
def test_a_proof_made_for_other_public_inputs_is_refused(name: str, which: str) -> None:
    with pytest.raises(CommitmentError, match="mask, guard, tolerances and context") as caught:
        check(honest_proof(name), public=others(name)[which](honest(name).public), name=name)
    assert "public" in caught.value.why


def test_a_public_vector_with_a_lower_ridge_is_refused() -> None:
    """With no ridge and no factor stationarity would be empty: any change has a proof, if not this public vector."""
    chunk, spec = honest(), case("kfac")
    w = chunk.witness
    assert w.factor is not None
    theta = np.where(chunk.public.mask, 0, chunk.theta_p.values)
    v = chunk.public.guard
    theta[untouched_row(chunk)] += np.rint(300 * (np.eye(32)[0] - v @ np.linalg.pinv(v)[:, 0])).astype(np.int64)
    theta_u = SaltedVector(theta)
    flat = SaltedVector(np.zeros_like(w.factor.values), w.factor.salts)
    lie = Witness.build(chunk.theta_p, theta_u, flat, np.zeros_like(w.mu))
    empty_ridge = spec.model_copy(update={"ridge": 0})
    private = lie.private(empty_ridge, chunk.public)
    vectors = dict(zip(spec.inputs, complete(tiny(), chunk.public, private), strict=True))
    vectors["public"][places(spec, "public", "ridge")[0]] = to_felt(0)
    proof, outputs = prove_vectors(tiny(), [vectors[n] for n in spec.inputs])
    assert outputs == chunk.public.outputs(spec)
    verify_raw(tiny(), outputs, proof)
    with pytest.raises(CommitmentError, match="does not commit to this request's"):
        verify_chunk(tiny(), chunk.public, expected(tiny(), replace(chunk, witness=lie)), proof, empty())


EXPECTED = {
    "theta_u": "weights after unlearning|difference between",
    "theta_p": "difference between",
    "factor": "curvature that was",
}


@pytest.mark.parametrize(
    ("name", "vector"),
    [
        *((name, vector) for name in ("kfac", "block-fisher") for vector in EXPECTED),
        *(("dampening", vector) for vector in ("theta_u", "theta_p")),
        ("mask-only", "theta_u"),
    ],
)
def test_a_proof_about_other_commitments_is_refused(name: str, vector: str) -> None:
    other = commit(built(name), SaltedVector(np.ones((16, 32), np.int64)).vector())
    with pytest.raises(CommitmentError, match=EXPECTED[vector]):
        check(honest_proof(name), expected_=replace(honest_expected(name), **{vector: other}), name=name)
    if vector != "theta_u":
        with pytest.raises(CommitmentError, match=EXPECTED[vector]):
            check(honest_proof(name), expected_=replace(honest_expected(name), **{vector: None}), name=name)


def test_mask_only_does_not_look_at_the_weights_before() -> None:
    other = commit(built("mask-only"), SaltedVector(np.ones((16, 32), np.int64)).vector())
    for before in (None, other):
        check(
            honest_proof("mask-only"), expected_=replace(honest_expected("mask-only"), theta_p=before), name="mask-only"
        )


@pytest.mark.parametrize("name", some(["kfac", "mask-only", "dampening", "block-fisher", "kfac-plain"]))
def test_a_proof_of_another_statement_is_refused(name: str) -> None:
    """Same weights, same mask, another circuit."""
    for other in ("kfac", "mask-only", "dampening", "block-fisher", "kfac-plain"):
        if other != name:
            with pytest.raises(VerificationError):
                check(honest_proof(other), name=name)
            with pytest.raises(ProofError):
                verify_raw(built(name), honest(name).public.outputs(case(name)), honest_proof(other))


def test_another_circuits_proof_key_or_settings_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    chunk = honest()
    folder = tmp_path_factory.mktemp("mixed")
    small = tiny().spec.model_copy(update={"rows_per_chunk": 8, "block_width": 8, "weight_limit": 1500})
    other = circuit(small, tiny().srs)
    outputs = chunk.public.outputs(tiny().spec)
    for key, rules in ((other.vk, tiny().settings), (tiny().vk, other.settings), (other.vk, other.settings)):
        (folder / "vk.key").write_bytes(key.read_bytes())
        (folder / "settings.json").write_bytes(rules.read_bytes())
        mixed = replace(tiny(), folder=folder)
        with pytest.raises(ProofError):
            verify_raw(mixed, outputs, honest_proof())
    verify_raw(tiny(), outputs, honest_proof())


def test_a_valid_proof_of_a_false_statement_has_outputs_that_only_the_cheater_expects() -> None:
    chunk = honest()
    lie = with_theta_u(chunk, bump(chunk.witness.theta_u.values, masked_place(chunk), 1))
    with pytest.raises(ProverError, match="does not satisfy"):
        prove_chunk(tiny(), lie.public, lie.witness)
    proof, outputs = prove_vectors(tiny(), complete(tiny(), lie.public, forced("kfac", lie)))
    verify_raw(tiny(), outputs, proof)
    assert outputs != lie.public.outputs(tiny().spec)
    with pytest.raises(ProofError, match="does not show"):
        verify_chunk(tiny(), lie.public, expected(tiny(), lie), proof, empty())


def test_commitments_cannot_be_swapped_under_a_proof() -> None:
    """Commit to one vector, compute on another."""
    for i, name in enumerate(tiny().spec.inputs):
        other = commit(tiny(), SaltedVector(np.ones((4, 4), np.int64)).vector()).to_bytes()
        swapped = honest_proof()[: i * POINT_BYTES] + other + honest_proof()[(i + 1) * POINT_BYTES :]
        with pytest.raises(ProofError):
            verify_raw(tiny(), honest().public.outputs(tiny().spec), swapped)
        with pytest.raises(VerificationError):
            check(swapped)
        if name in ("theta_u", "factor"):
            forged = replace(honest_expected(), **{name: Point.from_bytes(other)})
            with pytest.raises(VerificationError):
                check(swapped, expected_=forged)


def test_lengths_are_exact() -> None:
    proof = honest_proof()
    for bad in (b"", proof[:-1], proof + b"\0", proof * 2, proof[: 5 * POINT_BYTES], proof[:64]):
        with pytest.raises(ProofError, match="bytes"):
            check(bad)
    with pytest.raises(ProofError, match="too short"):
        leading_points(tiny().spec, proof[:100])


WORDS = range(136)
SAMPLE = sorted({*WORDS[:12], *WORDS[12::12], WORDS[-1]})


def with_word(at: int, value: int) -> bytes:
    return honest_proof()[: 32 * at] + value.to_bytes(32, "big") + honest_proof()[32 * (at + 1) :]


@pytest.mark.parametrize("at", [*SAMPLE, *(pytest.param(w, marks=pytest.mark.slow) for w in WORDS if w not in SAMPLE)])
def test_no_word_of_a_proof_has_a_second_encoding_or_can_change(at: int) -> None:
    """Each 32-byte word: plus the moduli (the same residue, written otherwise), one bit flipped, zero, and negated."""
    assert len(honest_proof()) == 32 * len(WORDS)
    value = int.from_bytes(honest_proof()[32 * at : 32 * at + 32], "big")
    others = {value + MODULUS, value + field_modulus, value ^ 1, 0, MODULUS - value, field_modulus - value}
    for other in others - {value}:
        with pytest.raises(VerificationError):
            check(with_word(at, other))
        with pytest.raises(ProofError):
            verify_raw(tiny(), honest().public.outputs(tiny().spec), with_word(at, other))


def test_points_at_infinity_and_off_the_curve_are_refused_in_every_leading_place() -> None:
    for i in range(len(tiny().spec.inputs)):
        for bad in (bytes(64), bytes(63) + b"\1"):
            with pytest.raises(CommitmentError, match="curve"):
                check(honest_proof()[: i * 64] + bad + honest_proof()[(i + 1) * 64 :])


def test_public_outputs_are_ours_and_no_others() -> None:
    good = honest().public.outputs(tiny().spec)
    verify_raw(tiny(), good, honest_proof())
    for i in range(len(good)):
        other = [*good]
        other[i] = to_felt(from_felt(good[i]) + 1)
        with pytest.raises(ProofError):
            verify_raw(tiny(), other, honest_proof())
    for outputs in ([], good[:-1], [*good, to_felt(0)], ["zz"] * 4, [""] * 4, ["ff" * 32, *good[1:]]):
        with pytest.raises(ProofError):
            verify_raw(tiny(), outputs, honest_proof())

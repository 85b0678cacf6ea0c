"""The circuit against exact integers, and at least one dishonest variant per check, each failing its own equation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py_ecc.optimized_bn128 import field_modulus
from tiny import (
    Chunk,
    bump,
    curvature,
    empty,
    expected,
    guard,
    honest,
    honest_expected,
    honest_proof,
    make_chunk,
    tiny,
    with_theta_u,
    witness_outputs,
)

from zkapex.circuits.field import MODULUS, felts, from_felt, random_elements, to_felt
from zkapex.circuits.slack import SLACK_LIMBS, slack_limbs
from zkapex.circuits.statement import CURVATURE_SALTS, INPUTS
from zkapex.circuits.store import Circuit, circuit
from zkapex.errors import CommitmentError, InputError, ProofError, ProverError, VerificationError
from zkapex.proofs.chunk import (
    Expected,
    IntArray,
    PublicInputs,
    SaltedVector,
    Witness,
    challenge,
    complete,
    leading_points,
    prove_chunk,
    prove_vectors,
    square_sums,
    verify_chunk,
    verify_raw,
)
from zkapex.proofs.commitment import POINT_BYTES, Point, commit

MASKED, STATIONARITY, GUARD, PRODUCTS = range(4)
"""Public outputs, by the equation they belong to."""


def forced(built: Circuit, chunk: Chunk) -> list[list[str]]:
    """The vectors of a witness that need not satisfy the statement: the best slack there is, else none."""
    parts = chunk.witness.residuals(chunk.public)
    limbs: list[int] = []
    for total, slack in zip(square_sums(parts, chunk.public.mask), chunk.public.slacks(built.spec), strict=True):
        try:
            limbs += slack_limbs(slack, total, built.spec.weight_limit)
        except ProverError:
            limbs += [0] * SLACK_LIMBS
    return chunk.witness.with_limbs(built, chunk.public, parts, limbs)


def failing(chunk: Chunk, vectors: list[list[str]] | None = None) -> set[int]:
    """Which of the equations a chunk's vectors do not satisfy."""
    outputs = witness_outputs(tiny(), forced(tiny(), chunk) if vectors is None else vectors)
    wanted = chunk.public.outputs(tiny().spec)
    return {i for i, (is_, ought) in enumerate(zip(outputs, wanted, strict=True)) if is_ != ought}


def integer(felt: str) -> int:
    value = from_felt(felt)
    return value if value < MODULUS // 2 else value - MODULUS


# -- the circuit computes what the documentation says ------------------------------------------------------------------


def random_chunk(built: Circuit, seed: int, density: float, kind: str) -> Chunk:
    """A chunk that satisfies nothing, to compare what is computed: small, typical or at the lookup's edge."""
    spec = built.spec
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
    h = SaltedVector(values(width, width), random_elements(CURVATURE_SALTS))
    public = PublicInputs(mask, v, 10**12, 10**11, int(rng.integers(1, 2**62)))
    witness = Witness(SaltedVector(theta_u), SaltedVector(delta), h, values(rows, rank))
    return Chunk(public, SaltedVector(theta_u - delta), witness)


def exact_sums(chunk: Chunk) -> tuple[int, int]:
    """Both sums in Python's integers, from their definition."""
    w, public = chunk.witness, chunk.public
    delta, h, mu, v = (x.astype(object) for x in (w.delta.values, w.curvature.values, w.mu, public.guard))
    residual = delta @ h - (mu @ v.T if v.shape[1] else 0)
    leak = np.where(public.mask, 0, delta) @ v if v.shape[1] else np.zeros((0,), object)
    return int((residual[~public.mask] ** 2).sum()), int((leak**2).sum())


def changed(public: PublicInputs, **changes: Any) -> PublicInputs:
    return replace(public, **changes)


CASES = [
    (0, 0.05, "typical"),
    (1, 0.0, "typical"),
    (2, 1.0, "edge"),
    (3, 0.3, "edge"),
    (4, 0.9, "small"),
]


@pytest.mark.parametrize(("seed", "density", "kind"), CASES)
@pytest.mark.parametrize("rank", [4, pytest.param(0, marks=pytest.mark.slow)])
def test_the_circuit_computes_what_exact_integers_do(rank: int, seed: int, density: float, kind: str) -> None:
    built = tiny(rank)
    spec = built.spec
    chunk = random_chunk(built, seed, density, kind)
    w, public = chunk.witness, chunk.public
    rng = np.random.default_rng(seed + 100)
    limbs = [int(x) for x in rng.integers(-spec.weight_limit, spec.weight_limit + 1, 2 * SLACK_LIMBS)]
    outputs = witness_outputs(built, w.with_limbs(built, public, w.residuals(public), limbs))
    masked = sum(int(x) ** 2 for x in w.theta_u.values[public.mask])
    sums = exact_sums(chunk)
    assert sums == square_sums(w.residuals(public), public.mask)
    slack = [
        sum(x * y for x, y in zip(limbs[i * SLACK_LIMBS :], s.weights, strict=False))
        for i, s in enumerate(public.slacks(spec))
    ]
    assert [integer(o) for o in outputs] == [masked, sums[0] + slack[0], sums[1] + slack[1], 0]
    assert max(sums) <= spec.largest_sum()


@pytest.mark.parametrize("rank", [4, pytest.param(0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("density", [0.002, 0.05, 0.2])
def test_the_honest_operator_satisfies_the_statement(rank: int, density: float) -> None:
    built = tiny(rank)
    chunk = make_chunk(built, seed=int(density * 1000), density=density)
    outputs = witness_outputs(built, chunk.witness.vectors(built, chunk.public))
    assert outputs == chunk.public.outputs(built.spec)


def test_a_chunk_of_padding_satisfies_the_statement() -> None:
    """Rows beyond the layer and columns beyond its last are zeros, and their part of the guard may be too."""
    chunk = honest()
    keep = np.zeros_like(chunk.public.mask)
    keep[:3, :5] = True
    v = np.where(np.arange(32)[:, None] < 5, chunk.public.guard, 0)
    public = replace(chunk.public, mask=chunk.public.mask & keep, guard=v)
    zeros = SaltedVector(np.zeros((32, 32), np.int64))
    witness = Witness.build(zeros, SaltedVector(zeros.values), chunk.witness.curvature, np.zeros((32, 4), np.int64))
    assert witness_outputs(tiny(), witness.vectors(tiny(), public)) == public.outputs(tiny().spec)


# -- one dishonest variant per check, each failing its own equation ----------------------------------------------------


def test_honest_fails_nothing() -> None:
    assert failing(honest()) == set()


def test_a_masked_weight_left_at_one_fails_the_first_equation() -> None:
    chunk = honest()
    row, column = (int(i[0]) for i in np.nonzero(chunk.public.mask))
    lie = with_theta_u(chunk, bump(chunk.witness.theta_u.values, (row, column), 1))
    parts = lie.witness.residuals(lie.public)
    assert (
        square_sums(parts, lie.public.mask)[1]
        == square_sums(honest().witness.residuals(lie.public), lie.public.mask)[1]
    )
    assert failing(lie) == {MASKED}


def test_a_weight_off_by_more_than_rounding_fails_the_second_equation_alone() -> None:
    """The change of one row is moved orthogonally to the guard, so that only stationarity can notice."""
    chunk = honest()
    row = next(i for i in range(32) if not chunk.public.mask[i].any())
    v = chunk.public.guard.astype(np.float64)
    steep = np.eye(32)[int(np.argmax(np.linalg.norm(chunk.witness.curvature.values, axis=0)))]
    direction = steep - v @ np.linalg.lstsq(v, steep, rcond=None)[0]
    theta_u = chunk.witness.theta_u.values.copy()
    theta_u[row] += np.rint(150 * direction).astype(np.int64)
    assert failing(with_theta_u(chunk, theta_u)) == {STATIONARITY}


def test_one_unit_beyond_the_enforced_tolerance_is_refused_and_the_last_one_within_is_not() -> None:
    """Tolerances that the honest sums just meet, and just miss."""
    chunk = honest()
    sums = square_sums(chunk.witness.residuals(chunk.public), chunk.public.mask)
    for which, name in ((0, "tau_stationarity"), (1, "tau_guard")):
        tau = sums[which]
        while changed(chunk.public, **{name: tau}).slacks(tiny().spec)[which].largest >= sums[which]:
            tau -= 1
        within = replace(chunk, public=changed(chunk.public, **{name: tau + 1}))
        beyond = replace(chunk, public=changed(chunk.public, **{name: tau}))
        assert failing(within) == set()
        assert failing(beyond) == {1 + which}
        with pytest.raises(ProverError, match="above the tolerance"):
            beyond.witness.vectors(tiny(), beyond.public)


def test_a_change_along_the_guard_fails_the_third_equation() -> None:
    """A change along the guard under a curvature so small that stationarity does not notice."""
    chunk = honest()
    w = chunk.witness
    theta_u = w.theta_u.values.copy()
    row = next(i for i in range(32) if not chunk.public.mask[i].any())
    theta_u[row] += np.rint(chunk.public.guard[:, 0] / 8).astype(np.int64)
    flat = SaltedVector(np.zeros((32, 32), np.int64), w.curvature.salts)
    witness = Witness.build(chunk.theta_p, SaltedVector(theta_u), flat, np.zeros((32, 4), np.int64))
    assert failing(replace(chunk, witness=witness)) == {GUARD}


@pytest.mark.parametrize("part", [0, 1])
def test_false_residuals_fail_the_fourth_equation_even_if_their_squares_cancel(part: int) -> None:
    """Squares that cancel modulo p are real here: p is 1 modulo 4, so -1 has a square root."""
    chunk = honest()
    imaginary = pow(5, (MODULUS - 1) // 4, MODULUS)
    assert imaginary**2 % MODULUS == MODULUS - 1
    good = chunk.witness.vectors(tiny(), chunk.public)
    private = dict(zip(INPUTS, good, strict=True))
    del private["public"]
    spec = tiny().spec
    at = 32 * 4 + 2 * SLACK_LIMBS + (spec.weights if part else 0)
    parts = chunk.witness.residuals(chunk.public)
    total = int(parts[part].ravel()[0]) ** 2 + int(parts[part].ravel()[1]) ** 2
    # (x + i y)(x - i y) = total with x + i y = s: any s gives a pair of the same sum of squares.
    s = 2**190 + 9
    t = total * pow(s, -1, MODULUS)
    half = pow(2, -1, MODULUS)
    x, y = (s + t) * half % MODULUS, (s - t) * half * pow(imaginary, -1, MODULUS) % MODULUS
    assert (x * x + y * y - total) % MODULUS == 0
    private["aux"] = [*private["aux"][:at], to_felt(x), to_felt(y), *private["aux"][at + 2 :]]
    assert not chunk.public.mask.ravel()[:2].any(), "the first two weights count in the sum"
    assert failing(chunk, complete(tiny(), chunk.public, private)) == {PRODUCTS}


def test_residuals_that_fit_another_challenge_fail_the_fourth_equation() -> None:
    """A prover that picks its residuals after it knows a challenge changes the commitment, and so the challenge."""
    chunk = honest()
    spec = tiny().spec
    vectors = chunk.witness.vectors(tiny(), chunk.public)
    powers = [from_felt(x) for x in vectors[3][-spec.challenge_powers :]]
    a, b = powers[:32], powers[32:64]
    at = 32 * 4 + 2 * SLACK_LIMBS
    aux = [from_felt(x) for x in vectors[4]]
    # Move E_00 by 1 and make up for it in E_11 for this challenge: a_0 b_0 d_00 + a_1 b_1 d_11 == 0.
    aux[at] += 1
    aux[at + 33] -= a[0] * b[0] * pow(a[1] * b[1], -1, MODULUS)
    cheat = [*vectors[:4], felts(aux)]
    assert PRODUCTS not in failing(chunk, cheat), "under the old challenge the lie would pass"
    private = {n: v for n, v in zip(INPUTS, cheat, strict=True) if n != "public"}
    assert PRODUCTS in failing(chunk, complete(tiny(), chunk.public, private))


@pytest.mark.parametrize("name", ["theta_u", "delta", "curvature", "mu"])
def test_the_prover_refuses_values_outside_the_range(name: str) -> None:
    chunk, limit = honest(), tiny().spec.weight_limit
    w = chunk.witness
    for sign in (1, -1):
        for excess, refused in ((0, False), (1, True)):
            value = sign * (limit + excess)
            if name == "mu":
                mu = w.mu.copy()
                mu[0, 0] = value
                other = replace(w, mu=mu)
            else:
                old: SaltedVector = getattr(w, name)
                values = old.values.copy()
                values[0, 0] = value
                other = with_vector(w, name, SaltedVector(values, old.salts))
            if refused:
                with pytest.raises(ProverError, match=f"{name} holds"):
                    other.vectors(tiny(), chunk.public)
            else:
                other.check_range(tiny().spec)


def with_vector(witness: Witness, name: str, vector: SaltedVector) -> Witness:
    changes: dict[str, Any] = {name: vector}
    return replace(witness, **changes)


# -- every role of every vector counts ---------------------------------------------------------------------------------


def positions() -> dict[tuple[str, str], int]:
    """Where each role of each vector is found."""
    spec, mask = tiny().spec, honest().public.mask.ravel()
    masked, kept = int(np.flatnonzero(mask)[0]), int(np.flatnonzero(~mask)[0])
    limbs, powers = 32 * 4, spec.weights + 4 * 32 + 2 * SLACK_LIMBS + 2
    residuals = limbs + 2 * SLACK_LIMBS
    return {
        ("theta_u", "masked weight"): masked,
        ("theta_u", "other weight"): kept,
        ("theta_u", "salt"): spec.weights + 1,
        ("delta", "masked weight"): masked,
        ("delta", "other weight"): kept,
        ("delta", "salt"): spec.weights + 1,
        ("curvature", "value"): 5,
        ("curvature", "salt"): 32 * 32 + 1,
        ("public", "mask"): kept,
        ("public", "guard"): spec.weights + 5,
        ("public", "slack weight of stationarity"): powers - 2 - 2 * SLACK_LIMBS,
        ("public", "slack weight of guard"): powers - 2 - SLACK_LIMBS,
        ("public", "unit"): powers - 2,
        ("public", "context"): powers - 1,
        ("aux", "mu"): 3,
        ("aux", "limb of stationarity"): limbs,
        ("aux", "limb of guard"): limbs + SLACK_LIMBS,
        ("aux", "residual E"): residuals + kept,
        ("aux", "residual F"): residuals + spec.weights,
        ("aux", "salt"): residuals + spec.residuals + 1,
    }


ROLES: list[tuple[str, str, set[int]]] = [
    ("theta_u", "masked weight", {MASKED}),
    ("theta_u", "other weight", set()),
    ("theta_u", "salt", set()),
    ("delta", "masked weight", {PRODUCTS}),
    ("delta", "other weight", {PRODUCTS}),
    ("delta", "salt", set()),
    ("curvature", "value", {PRODUCTS}),
    ("curvature", "salt", set()),
    ("public", "mask", {MASKED, STATIONARITY, PRODUCTS}),
    ("public", "guard", {PRODUCTS}),
    ("public", "slack weight of stationarity", {STATIONARITY}),
    ("public", "slack weight of guard", {GUARD}),
    ("public", "unit", {STATIONARITY, PRODUCTS}),
    ("public", "context", set()),
    ("aux", "mu", {PRODUCTS}),
    ("aux", "limb of stationarity", {STATIONARITY}),
    ("aux", "limb of guard", {GUARD}),
    ("aux", "residual E", {STATIONARITY, PRODUCTS}),
    ("aux", "residual F", {GUARD, PRODUCTS}),
    ("aux", "salt", set()),
]


@pytest.mark.parametrize(("vector", "role", "wanted"), ROLES, ids=[f"{v}-{r}".replace(" ", "-") for v, r, _ in ROLES])
def test_every_role_changes_its_commitment_and_its_outputs(vector: str, role: str, wanted: set[int]) -> None:
    """One value of one committed vector changes, and nothing else; powers of the challenge stay as they were."""
    vectors = [list(v) for v in honest_vectors()]
    column, at = INPUTS.index(vector), positions()[vector, role]
    before = commit(tiny(), vectors[column])
    vectors[column][at] = to_felt(from_felt(vectors[column][at]) + 1)
    assert commit(tiny(), vectors[column]) != before
    assert failing(honest(), vectors) == wanted


@cache
def honest_vectors() -> list[list[str]]:
    return honest().witness.vectors(tiny(), honest().public)


# -- what the verifier expects -----------------------------------------------------------------------------------------


def check(proof: bytes, public: PublicInputs | None = None, expected_: Expected | None = None) -> None:
    chunk = honest()
    verify_chunk(tiny(), public or chunk.public, expected_ or honest_expected(), proof, empty())


def test_an_honest_proof_is_accepted_and_has_the_announced_length() -> None:
    check(honest_proof())
    assert len(honest_proof()) == tiny().proof_bytes


def test_proofs_are_randomised_but_commit_to_the_same() -> None:
    again = prove_chunk(tiny(), honest().public, honest().witness)
    check(again)
    first, second = leading_points(honest_proof()), leading_points(again)
    assert again != honest_proof()
    assert {n for n in INPUTS if first[n] != second[n]} == {"aux", "public"}, "aux is salted afresh"


OTHERS: dict[str, Callable[[PublicInputs], PublicInputs]] = {
    "context": lambda p: changed(p, context=8),
    "tau_s": lambda p: changed(p, tau_stationarity=2 * p.tau_stationarity),
    "tau_g": lambda p: changed(p, tau_guard=2 * p.tau_guard),
    "mask": lambda p: changed(p, mask=~p.mask),
    "guard": lambda p: changed(p, guard=p.guard[:, ::-1].copy()),
}


@pytest.mark.parametrize("which", OTHERS)
def test_a_proof_made_for_other_public_inputs_is_refused(which: str) -> None:
    with pytest.raises(CommitmentError, match="mask, guard, tolerances and context") as caught:
        check(honest_proof(), public=OTHERS[which](honest().public))
    assert "public" in caught.value.why


@pytest.mark.parametrize(
    ("name", "named"),
    [("theta_u", "weights after unlearning"), ("theta_p", "difference between"), ("curvature", "curvature that was")],
)
def test_a_proof_about_other_commitments_is_refused(name: str, named: str) -> None:
    other = commit(tiny(), SaltedVector(np.ones((32, 32), np.int64)).vector())
    with pytest.raises(CommitmentError, match=named):
        check(honest_proof(), expected_=replace(honest_expected(), **{name: other}))


def test_another_circuits_proof_key_or_settings_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    chunk = honest()
    folder = tmp_path_factory.mktemp("mixed")
    small = tiny().spec.model_copy(update={"rows_per_chunk": 8, "block_width": 8, "weight_limit": 3000})
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
    row, column = (int(i[0]) for i in np.nonzero(chunk.public.mask))
    lie = with_theta_u(chunk, bump(chunk.witness.theta_u.values, (row, column), 1))
    with pytest.raises(ProverError, match="does not satisfy"):
        prove_chunk(tiny(), lie.public, lie.witness)
    proof, outputs = prove_vectors(tiny(), forced(tiny(), lie))
    verify_raw(tiny(), outputs, proof)
    assert outputs != lie.public.outputs(tiny().spec)
    with pytest.raises(ProofError, match="does not show"):
        verify_chunk(tiny(), lie.public, expected(tiny(), lie), proof, empty())


def test_commitments_cannot_be_swapped_under_a_proof() -> None:
    """Commit to one vector, compute on another."""
    for i, name in enumerate(INPUTS):
        other = commit(tiny(), SaltedVector(np.ones((4, 4), np.int64)).vector()).to_bytes()
        swapped = honest_proof()[: i * POINT_BYTES] + other + honest_proof()[(i + 1) * POINT_BYTES :]
        with pytest.raises(ProofError):
            verify_raw(tiny(), honest().public.outputs(tiny().spec), swapped)
        with pytest.raises(VerificationError):
            check(swapped)
        if name in ("theta_u", "curvature"):
            forged = replace(honest_expected(), **{name: Point.from_bytes(other)})
            with pytest.raises(VerificationError):
                check(swapped, expected_=forged)


def test_lengths_are_exact() -> None:
    proof = honest_proof()
    for bad in (b"", proof[:-1], proof + b"\0", proof * 2, proof[: 5 * POINT_BYTES], proof[:64]):
        with pytest.raises(ProofError, match="bytes"):
            check(bad)
    with pytest.raises(ProofError, match="too short"):
        leading_points(proof[:100])


WORDS = range(103)
SAMPLE = sorted({*WORDS[:12], *WORDS[12::9], WORDS[-1]})


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
    for i in range(len(INPUTS)):
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


# -- inputs that fit nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": np.zeros((31, 32), np.bool_)}, "mask"),
        ({"mask": np.zeros((32, 32), np.int64)}, "mask"),
        ({"guard": np.zeros((32, 3), np.int64)}, "guard"),
        ({"guard": np.full((32, 4), 1025)}, "guard"),
        ({"context": MODULUS}, "context"),
        ({"context": -1}, "context"),
        ({"tau_stationarity": -1}, "tolerance"),
        ({"tau_guard": 2**63 - 1}, "tolerance"),
    ],
)
def test_public_inputs_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    public = changed(honest().public, **change)
    with pytest.raises(InputError, match=message):
        public.vector(tiny().spec, 1)


@pytest.mark.parametrize("name", ["theta_u", "delta", "curvature"])
def test_vectors_of_another_length_are_refused(name: str) -> None:
    old: SaltedVector = getattr(honest().witness, name)
    short = with_vector(honest().witness, name, SaltedVector(old.values, old.salts[:-1]))
    with pytest.raises(ProverError, match=f"{name} has"):
        short.vectors(tiny(), honest().public)


def test_salts_are_never_printed() -> None:
    salted = honest().witness.theta_u
    assert all(str(s) not in repr(honest().witness) for s in salted.salts)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["theta_u", "delta", "curvature", "aux"]))
def test_the_challenge_depends_on_every_private_commitment(name: str) -> None:
    points = leading_points(honest_proof())
    base = challenge(tiny(), honest().public, points)
    assert 0 <= base < MODULUS
    assert challenge(tiny(), honest().public, {**points, name: points["public"]}) != base


def test_the_challenge_depends_on_everything_public() -> None:
    points, public = leading_points(honest_proof()), honest().public
    others: list[dict[str, Any]] = [{"context": 9}, {"tau_guard": 1}, {"mask": ~public.mask}, {"guard": -public.guard}]
    variants = [public, *(changed(public, **o) for o in others)]
    seen = {challenge(tiny(), v, points) for v in variants}
    seen.add(challenge(replace(tiny(), vk_digest="0" * 64), public, points))
    assert len(seen) == len(variants) + 1


def test_the_helpers_make_what_they_say() -> None:
    rng = np.random.default_rng(0)
    h, v = curvature(rng, 32), guard(rng, 32, 4)
    assert (h == h.T).all()
    assert np.linalg.eigvalsh(h).min() > 0
    assert abs((v.T @ v) / 2**20 - np.eye(4)).max() < 0.01

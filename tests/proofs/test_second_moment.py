"""The circuit of the curvature proof against exact integers, the honest proof, and each lie."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from tiny import IntArray, bump, srs, tiny, witness_outputs

from zkapex.circuits.field import MODULUS, felts, from_felt, random_elements
from zkapex.circuits.halo2.slack import SLACK_LIMBS, slack_limbs
from zkapex.circuits.halo2.store import Circuit, circuit
from zkapex.circuits.profiles import PROFILES, profile
from zkapex.circuits.statement import MAX_SCALE, StatementSpec
from zkapex.errors import CommitmentError, InputError, ProofError, ProverError
from zkapex.proofs.chunk.commitment import Point, commit, commit_salted
from zkapex.proofs.chunk.prove import challenge, complete, leading_points, prove_vectors
from zkapex.proofs.chunk.second_moment import (
    MomentPublic,
    MomentWitness,
    curvature_context,
    prove_curvature,
    same_commitments,
    verify_curvature,
)
from zkapex.proofs.chunk.witness import SaltedVector
from zkapex.proofs.messages import LayerSpec, ModelManifest
from zkapex.proofs.operators import powers
from zkapex.unlearning.curvature.activations import encode_activations
from zkapex.unlearning.curvature.factor import KAPPA, CurvatureEncoding, encode

SMALL, PRODUCT = range(2)
"""Public outputs, by the equation they belong to."""

Statement = tuple[MomentPublic, MomentWitness]


@cache
def built() -> Circuit:
    return circuit(profile("tiny").statement("second-moment"), srs())


def make(seed: int = 0, context: int = 7) -> Statement:
    """An honest device's statement about random activations."""
    spec, width = built().spec, built().spec.block_width
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(width, width)) / np.sqrt(width) * rng.uniform(0.2, 2, width)
    x = rng.normal(size=(spec.rows_per_chunk, width)) @ mixed + 0.3 * rng.normal(size=width)
    factor = encode(x.T @ x / len(x), width, CurvatureEncoding.of(tiny().spec)).factor
    encoded = encode_activations(x, factor, spec, KAPPA)
    witness = MomentWitness(
        SaltedVector(factor, random_elements(spec.parts("factor")["salts"])), SaltedVector(encoded.values)
    )
    return MomentPublic(encoded.scale, encoded.per_mille, KAPPA, context), witness


@cache
def honest() -> Statement:
    return make()


def points(witness: MomentWitness) -> tuple[Point, Point]:
    return commit(built(), witness.factor.vector()), commit(built(), witness.activations.vector())


@cache
def honest_proof() -> bytes:
    return prove_curvature(built(), *honest())


def vectors(public: MomentPublic, witness: MomentWitness, residual: IntArray | None = None) -> list[list[str]]:
    """The vectors of a witness that need not satisfy the statement: the best slack there is, else none."""
    residual = witness.residual(public.scale) if residual is None else residual
    try:
        limbs = slack_limbs(public.slack(built().spec), sum(v * v for v in residual.ravel().tolist()), 2020)
    except ProverError:
        limbs = (0,) * SLACK_LIMBS
    return complete(built(), public, witness.with_limbs(residual, limbs))


def failing(public: MomentPublic, witness: MomentWitness, residual: IntArray | None = None) -> set[int]:
    outputs = witness_outputs(built(), vectors(public, witness, residual))
    wanted = public.outputs(built().spec)
    return {i for i, (is_, ought) in enumerate(zip(outputs, wanted, strict=True)) if is_ != ought}


def test_the_outputs_are_those_of_exact_integers() -> None:
    """For values all over the lookup's range and a residual that is none."""
    spec, rng = built().spec, np.random.default_rng(5)
    width, limit = spec.block_width, spec.weight_limit
    factor = rng.integers(-limit, limit + 1, spec.factor_shape)
    activations = rng.integers(-limit, limit + 1, (spec.rows_per_chunk, width))
    residual, limbs = rng.integers(-(2**40), 2**40, (width, width)), (3, -limit, limit, 5)
    public = MomentPublic(MAX_SCALE, 1, KAPPA, 9)
    salted = MomentWitness(SaltedVector(factor, random_elements(64)), SaltedVector(activations))
    given = salted.with_limbs(residual, limbs)
    z = challenge(built(), public, {name: commit(built(), vector) for name, vector in given.items()})
    a, b = powers(pow(z, width, MODULUS), width), powers(z, width)
    error = MAX_SCALE * (factor.T @ factor).astype(object) - activations.T @ activations - residual
    slack = public.slack(spec)
    small = (residual.astype(object) ** 2).sum() + sum(x * y for x, y in zip(limbs, slack.weights, strict=True))
    product = sum(int(error[i, j]) * a[i] * b[j] for i in range(width) for j in range(width))
    outputs = witness_outputs(built(), complete(built(), public, given))
    assert [from_felt(o) for o in outputs] == [int(small) % MODULUS, product % MODULUS]


def test_an_honest_proof_verifies_and_says_how_close_it_is() -> None:
    public, witness = honest()
    verify_curvature(built(), public, *points(witness), honest_proof())
    factor, activations = witness.factor.values, witness.activations.values
    real = np.linalg.norm(factor.T @ factor - activations.T @ activations / public.scale) / 2.0**KAPPA
    assert real <= public.distance(built().spec) == pytest.approx(public.per_mille / 1000, rel=0.01)
    assert public.per_mille <= 30
    assert (public.per_mille - 1) / 1000 < real, "no more than it needs"


def test_the_commitment_to_a_factor_is_the_one_that_is_enrolled() -> None:
    """Same reference string, same height, same blinding rows: one commitment for both circuits."""
    same_commitments(built(), tiny())
    factor = honest()[1].factor
    assert leading_points(built().spec, honest_proof())["factor"] == next(iter(commit_salted(tiny(), [factor])))
    with pytest.raises(InputError, match="commits to factors otherwise"):
        same_commitments(built(), replace(tiny(), column_rows=tiny().column_rows - 1))


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_has_one_factor_for_both_statements(name: str) -> None:
    mine, requests = profile(name).statement("second-moment"), profile(name).statement()
    assert mine.parts("factor") == requests.parts("factor")
    assert (mine.factor_shape, mine.log2_rows) == (requests.factor_shape, requests.log2_rows)
    assert mine.weight_limit == requests.weight_limit


def test_lies_in_the_witness_fail_their_own_equation() -> None:
    public, witness = honest()
    assert failing(public, witness) == set()
    residual = witness.residual(public.scale)
    other = make(seed=1)[1]
    mixed_up = MomentWitness(witness.factor, other.activations)
    assert failing(public, mixed_up) == {SMALL}, "the second moment of other data, and honest about it"
    assert failing(public, mixed_up, residual) == {PRODUCT}, "of other data, with the residual of the right ones"
    assert failing(public, MomentWitness(other.factor, witness.activations), residual) == {PRODUCT}
    altered = replace(witness, activations=SaltedVector(bump(witness.activations.values, (3, 5), 1)))
    assert failing(public, altered, residual) == {PRODUCT}, "one activation off by one"
    for index in ((0, 0), (4, 4), (1, 7), (31, 0)):
        assert failing(public, witness, bump(residual, index, 1)) == {PRODUCT}
    swapped = bump(bump(residual, (1, 7), 1), (7, 1), -1)
    assert failing(public, witness, swapped) == {PRODUCT}, "errors that cancel where the matrix is symmetric"
    assert failing(public, witness, np.zeros_like(residual)) == {PRODUCT}
    assert failing(replace(public, per_mille=public.per_mille - 1), witness) == {SMALL}
    assert failing(replace(public, scale=public.scale + 1), witness, residual) == {PRODUCT}


def test_the_prover_refuses_what_would_fail() -> None:
    public, witness = honest()
    with pytest.raises(ProverError, match="above the tolerance"):
        prove_curvature(built(), replace(public, per_mille=public.per_mille - 1), witness)
    with pytest.raises(ProverError, match="above the tolerance"):
        prove_curvature(built(), public, replace(witness, activations=make(seed=1)[1].activations))
    beyond = SaltedVector(bump(witness.activations.values, (0, 0), 5000))
    with pytest.raises(ProverError, match="outside the circuit's range"):
        prove_curvature(built(), public, replace(witness, activations=beyond))
    with pytest.raises(ProverError, match="salts"):
        prove_curvature(built(), public, replace(witness, factor=SaltedVector(witness.factor.values)))
    with pytest.raises(ProverError, match="outside the circuit's range"):
        prove_vectors(built(), vectors(public, replace(witness, activations=beyond)))


def test_the_verifier_compares_every_commitment() -> None:
    public, witness = honest()
    factor, activations = points(witness)
    for given in ((activations, activations), (factor, factor)):
        with pytest.raises(CommitmentError, match=r"enrolled|announced"):
            verify_curvature(built(), public, *given, honest_proof())
    for changed in (
        replace(public, context=8),
        replace(public, scale=public.scale + 1),
        replace(public, per_mille=public.per_mille + 1),
        replace(public, kappa=public.kappa + 1),
    ):
        with pytest.raises(CommitmentError, match="scale, tolerance and context"):
            verify_curvature(built(), changed, factor, activations, honest_proof())


def test_numbers_out_of_range_are_refused_before_anything_is_checked() -> None:
    public, witness = honest()
    given = points(witness)
    for changed in ({"scale": 0}, {"scale": -1}, {"scale": MAX_SCALE + 1}, {"per_mille": 0}, {"kappa": 25}):
        with pytest.raises(InputError, match=next(iter(changed))):
            verify_curvature(built(), replace(public, **changed), *given, honest_proof())
    with pytest.raises(InputError, match="within 23 per mille"):
        verify_curvature(built(), public, *given, honest_proof(), largest_per_mille=5)
    with pytest.raises(InputError, match="cannot be expressed"):
        replace(public, scale=MAX_SCALE, per_mille=1000).slack(built().spec)


def test_proofs_of_falsehoods_and_damaged_ones_are_rejected() -> None:
    public, witness = honest()
    given = points(witness)
    residual = bump(witness.residual(public.scale), (2, 3), 1)
    forged, outputs = prove_vectors(built(), vectors(public, witness, residual))
    assert outputs != public.outputs(built().spec)
    with pytest.raises(ProofError, match="second moment of the activations"):
        verify_curvature(built(), public, *given, forged)
    with pytest.raises(ProofError, match="bytes"):
        verify_curvature(built(), public, *given, honest_proof()[:-1])
    flipped = bytearray(honest_proof())
    flipped[-5] ^= 1
    with pytest.raises(ProofError):
        verify_curvature(built(), public, *given, bytes(flipped))


def test_the_challenge_depends_on_everything_private_and_public() -> None:
    public, witness = honest()
    private = dict(zip(built().spec.inputs, vectors(public, witness), strict=True))
    names = {name: commit(built(), vector) for name, vector in private.items()}
    seen = {challenge(built(), public, names)}
    for name in ("factor", "activations", "aux"):
        seen.add(challenge(built(), public, {**names, name: commit(built(), felts([1, 2]))}))
    for changed in ({"context": 8}, {"scale": 1}, {"per_mille": 1}, {"kappa": 3}):
        seen.add(challenge(built(), replace(public, **changed), names))
    assert len(seen) == 8


def test_contexts_tell_enrolments_and_factors_apart() -> None:
    base = ("client", "manifest", 3, "circuit", "nonce")
    others = [("b", *base[1:]), ("client", "b", *base[2:]), (*base[:2], 4, *base[3:]), (*base[:4], "b")]
    assert len({curvature_context(*c) for c in [base, *others]}) == 5


def test_nothing_admissible_exceeds_the_largest_sum() -> None:
    for name in PROFILES:
        spec = profile(name).statement("second-moment")
        top = spec.largest_value
        factor = np.full(spec.factor_shape, top, dtype=object)
        activations = np.full((spec.rows_per_chunk, spec.block_width), top, dtype=object)
        for sign in (1, -1):
            flipped = activations * np.where(np.arange(spec.block_width) % 2, sign, 1)
            residual = MAX_SCALE * factor.T @ factor - flipped.T @ flipped
            assert (residual**2).sum() <= spec.largest_sum() < MODULUS // 4


@pytest.mark.parametrize(
    "change", [{"ridge": 192}, {"curvature": "block-fisher"}, {"curvature": "none"}, {"curvature_rank": 0}]
)
def test_bad_specifications_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="second-moment"):
        StatementSpec.model_validate(profile("tiny").statement("second-moment").model_dump() | change)


def test_a_manifest_names_a_statement_about_weights() -> None:
    fields = {"model": "m", "profile": "tiny", "curvature_bits": KAPPA, "srs_origin": "local"}
    digests = dict.fromkeys(("circuit_digest", "settings_digest", "srs_digest"), "0" * 64)
    layers = (LayerSpec(name="l", rows=4, cols=4, exponent=0),)
    with pytest.raises(ValueError, match="nothing about weights"):
        ModelManifest(statement=built().spec, layers=layers, **fields, **digests)

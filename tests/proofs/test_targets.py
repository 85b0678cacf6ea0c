"""Targets: the result has what the request prescribes along the guard, and no other result is accepted."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import count

import numpy as np
import pytest
from tiny import TARGETED, Chunk, built, case, empty, expected, make_chunk, witness_outputs

from zkapex.circuits.field import felts, random_elements
from zkapex.circuits.halo2.slack import slack_limbs
from zkapex.circuits.statement import SALTS
from zkapex.errors import CommitmentError, InputError, ProverError
from zkapex.proofs.chunk.commitment import commit
from zkapex.proofs.chunk.prove import challenge, complete, prove_chunk, verify_chunk
from zkapex.proofs.chunk.witness import SaltedVector, Witness, square_sums

MASKED, STATIONARITY, GUARD, PRODUCTS = range(4)


@cache
def targeted(name: str) -> Chunk:
    """An honest chunk, some rows of which have no masked weight."""
    chunks = (make_chunk(case(name), seed, 0.02) for seed in count(1))
    return next(c for c in chunks if c.public.mask.any() and not c.public.mask.any(1).all())


@pytest.mark.parametrize("name", TARGETED)
def test_an_honest_result_is_proved_and_no_other_targets_are_accepted_for_it(name: str) -> None:
    made, chunk = built(name), targeted(name)
    proof = prove_chunk(made, chunk.public, chunk.witness)
    verify_chunk(made, chunk.public, expected(made, chunk), proof, empty(name))
    assert chunk.public.steering is not None
    other = chunk.public.steering.copy()
    other[np.flatnonzero(~chunk.public.mask.any(1))[0], 0] += made.spec.guard_limit
    for lie in (replace(chunk.public, steering=other), replace(chunk.public, steering=None)):
        with pytest.raises(CommitmentError, match="this request's mask, guard"):
            verify_chunk(made, lie, expected(made, chunk), proof, empty(name))


@pytest.mark.parametrize("name", TARGETED)
def test_whoever_keeps_the_old_component_finds_no_witness(name: str) -> None:
    made, chunk = built(name), targeted(name)
    spec, public, honest = made.spec, chunk.public, chunk.witness
    # One row of what there was before; only the guard's directions matter to the statement about the rest.
    kept = honest.theta_u.values.copy()
    row = int(np.flatnonzero(~public.mask.any(1))[0])
    kept[row] = chunk.theta_p.values[row]
    theta_u = SaltedVector(kept, honest.theta_u.salts)
    lazy = (
        Witness(theta_u) if honest.factor is None else Witness.build(chunk.theta_p, theta_u, honest.factor, honest.mu)
    )
    with pytest.raises(ProverError, match="tolerance"):
        prove_chunk(made, public, lazy)
    # It claims the residual that an honest result would have: the products do not add up, whatever the challenge.
    if spec.kind == "constraint-only":
        leak = honest.leak(spec, public)
        limbs = slack_limbs(public.slacks(spec)[1], int(np.square(leak).sum()), spec.weight_limit)
        aux = felts(limbs) + felts(leak) + felts(random_elements(SALTS))
        private, wrong = {"theta_u": theta_u.vector(), "aux": aux}, [2]
    else:
        residuals = honest.residuals(spec, public)
        limbs = []
        for total, slack in zip(square_sums(residuals, public.mask), public.slacks(spec), strict=True):
            limbs += slack_limbs(slack, total, spec.weight_limit)
        private, wrong = lazy.with_limbs(spec, residuals, limbs), [PRODUCTS]
    vectors = complete(made, public, private)
    points = {n: commit(made, v) for n, v in zip(spec.inputs, vectors, strict=True)}
    wanted = public.outputs(spec, challenge(made, public, points))
    found = witness_outputs(made, vectors)
    assert [i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b] == wrong


def test_a_masked_weight_that_is_left_is_found() -> None:
    made, chunk = built("constraint-only"), targeted("constraint-only")
    left = chunk.witness.theta_u.values.copy()
    left[tuple(np.argwhere(chunk.public.mask)[0])] = 1
    witness = Witness(SaltedVector(left))
    private = witness.private(made.spec, chunk.public)  # one unit is within the tolerance of the guard
    vectors = complete(made, chunk.public, private)
    points = {n: commit(made, v) for n, v in zip(made.spec.inputs, vectors, strict=True)}
    wanted = chunk.public.outputs(made.spec, challenge(made, chunk.public, points))
    assert witness_outputs(made, vectors)[MASKED] != wanted[MASKED]


def test_the_result_is_along_the_guard_what_was_asked_for_in_every_row() -> None:
    for name in TARGETED:
        chunk = targeted(name)
        assert chunk.public.steering is not None
        reached = chunk.witness.theta_u.values @ chunk.public.guard
        assert np.abs(reached - chunk.public.steering).max() < 5 * case(name).guard_limit
        assert not chunk.witness.theta_u.values[chunk.public.mask].any()


def test_statements_that_make_no_sense() -> None:
    spec = case("targeted-group-obs")
    for changes in ({"guard_rank": 0}, {"freivalds": False}):
        with pytest.raises(ValueError, match="needs a guard"):
            type(spec)(**{**spec.model_dump(), **changes})
    with pytest.raises(InputError, match="prescribe anything along"):
        replace(make_chunk(case("mask-only"), 1).public, steering=np.zeros((32, 0), np.int64)).check(case("mask-only"))

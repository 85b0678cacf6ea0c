"""Steering: the change along the guard is the one the request prescribes, and no other is accepted."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import count

import numpy as np
import pytest
from tiny import Chunk, built, case, empty, expected, make_chunk, witness_outputs

from zkapex.circuits.halo2.slack import slack_limbs
from zkapex.errors import CommitmentError, InputError, ProverError
from zkapex.proofs.chunk.commitment import commit
from zkapex.proofs.chunk.prove import challenge, complete, prove_chunk, verify_chunk
from zkapex.proofs.chunk.public import MAX_STEERING, PublicInputs
from zkapex.proofs.chunk.witness import SaltedVector, Witness, square_sums
from zkapex.unlearning.operators.group_obs import solve

PRODUCTS = 3


@cache
def steered(name: str) -> Chunk:
    """An honest chunk with rows that are steered and rows that do not change."""
    chunks = (make_chunk(case(name), seed, steered=True) for seed in count(1))
    return next(c for c in chunks if c.public.mask.any() and not c.public.mask.any(1).all())


def other(public: PublicInputs) -> PublicInputs:
    """The same with one number of the steering changed by one unit."""
    assert public.steering is not None
    steering = public.steering.copy()
    steering[np.flatnonzero(public.mask.any(1))[0], 0] += case("kfac").guard_limit
    return replace(public, steering=steering)


@pytest.mark.parametrize("name", ["kfac", pytest.param("block-fisher", marks=pytest.mark.slow)])
def test_a_steered_change_is_proved_and_no_other_steering_is_accepted_for_it(name: str) -> None:
    made, chunk = built(name), steered(name)
    proof = prove_chunk(made, chunk.public, chunk.witness)
    verify_chunk(made, chunk.public, expected(made, chunk), proof, empty(name))
    for lie in (other(chunk.public), replace(chunk.public, steering=None)):
        with pytest.raises(CommitmentError, match="this request's mask, guard"):
            verify_chunk(made, lie, expected(made, chunk), proof, empty(name))


def test_a_change_that_is_not_steered_cannot_be_proved() -> None:
    made, chunk = built("kfac"), steered("kfac")
    w, public = chunk.witness, chunk.public
    assert w.factor is not None
    h = w.factor.values.T @ w.factor.values + made.spec.ridge * np.eye(made.spec.block_width, dtype=np.int64)
    plain = solve(chunk.theta_p.values, public.mask, h, public.guard, made.spec.weight_limit)
    lazy = Witness.build(chunk.theta_p, SaltedVector(chunk.theta_p.values + plain.delta), w.factor, plain.mu)
    with pytest.raises(ProverError, match="tolerance"):
        prove_chunk(made, public, lazy)
    # It claims the residual that it would have if nothing were to be steered: the products do not add up.
    residuals = lazy.residuals(made.spec, replace(public, steering=None))
    limbs: list[int] = []
    for total, slack in zip(square_sums(residuals, public.mask), public.slacks(made.spec), strict=True):
        limbs += slack_limbs(slack, total, made.spec.weight_limit)
    vectors = complete(made, public, lazy.with_limbs(made.spec, residuals, limbs))
    points = {n: commit(made, v) for n, v in zip(made.spec.inputs, vectors, strict=True)}
    wanted = public.outputs(made.spec, challenge(made, public, points))
    assert [i for i, (a, b) in enumerate(zip(witness_outputs(made, vectors), wanted, strict=True)) if a != b] == [
        PRODUCTS
    ]


def test_the_change_along_the_guard_is_what_was_asked_for() -> None:
    chunk = steered("kfac")
    assert chunk.public.steering is not None
    assert chunk.witness.delta is not None
    reached = (chunk.witness.delta.values * ~chunk.public.mask) @ chunk.public.guard
    assert np.abs(reached - chunk.public.steering).max() < 5 * case("kfac").guard_limit
    assert np.abs(chunk.public.steering).max() > 100 * case("kfac").guard_limit


def test_what_cannot_be_steered_is_refused() -> None:
    spec, public = case("kfac"), steered("kfac").public
    assert public.steering is not None
    with pytest.raises(InputError, match="depend on its challenge"):
        public.outputs(spec)
    idle = public.steering.copy()
    idle[~public.mask.any(1)] = 1
    for steering, what in (
        (idle, "without a masked weight"),
        (public.steering[1:], "shape"),
        (public.steering.astype(np.int32), "int64"),
        (public.steering * MAX_STEERING, "exceeds"),
    ):
        with pytest.raises(InputError, match=what):
            replace(public, steering=steering).check(spec)
    plain = make_chunk(case("kfac-plain"), 1, steered=True)
    with pytest.raises(InputError, match="prescribe anything along"):
        plain.public.check(case("kfac-plain"))

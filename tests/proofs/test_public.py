"""What prover and verifier agree on: what fits a statement, what does not, and what it is turned into."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import CASES, case, honest

from zkapex.circuits.field import MODULUS, from_felt, to_felt
from zkapex.circuits.statement import FACTOR_UNIT
from zkapex.errors import InputError
from zkapex.proofs.chunk.public import PublicInputs
from zkapex.proofs.operators import powers

SHAPE = (32, 32)


def changed(public: PublicInputs, **changes: Any) -> PublicInputs:
    return replace(public, **changes)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("kfac", {"mask": np.zeros((31, 32), np.bool_)}, "mask"),
    ("kfac", {"mask": np.zeros(SHAPE, np.int64)}, "mask"),
    ("kfac", {"guard": np.zeros((32, 3), np.int64)}, "guard"),
    ("kfac", {"guard": np.full((32, 4), 8193)}, "guard"),
    ("kfac", {"guard": np.full((32, 4), -8193)}, "guard"),
    ("kfac", {"guard": np.full((32, 4), -(2**63))}, "guard"),
    ("kfac", {"guard": np.full((32, 4), -(2**15), np.int16)}, "guard"),
    ("kfac", {"guard": np.full((32, 4), 0.5)}, "guard"),
    ("kfac", {"context": MODULUS}, "context"),
    ("kfac", {"context": -1}, "context"),
    ("kfac", {"tau_stationarity": -1}, "tolerance"),
    ("kfac", {"tau_guard": 2**63 - 1}, "tolerance"),
    ("kfac", {"dampening": np.full(SHAPE, FACTOR_UNIT)}, "belong to operators with factors"),
    ("mask-only", {"guard": np.zeros((32, 1), np.int64)}, "guard"),
    ("mask-only", {"dampening": np.full(SHAPE, FACTOR_UNIT)}, "belong to operators with factors"),
    ("dampening", {"dampening": None}, "belong to operators with factors"),
    ("dampening", {"dampening": np.full((31, 32), FACTOR_UNIT)}, "shape"),
    ("dampening", {"dampening": np.full(SHAPE, FACTOR_UNIT + 1)}, "between 0 and 256"),
    ("dampening", {"dampening": np.full(SHAPE, -1)}, "between 0 and 256"),
    ("dampening", {"dampening": np.full(SHAPE, 1.0)}, "int64"),
    ("dampening", {"dampening": np.full(SHAPE, FACTOR_UNIT - 1)}, "outside the mask"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD)
def test_public_inputs_that_do_not_fit_are_refused(name: str, change: dict[str, Any], message: str) -> None:
    public = changed(honest(name).public, **change)
    with pytest.raises(InputError, match=message):
        public.vector(case(name), 1)


@pytest.mark.parametrize("name", CASES)
def test_honest_ones_fit_and_say_what_the_outputs_must_be(name: str) -> None:
    spec, public = case(name), honest(name).public
    public.check(spec)
    outputs = [from_felt(x) for x in public.outputs(spec)]
    if spec.kind != "guarded-group-obs":
        assert outputs == [0]
        return
    stationarity, guard = public.slacks(spec)
    assert outputs == [0, stationarity.half, guard.half, 0][: 3 + spec.freivalds]
    assert stationarity.largest >= public.tau_stationarity
    assert guard.largest >= public.tau_guard


@pytest.mark.parametrize("name", ["kfac", "kfac-unguarded", "block-fisher"])
@pytest.mark.parametrize("z", [0, 1, 3, MODULUS - 2])
def test_the_public_vector_is_the_documented_function_of_mask_guard_and_challenge(name: str, z: int) -> None:
    spec, public = case(name), honest(name).public
    rows, width, rank = spec.rows_per_chunk, spec.block_width, spec.guard_rank
    values = iter(from_felt(x) for x in public.vector(spec, z))
    part = {n: [next(values) for _ in range(count)] for n, count in spec.parts("public").items()}
    a = [pow(z, i * (width + rank), MODULUS) for i in range(rows)]
    b = [pow(z, j, MODULUS) for j in range(width)]
    c = [pow(z, width + k, MODULUS) for k in range(rank)]
    v, masked = public.guard.tolist(), public.mask.tolist()
    along = [sum(v[j][k] * c[k] for k in range(rank)) for j in range(width)]
    assert (part["a"], part["b"]) == (a, b)
    assert part["keep"] == [1 - m for row in masked for m in row]
    assert part["mask_powers"] == [masked[i][j] * a[i] * b[j] % MODULUS for i in range(rows) for j in range(width)]
    assert (part["unit"], part["ridge"], part["context"]) == ([1], [spec.ridge], [public.context])
    if rank:
        assert part["c"] == c
        assert part["guard_c"] == [x % MODULUS for x in along]
        assert part["guard_b"] == [sum(v[j][k] * b[j] for j in range(width)) % MODULUS for k in range(rank)]
        expected = [masked[i][j] * a[i] * along[j] % MODULUS for i in range(rows) for j in range(width)]
        assert part["guard_powers"] == expected


def test_no_two_coefficients_share_a_power_of_the_challenge() -> None:
    """Errors in E and L are coefficients of one polynomial: for a large base, every product of powers is another."""
    for name in ("kfac", "kfac-unguarded", "block-fisher"):
        spec = case(name)
        span = spec.block_width + spec.guard_rank
        exponents = [i * span + j for i in range(spec.rows_per_chunk) for j in range(span)]
        assert len(set(exponents)) == len(exponents)
        assert max(exponents) < spec.rows_per_chunk * span
    spec = case("mask-only")
    part = honest("mask-only").public
    everything = changed(part, mask=np.ones(SHAPE, np.bool_))
    assert everything.vector(spec, 5)[:-1] == [to_felt(pow(5, k, MODULUS)) for k in range(spec.weights)]


def test_what_is_dampened_is_public_factor_by_factor() -> None:
    spec, public = case("dampening"), honest("dampening").public
    vector = [from_felt(x) for x in public.vector(spec, 1)]
    assert public.dampening is not None
    factors, k = public.dampening.ravel().tolist(), spec.rounding_weight
    assert vector[: spec.weights] == [k * (FACTOR_UNIT - f) for f in factors]
    assert vector[spec.weights : 2 * spec.weights] == [k * f for f in factors]
    assert vector[2 * spec.weights :] == [0, public.context]
    assert public.vector(spec, 1) == public.vector(spec, 2), "there is no challenge"


@pytest.mark.parametrize("name", CASES)
def test_the_digest_tells_public_inputs_apart(name: str) -> None:
    spec, public = case(name), honest(name).public
    variants = [public, changed(public, context=9), changed(public, tau_stationarity=5), changed(public, tau_guard=5)]
    if spec.guard_rank:
        variants.append(changed(public, guard=-public.guard))
    if public.dampening is None:
        variants.append(changed(public, mask=~public.mask))
    else:
        variants.append(changed(public, dampening=np.where(public.mask, public.dampening // 2, FACTOR_UNIT)))
    assert len({v.digest(spec) for v in variants}) == len(variants)
    assert public.digest(spec) == replace(public).digest(spec)


@given(st.integers(0, MODULUS - 1), st.integers(1, 40))
def test_powers(base: int, count: int) -> None:
    assert powers(base, count) == [pow(base, i, MODULUS) for i in range(count)]

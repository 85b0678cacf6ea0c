"""The proving key constrains what the statement says: nothing is left free, and every private value passes the lookup.

Read from the key itself (tests/support/keys.py), because a circuit with a missing constraint proves honest statements
just as well as a sound one.
"""

from __future__ import annotations

import random
from functools import cache

import pytest
from keys import Key
from tiny import CASES, built, case, places

from zkapex.circuits.field import MODULUS
from zkapex.circuits.halo2.slack import SLACK_LIMBS
from zkapex.circuits.statement import StatementSpec

Vectors = dict[str, dict[str, list[int]]]


@cache
def key(name: str) -> Key:
    return Key(built(name))


def split(spec: StatementSpec, vectors: list[list[int]]) -> Vectors:
    """Committed vectors by name and part."""
    found: Vectors = {}
    for name, vector in zip(spec.inputs, vectors, strict=True):
        rest = iter(vector)
        found[name] = {part: [next(rest) for _ in range(count)] for part, count in spec.parts(name).items()}
        assert not list(rest)
    return found


def drawn(spec: StatementSpec) -> list[list[int]]:
    """Field elements at random, in every place of every committed vector."""
    rng = random.Random(5)
    return [[rng.randrange(MODULUS) for _ in range(length)] for length in spec.input_lengths().values()]


def dot(x: list[int], y: list[int]) -> int:
    return sum(p * q for p, q in zip(x, y, strict=True)) % MODULUS


def errors(spec: StatementSpec, v: Vectors) -> list[int]:
    """What dampening looks up besides the weights themselves."""
    pairs = [
        (v["public"][f"from_{name}"], v[vector]["values"]) for name, vector in (("theta", "theta_u"), ("delta",) * 2)
    ]
    products = [[f * x for f, x in zip(factors, values, strict=True)] for factors, values in pairs]
    return [sum(terms) % MODULUS for terms in zip(*products, strict=True)]


def statement(spec: StatementSpec, v: Vectors) -> list[int]:
    """The outputs as the documentation states them, in the field, for arbitrary committed vectors."""
    if spec.kind == "mask-only":
        return [dot(v["public"]["mask_powers"], v["theta_u"]["values"])]
    if spec.kind == "dampening":
        return [sum(errors(spec, v)) * v["public"]["zero"][0] % MODULUS]
    rows, width, rank, q = spec.rows_per_chunk, spec.block_width, spec.guard_rank, spec.curvature_rank
    theta, delta, factor, aux, public = (
        v["theta_u"]["values"],
        v["delta"]["values"],
        v["factor"]["values"],
        v["aux"],
        v["public"],
    )
    unit, ridge, keep = public["unit"][0], public["ridge"][0], public["keep"]
    mu = [aux["mu"][i * rank : (i + 1) * rank] for i in range(rows)]

    def product(i: int) -> list[int]:
        """Row i of delta F^T F."""
        own = factor if spec.curvature == "kfac" else factor[i * q * width : (i + 1) * q * width]
        f = [own[k * width : (k + 1) * width] for k in range(q)]
        seen = [dot(delta[i * width : (i + 1) * width], row) for row in f]
        return [sum(s * row[j] for s, row in zip(seen, f, strict=True)) for j in range(width)]

    weighted = [
        dot(aux["limbs"][at : at + SLACK_LIMBS], public["slack"][at : at + SLACK_LIMBS]) for at in (0, SLACK_LIMBS)
    ]
    if spec.freivalds:
        a, b = public["a"], public["b"]
        masked = dot(public["mask_powers"], theta)
        residual, leak = aux["residual"], aux["leak"]
        error = 0
        for i in range(rows):
            at = i * width
            line = delta[at : at + width]
            error += a[i] * (dot(product(i), b) + ridge * unit * dot(line, b))
            claimed = dot(residual[at : at + width], b)
            if rank:
                claimed += dot(mu[i], public["guard_b"]) + dot(leak[i * rank : (i + 1) * rank], public["c"])
                claimed -= dot(line, public["guard_c"])
            error -= a[i] * claimed * unit**2
        if rank:
            error -= dot(public["guard_powers"], delta) * unit**3
        scales = (2, 0)
    else:
        masked = dot([m * t for m, t in zip(public["mask"], theta, strict=True)], theta)
        guard = [public["guard"][k * width : (k + 1) * width] for k in range(rank)]
        residual, leak = [], []
        for i in range(rows):
            at = i * width
            for j, value in enumerate(product(i)):
                pushed = sum(mu[i][k] * guard[k][j] for k in range(rank))
                residual.append(value + delta[at + j] * ridge * unit - pushed * unit)
            change = [d * u for d, u in zip(delta[at : at + width], keep[at : at + width], strict=True)]
            leak += [dot(change, column) for column in guard]
        scales = (6, 4)
        error = None
    kept = [x * u for x, u in zip(residual, keep, strict=True)]
    outputs = [masked, dot(kept, kept) + weighted[0] * unit ** scales[0]]
    outputs.append(dot(leak, leak) + weighted[1] * unit ** scales[1] if rank else weighted[1])
    return [x % MODULUS for x in [*outputs, *([] if error is None else [error])]]


@pytest.mark.parametrize(
    "name",
    [n if n in ("kfac", "mask-only", "dampening") else pytest.param(n, marks=pytest.mark.slow) for n in CASES],
)
def test_every_public_output_is_the_documented_function_of_the_committed_vectors(name: str) -> None:
    spec = case(name)
    vectors = drawn(spec)
    wanted = statement(spec, split(spec, vectors))
    assert key(name).outputs(vectors, len(wanted)) == wanted


@pytest.mark.parametrize("name", CASES)
def test_every_private_value_enters_through_the_lookup_and_in_no_other_way(name: str) -> None:
    spec = case(name)
    for column, vector in enumerate(spec.inputs):
        rows = places(spec, vector, "values", "mu", "limbs")
        assert rows or vector == "public"
        for row in rows:
            uses = {kind for kind, _ in key(name).uses((column, row))}
            assert uses == {"lookup"}, f"{vector}[{row}] is used by {uses or 'nothing'}"


@pytest.mark.parametrize("name", CASES)
def test_all_of_the_public_vector_but_the_context_is_used_and_no_salt_is(name: str) -> None:
    spec = case(name)
    for column, vector in enumerate(spec.inputs):
        for row in places(spec, vector, "salts", "context"):
            assert key(name).uses((column, row)) == [], f"{vector}[{row}]"
        used = set(spec.parts(vector)) - {"salts", "context"}
        for row in places(spec, vector, *used):
            assert key(name).uses((column, row)), f"{vector}[{row}]"


@pytest.mark.parametrize("name", CASES)
def test_the_lookup_is_the_identity_on_its_whole_table_and_no_larger_than_the_bound_assumes(name: str) -> None:
    spec, one = case(name), key(name)
    assert len(one.tables) == (2 if spec.kind == "dampening" else 1), "ezkl makes a table for each scale"
    for given, result in one.tables:
        pairs = {(one.fixed[given][r], one.fixed[result][r]) for r in range(one.rows - 6)}
        assert all(x == y for x, y in pairs)
        signed = sorted(x if x < MODULUS // 2 else x - MODULUS for x, _ in pairs)
        assert signed == list(range(signed[0], signed[-1] + 1))
        assert signed[0] == -spec.weight_limit
        assert spec.weight_limit <= signed[-1] <= spec.largest_value


def test_dampening_looks_up_every_rounding_error_and_the_output_depends_on_each() -> None:
    spec, one = case("dampening"), key("dampening")
    vectors = drawn(spec)
    wanted = errors(spec, split(spec, vectors))
    private = sorted(x for column in (0, 1) for x in vectors[column][: spec.weights])
    by_table = [sorted(one.values(vectors, one.lookups(table))) for table in (0, 1)]
    assert sorted(by_table) == sorted([sorted(wanted), private])


@pytest.mark.parametrize("name", CASES)
def test_every_output_is_an_instance(name: str) -> None:
    one = key(name)
    count = {"mask-only": 1, "dampening": 1}.get(name, 3 + case(name).freivalds)
    for row in range(count):
        assert len(one.copies((one.instance, row))) > 1
    assert len(one.copies((one.instance, count))) == 1

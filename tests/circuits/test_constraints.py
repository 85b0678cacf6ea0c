"""The proving key constrains what the statement says: nothing is left free, and every private value passes the lookup.

Read from the key itself (tests/support/keys.py), because a circuit with a missing constraint proves honest statements
just as well as a sound one.
"""

from __future__ import annotations

import random
from functools import cache

import pytest
from keys import INSTANCE, TABLE_IN, TABLE_OUT, Key
from tiny import tiny

from zkapex.circuits.field import MODULUS
from zkapex.circuits.slack import SLACK_LIMBS
from zkapex.circuits.statement import INPUTS, SALTS, StatementSpec

RANKS = [4, pytest.param(0, marks=pytest.mark.slow)]


@cache
def key(rank: int) -> Key:
    return Key(tiny(rank).folder, tiny(rank).spec.log2_rows)


def statement(spec: StatementSpec, v: dict[str, list[int]]) -> list[int]:
    """The four outputs as the documentation states them, in the field, for arbitrary committed vectors."""
    rows, width, rank, count = spec.rows_per_chunk, spec.block_width, spec.guard_rank, spec.weights
    theta, delta, h, public, aux = (v[name] for name in INPUTS)
    mask, guard_t = public[:count], public[count : count + rank * width]
    at = count + rank * width
    slack = [public[at + i * SLACK_LIMBS : at + (i + 1) * SLACK_LIMBS] for i in (0, 1)]
    unit = public[at + 2 * SLACK_LIMBS]
    a, b = public[at + 2 * SLACK_LIMBS + 2 :][:rows], public[at + 2 * SLACK_LIMBS + 2 + rows :][:width]
    c = public[at + 2 * SLACK_LIMBS + 2 + rows + width :]
    mu = aux[: rows * rank]
    limbs = [aux[rows * rank + i * SLACK_LIMBS :][:SLACK_LIMBS] for i in (0, 1)]
    e = aux[rows * rank + 2 * SLACK_LIMBS :][:count]
    f = aux[rows * rank + 2 * SLACK_LIMBS + count :][: rows * rank]
    keep = [unit - m for m in mask]

    def dot(x: list[int], y: list[int]) -> int:
        return sum(p * q for p, q in zip(x, y, strict=True)) % MODULUS

    lift = unit if rank else 1
    masked = sum(m * t * t for m, t in zip(mask, theta, strict=False))
    kept = [x * u for x, u in zip(e, keep, strict=True)]
    stationarity = dot(kept, kept) + dot(limbs[0], slack[0]) * unit**2
    leak = dot(f, f) + dot(limbs[1], slack[1])
    error = 0
    for i in range(rows):
        line = delta[i * width : (i + 1) * width]
        for j in range(width):
            product = sum(line[n] * h[n * width + j] for n in range(width))
            product -= sum(mu[i * rank + n] * guard_t[n * width + j] for n in range(rank))
            error += a[i] * b[j] * (product - e[i * width + j] * unit) * lift
        for j in range(rank):
            product = sum(line[n] * keep[i * width + n] * guard_t[j * width + n] for n in range(width))
            error += a[i] * c[j] * (product - f[i * rank + j] * unit**2)
    return [x % MODULUS for x in (masked, stationarity, leak, error)]


@pytest.mark.parametrize("rank", RANKS)
def test_every_public_output_is_the_documented_function_of_the_committed_vectors(rank: int) -> None:
    spec = tiny(rank).spec
    rng = random.Random(5)
    vectors = {n: [rng.randrange(MODULUS) for _ in range(length)] for n, length in spec.input_lengths().items()}
    outputs = key(rank).outputs([vectors[n] for n in INPUTS], 4)
    assert outputs == statement(spec, vectors)


@pytest.mark.parametrize("rank", RANKS)
def test_every_private_value_enters_through_the_lookup_and_in_no_other_way(rank: int) -> None:
    spec = tiny(rank).spec
    bounded = {
        "theta_u": spec.weights,
        "delta": spec.weights,
        "curvature": spec.block_width**2,
        "aux": spec.rows_per_chunk * rank + 2 * SLACK_LIMBS,
    }
    for column, name in enumerate(INPUTS):
        for row in range(bounded.get(name, 0)):
            if name == "aux" and rank == 0 and row >= SLACK_LIMBS:
                break  # with no guard the second tolerance has no sum to complete
            uses = {kind for kind, _ in key(rank).uses((column, row))}
            assert uses == {"lookup"}, f"{name}[{row}] is used by {uses or 'nothing'}"


def test_salts_and_context_are_used_by_nothing() -> None:
    spec = tiny().spec
    for column, name in enumerate(INPUTS):
        length = spec.input_lengths()[name]
        unused = [spec.weights + spec.guard_rank * spec.block_width + 2 * SLACK_LIMBS + 1]
        if name != "public":
            unused = list(range(length - (64 if name == "curvature" else SALTS), length))
        for row in unused:
            assert key(4).uses((column, row)) == [], f"{name}[{row}]"


def test_the_lookup_is_the_identity_on_its_whole_table_and_no_larger_than_the_bound_assumes() -> None:
    spec = tiny().spec
    used = [row for row, value in enumerate(key(4).fixed[TABLE_IN]) if row < key(4).rows - 6]
    pairs = {(key(4).fixed[TABLE_IN][r], key(4).fixed[TABLE_OUT][r]) for r in used}
    assert all(given == result for given, result in pairs)
    signed = sorted(x if x < MODULUS // 2 else x - MODULUS for x, _ in pairs)
    assert signed == list(range(signed[0], signed[-1] + 1))
    assert signed[0] == -spec.weight_limit
    assert spec.weight_limit <= signed[-1] <= spec.largest_value


def test_every_output_is_an_instance() -> None:
    assert key(4).columns == INSTANCE + 1
    for row in range(4):
        assert len(key(4).copies((INSTANCE, row))) > 1
    assert len(key(4).copies((INSTANCE, 4))) == 1

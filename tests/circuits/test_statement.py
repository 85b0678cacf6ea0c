"""The specification of a circuit: its bounds, its lengths, its identity, and what it refuses to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import CASES, case, spec

from zkapex.circuits.field import MODULUS
from zkapex.circuits.halo2.build import build_graph, statement_digest
from zkapex.circuits.halo2.slack import SLACK_LIMBS
from zkapex.circuits.halo2.store import RESERVED_ROWS, canonical_settings
from zkapex.circuits.profiles import PROFILES, profile
from zkapex.circuits.statement import (
    FACTOR_SALTS,
    FACTOR_UNIT,
    IDENTITY_LIMIT,
    OWN_FACTOR_SALTS,
    SALTS,
    StatementSpec,
)
from zkapex.errors import InputError

SIZES = {"rows_per_chunk": st.integers(1, 12), "block_width": st.integers(2, 12), "log2_rows": st.just(13)}
REPAIRS = st.builds(
    StatementSpec,
    **SIZES,
    curvature=st.sampled_from(["kfac", "block-fisher"]),
    curvature_rank=st.integers(1, 6),
    ridge=st.integers(1, 300),
    guard_rank=st.integers(0, 4),
    weight_limit=st.integers(16, 4032),
    freivalds=st.booleans(),
)
OTHERS = st.builds(
    StatementSpec,
    **SIZES,
    kind=st.sampled_from(["mask-only", "dampening"]),
    curvature=st.just("none"),
    weight_limit=st.integers(FACTOR_UNIT, 4032),
)
SPECS = REPAIRS | OTHERS


@settings(max_examples=40, deadline=None)
@given(SPECS)
def test_the_graph_takes_what_the_lengths_say_and_yields_the_public_outputs(given_spec: StatementSpec) -> None:
    graph = build_graph(given_spec).graph
    lengths = {i.name: i.type.tensor_type.shape.dim[0].dim_value for i in graph.input}
    assert tuple(lengths) == given_spec.inputs
    assert lengths == given_spec.input_lengths()
    assert len(graph.output) == (3 + given_spec.freivalds if given_spec.kind == "guarded-group-obs" else 1)
    assert all(o.type.tensor_type.shape.dim[0].dim_value == 1 for o in graph.output)


@settings(max_examples=40, deadline=None)
@given(REPAIRS)
def test_lengths_count_every_value(given_spec: StatementSpec) -> None:
    rows, width, rank = given_spec.rows_per_chunk, given_spec.block_width, given_spec.guard_rank
    count, on = rows * width, given_spec.freivalds
    shared = given_spec.curvature == "kfac"
    factor = given_spec.curvature_rank * width
    powers = count + rows + width + ((count + width + 2 * rank) if rank else 0)
    assert given_spec.input_lengths() == {
        "theta_u": count + SALTS,
        "delta": count + SALTS,
        "factor": factor + FACTOR_SALTS if shared else rows * factor + OWN_FACTOR_SALTS,
        "public": count + 2 * SLACK_LIMBS + 3 + (powers if on else count + rank * width),
        "aux": rows * rank + 2 * SLACK_LIMBS + on * rows * (width + rank) + SALTS,
    }
    assert int(np.prod(given_spec.factor_shape)) == given_spec.parts("factor")["values"]


@settings(max_examples=50, deadline=None)
@given(REPAIRS, st.integers(0, 2**32 - 1))
def test_no_admissible_chunk_exceeds_the_largest_sum(given_spec: StatementSpec, seed: int) -> None:
    """Values at the edges of what the lookup admits, signs at random or all alike: the bound holds, with room."""
    rng = np.random.default_rng(seed)
    rows, width, rank = given_spec.rows_per_chunk, given_spec.block_width, given_spec.guard_rank
    signs = (lambda *shape: rng.choice([-1, 1], shape)) if seed % 2 else (lambda *shape: np.ones(shape, np.int64))
    top = given_spec.largest_value
    delta, f = (signs(*shape).astype(object) * top for shape in ((rows, width), given_spec.factor_shape))
    mu, v = signs(rows, rank).astype(object) * -top, signs(width, rank).astype(object) * given_spec.guard_limit
    factors = [f] * rows if given_spec.curvature == "kfac" else list(f)
    product = np.stack([d @ own.T @ own for d, own in zip(delta, factors, strict=True)])
    residual = product + given_spec.ridge * delta - (mu @ v.T if rank else 0)
    assert abs(residual).max() <= given_spec.largest_residual < 2**63
    largest = max((residual**2).sum(), ((delta @ v) ** 2).sum() if rank else 0, (delta**2).sum())
    assert largest <= given_spec.largest_sum() < MODULUS // 4


@settings(max_examples=20, deadline=None)
@given(OTHERS.filter(lambda one: one.kind == "dampening"))
def test_the_lookup_of_dampening_admits_rounding_and_hardly_more(given_spec: StatementSpec) -> None:
    """Every honest error of at most half a unit, and none above what `largest_rounding` says."""
    k = given_spec.rounding_weight
    assert k * FACTOR_UNIT // 2 <= given_spec.weight_limit
    beyond = round(given_spec.largest_rounding * FACTOR_UNIT) + 1
    assert k * beyond > given_spec.largest_value
    assert k * (beyond - 1) <= given_spec.largest_value
    worst = 2 * k * FACTOR_UNIT * given_spec.largest_value
    assert worst * given_spec.weights <= given_spec.largest_sum() < MODULUS // 4


def test_the_lookup_may_reach_above_the_weight_limit_and_the_bounds_know() -> None:
    assert spec().largest_value == 2**12 - 2020
    assert spec(weight_limit=16).largest_value == 2**12 - 16
    assert spec(weight_limit=16).largest_sum() > spec(weight_limit=2020).largest_sum()


def test_a_lookup_that_would_leave_the_range_of_the_identity_is_refused() -> None:
    with pytest.raises(ValidationError, match="lookup would reach"):
        spec(log2_rows=18, weight_limit=65000)
    assert spec(log2_rows=17, weight_limit=65000).largest_value <= IDENTITY_LIMIT
    scale = 2.0**24
    x = np.arange(-IDENTITY_LIMIT, IDENTITY_LIMIT + 1)
    assert (np.round(scale * np.arctan(x / scale)) == x).all(), "what the lookup computes"


@pytest.mark.parametrize(
    "change",
    [
        {"rows_per_chunk": 0},
        {"block_width": 1},
        {"guard_rank": -1},
        {"weight_limit": 65001},
        {"log2_rows": 23},
        {"guard_limit": 0},
        {"inner_columns": 0},
        {"version": 1},
        {"kind": "something-else"},
        {"kind": "mask-only"},
        {"kind": "dampening"},
        {"curvature": "none"},
        {"curvature_rank": 0},
        {"ridge": 0},
        {"kind": "mask-only", "curvature": "none", "curvature_rank": 0, "ridge": 0},
        {
            "kind": "mask-only",
            "curvature": "none",
            "curvature_rank": 0,
            "ridge": 0,
            "guard_rank": 0,
            "freivalds": False,
        },
        {
            "kind": "dampening",
            "curvature": "none",
            "curvature_rank": 0,
            "ridge": 0,
            "guard_rank": 0,
            "weight_limit": 255,
        },
        {"rows_per_chunk": 65536, "block_width": 1024, "curvature_rank": 1024, "weight_limit": 65000, "log2_rows": 17},
        {"unknown": 1},
    ],
)
def test_bad_specifications_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        spec(**change)


def test_a_specification_cannot_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec().guard_rank = 0  # type: ignore[misc]


def test_the_digest_depends_on_everything_and_on_nothing_else() -> None:
    changes: list[dict[str, object]] = [
        {},
        {"rows_per_chunk": 16},
        {"block_width": 16},
        {"curvature": "block-fisher", "curvature_rank": 3},
        {"curvature_rank": 31},
        {"ridge": 191},
        {"guard_rank": 3},
        {"weight_limit": 2000},
        {"guard_limit": 1023},
        {"inner_columns": 4},
        {"freivalds": False},
    ]
    digests = [statement_digest(one) for one in [*(spec(**c) for c in changes), *map(case, CASES[-2:])]]
    assert len(set(digests)) == len(digests)
    assert statement_digest(spec()) == digests[0]


@pytest.mark.parametrize("name", CASES)
def test_graphs_are_built_alike_every_time(name: str) -> None:
    first, second = (build_graph(case(name)).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    onnx.checker.check_model(build_graph(case(name)), full_check=True)


def every_statement(name: str) -> list[StatementSpec]:
    chosen = profile(name)
    repairs = [
        chosen.statement(curvature=curvature, guard_rank=rank, freivalds=freivalds)
        for curvature in ("kfac", "block-fisher")
        for rank in (None, 0)
        for freivalds in (True, False)
    ]
    return [*repairs, chosen.statement("mask-only"), chosen.statement("dampening")]


@pytest.mark.parametrize("name", PROFILES)
def test_every_statement_of_a_profile_is_sound_and_fits_its_rows(name: str, tmp_path: Path) -> None:
    for one in every_statement(name):
        assert one.largest_sum() * 4 < MODULUS
        onnx.save(build_graph(one), tmp_path / "graph.onnx")
        rows = canonical_settings(one, tmp_path / "graph.onnx", tmp_path)["num_rows"]
        assert rows <= 2**one.log2_rows - RESERVED_ROWS
    assert profile(name).statement(guard_rank=0).guard_rank == 0


def test_profiles_are_named() -> None:
    with pytest.raises(InputError, match="unknown profile"):
        profile("gigantic")

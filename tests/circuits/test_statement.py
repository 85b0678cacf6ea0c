"""The specification of a circuit: its bounds, its lengths, its identity, and what it refuses to be."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import spec

from zkapex.circuits.field import MODULUS
from zkapex.circuits.profiles import PROFILES, profile
from zkapex.circuits.slack import SLACK_LIMBS
from zkapex.circuits.statement import CURVATURE_SALTS, IDENTITY_LIMIT, INPUTS, SALTS, StatementSpec, build_graph
from zkapex.errors import InputError

SPECS = st.builds(
    StatementSpec,
    rows_per_chunk=st.integers(1, 12),
    block_width=st.integers(2, 12),
    guard_rank=st.integers(0, 4),
    weight_limit=st.integers(16, 4032),
    log2_rows=st.just(13),
    freivalds=st.booleans(),
)


@settings(max_examples=20, deadline=None)
@given(SPECS)
def test_the_graph_takes_what_the_lengths_say_and_yields_the_public_outputs(given_spec: StatementSpec) -> None:
    graph = build_graph(given_spec).graph
    lengths = {i.name: i.type.tensor_type.shape.dim[0].dim_value for i in graph.input}
    assert tuple(lengths) == INPUTS
    assert lengths == given_spec.input_lengths()
    assert len(graph.output) == 3 + given_spec.freivalds
    assert all(o.type.tensor_type.shape.dim[0].dim_value == 1 for o in graph.output)


@settings(max_examples=20, deadline=None)
@given(SPECS)
def test_lengths_count_every_value(given_spec: StatementSpec) -> None:
    rows, width, rank = given_spec.rows_per_chunk, given_spec.block_width, given_spec.guard_rank
    on = int(given_spec.freivalds)
    assert given_spec.input_lengths() == {
        "theta_u": rows * width + SALTS,
        "delta": rows * width + SALTS,
        "curvature": width * width + CURVATURE_SALTS,
        "public": rows * width + rank * width + 2 * SLACK_LIMBS + 2 + on * (rows + width + rank),
        "aux": rows * rank + 2 * SLACK_LIMBS + on * rows * (width + rank) + SALTS,
    }


@settings(max_examples=50, deadline=None)
@given(SPECS, st.integers(0, 2**32 - 1))
def test_no_admissible_chunk_exceeds_the_largest_sum(given_spec: StatementSpec, seed: int) -> None:
    """Values at the edges of what the lookup admits, signs at random or all alike: the bound holds, with room."""
    rng = np.random.default_rng(seed)
    rows, width, rank = given_spec.rows_per_chunk, given_spec.block_width, given_spec.guard_rank
    signs = (lambda *shape: rng.choice([-1, 1], shape)) if seed % 2 else (lambda *shape: np.ones(shape, np.int64))
    top = given_spec.largest_value
    delta, h = (signs(*shape).astype(object) * top for shape in ((rows, width), (width, width)))
    mu, v = signs(rows, rank).astype(object) * -top, signs(width, rank).astype(object) * given_spec.guard_limit
    residual = delta @ h - (mu @ v.T if rank else 0)
    largest = max((residual**2).sum(), ((delta @ v) ** 2).sum() if rank else 0, (delta**2).sum())
    assert largest <= given_spec.largest_sum() < MODULUS // 4


def test_the_lookup_may_reach_above_the_weight_limit_and_the_bounds_know() -> None:
    assert spec().largest_value == 2**13 - 4032
    assert spec(weight_limit=16).largest_value == 2**13 - 16
    assert spec(weight_limit=16).largest_sum() > spec(weight_limit=4032).largest_sum()


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
        {"version": 2},
        {"kind": "something-else"},
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
        {"guard_rank": 3},
        {"weight_limit": 4000},
        {"guard_limit": 1023},
        {"inner_columns": 4},
        {"freivalds": False},
    ]
    digests = [spec(**c).digest() for c in changes]
    assert len(set(digests)) == len(digests)
    assert spec().digest() == digests[0]


def test_graphs_are_built_alike_every_time() -> None:
    first, second = (build_graph(spec()).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    onnx.checker.check_model(build_graph(spec()), full_check=True)


def test_profiles_are_sound_and_named() -> None:
    for name in PROFILES:
        assert profile(name).statement().largest_sum() * 4 < MODULUS
        assert profile(name).statement(guard_rank=0).guard_rank == 0
    with pytest.raises(InputError, match="unknown profile"):
        profile("gigantic")

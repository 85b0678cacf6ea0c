"""What a verifier reads, and how much memory it takes for what cannot be a proof."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from make_vectors import CASES
from transparent_vectors import enrols, load, names, request, verify

from zkapex.circuits.profiles import profile
from zkapex.circuits.transparent import iop
from zkapex.circuits.transparent.group_obs import Request
from zkapex.circuits.transparent.layout import MAX_WEIGHTS, Layout, layout_of
from zkapex.circuits.transparent.merkle import largest_opening
from zkapex.circuits.transparent.params import MAX_LOG2_K, Parameters
from zkapex.circuits.transparent.program import Program
from zkapex.circuits.transparent.prove import verify_change
from zkapex.errors import ProofError

ROOT = bytes(32)


def large() -> Request:
    """Of a layer of ViT-B/16, with one weight masked."""
    y = layout_of(profile("server").statement(), 3072, 768)
    mask = np.zeros((y.rows, y.cols), np.bool_)
    mask[5, 7] = True
    guard, offsets = np.zeros((y.blocks, y.width, y.rank), np.int64), np.zeros((y.blocks, y.rows, y.rank), np.int64)
    return Request(y, mask, guard, offsets, np.zeros(y.blocks, np.bool_))


LARGE = large()
Y = LARGE.layout
SIZE = 2_400_000
"""Bytes, nearly those of a proof of it."""


def peak_of(proof: bytes) -> int:
    """Bytes that verifying took at most beyond the request."""
    _ = LARGE.packed_mask, LARGE.tolerances, iop.code_of(Y.parameters.k)
    tracemalloc.start()
    try:
        with pytest.raises(ProofError, match=r"too (short|long|large)"):
            verify_change(LARGE, ROOT, ROOT, b"", proof)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 31, 32, 96, 200_000, SIZE])
def test_what_is_too_short_takes_no_memory_that_grows_with_the_layer(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> Program:
        raise AssertionError("a program was laid out for what cannot be a proof")

    monkeypatch.setattr("zkapex.circuits.transparent.group_obs.Program", never)
    assert peak_of(bytes(size)) < 30e6


def test_what_is_too_large_is_not_read() -> None:
    assert peak_of(bytes(iop.MAX_PROOF_BYTES + 1)) < 1e6


@pytest.mark.parametrize("name", names())
def test_no_proof_is_longer_than_its_openings_may_be(name: str) -> None:
    vector = load(name)
    with pytest.raises(ProofError, match="too long"):
        verify(vector.about, vector.proof + bytes(100_000))


def test_openings_are_within_their_bound() -> None:
    for name in CASES:
        about, proof = load(name).about, load(name).proof
        y = None if enrols(about) else request(about).layout
        if y is not None:
            k, t = y.parameters.k, y.parameters.queries
            rows = 2 * sum(y.state_sizes.values()) + 400
            assert len(proof) < 120 * k + largest_opening(rows, y.parameters.n, 5 * t)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": MAX_WEIGHTS + 1, "cols": 1},
        {"rows": 0},
        {"width": 8000},
        {"rank": 65},
        {"factor_rank": 2000},
        {"ridge": 1 << 15},
        {"factor_rank": 0},
    ],
)
def test_layouts_that_no_verifier_lays_out(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"layer|rows|curvature"):
        replace(Y, **wrong)


@pytest.mark.parametrize("wrong", [{"k": 1 << (MAX_LOG2_K + 1)}, {"k": 1000}, {"k": 32}, {"queries": 0}, {"k": 512}])
def test_parameters_that_no_code_has(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"power|slots"):
        Parameters(**{"k": 1024, **wrong})


def test_a_layer_whose_integers_could_wrap_around_is_refused() -> None:
    """By both sides, whatever the proof: limits of weights that no profile has."""
    y = Y
    assert isinstance(y, Layout)
    with pytest.raises(ValueError, match="wrap around"):
        verify_change(replace(LARGE, layout=replace(y, limit=1 << 40)), ROOT, ROOT, b"", bytes(4_000_000))

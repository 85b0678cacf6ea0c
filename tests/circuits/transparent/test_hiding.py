"""What a proof shows of a witness: nothing. A simulator that has none, ranks of what is opened, and statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from make_vectors import CASES, made_with, states
from transparent_simulator import Programmed, Simulator
from transparent_vectors import enrols, layout, moment, reason, request

from zkapex.circuits.transparent import enrol, iop
from zkapex.circuits.transparent.code import code_of
from zkapex.circuits.transparent.compliance import Held
from zkapex.circuits.transparent.field import Array, P, minus, times
from zkapex.circuits.transparent.layout import commit
from zkapex.circuits.transparent.params import Parameters
from zkapex.circuits.transparent.prove import STATEMENTS, prove_change
from zkapex.circuits.transparent.transcript import Secret, Transcript


def simulated(about: dict[str, Any], prefixes: tuple[str, ...], seed: bytes) -> tuple[dict[str, Any], bytes]:
    """A proof of what a vector's file says, without a witness."""
    y = layout(about)
    side = Simulator(y.parameters, about["statement"], Secret(seed))
    for prefix in prefixes:
        side.commit("state", y.state_sizes, dict, prefix=prefix)
    if enrols(about):
        enrol.enrol(side, y, None, moment(about))
    else:
        terms = request(about)
        STATEMENTS[type(terms)].run(side, terms, None)
    roots = {prefix[:-1]: root.hex() for prefix, root in zip(prefixes, side.roots, strict=False)}
    return {**about, "roots": roots}, side.proof


@pytest.mark.parametrize("name", CASES)
def test_whoever_chooses_the_challenges_needs_no_witness(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, parameters = CASES[name]
    case = make(parameters)
    about = made_with(case)
    with monkeypatch.context() as patch:
        patch.setattr(iop, "Transcript", Programmed)
        said, proof = simulated(about, tuple(states(case)), b"simulator")
        assert reason(said, proof) == ""
        altered = bytearray(proof)
        altered[len(proof) // 2] ^= 1
        assert reason(said, bytes(altered))
    assert reason(said, proof)  # of challenges that follow from what is sent


def rank(matrix: Array) -> int:
    """Modulo p, by elimination."""
    m, done = matrix.copy(), 0
    for col in range(m.shape[1]):
        below = np.flatnonzero(m[done:, col])
        if not below.size:
            continue
        pivot = done + int(below[0])
        m[[done, pivot]] = m[[pivot, done]]
        row = times(m[done], np.uint64(pow(int(m[done, col]), -1, P)))
        m[done + 1 :] = minus(m[done + 1 :], times(m[done + 1 :, col, None], row[None]))
        done += 1
        if done == len(m):
            break
    return done


def test_elimination_finds_what_depends() -> None:
    rows = np.random.default_rng(0).integers(0, P, (6, 9), dtype=np.uint64)
    rows[4] = times(rows[1], np.uint64(12345))
    assert rank(rows) == 5


@pytest.mark.parametrize(("k", "queries"), [(64, 5), (256, 8), pytest.param(1024, 192, marks=pytest.mark.slow)])
def test_symbols_of_three_proofs_are_uniform_whatever_the_values(k: int, queries: int) -> None:
    """The map from a row's padding to its symbols at as many columns is square, and invertible."""
    parameters, code = Parameters(k, queries), code_of(k)
    for seed in range(2 if k < 1024 else 1):
        columns = np.sort(np.random.default_rng(seed).permutation(parameters.n)[: 3 * queries])
        m = code.lagrange(columns)[parameters.slots :]
        assert m.shape == (3 * queries, 3 * queries)
        assert rank(m) == 3 * queries


@pytest.mark.parametrize(("k", "t"), [(64, 5), (256, 16)])
def test_masks_of_s_and_v_hide_their_halves(k: int, t: int) -> None:
    """With the sum fixed, the middle moves low and high, and their 2 t opened symbols are uniform."""
    points = [int(x) for x in code_of(k).points[np.sort(np.random.default_rng(1).permutation(4 * k)[:t])]]
    low = [[pow(x, k - t + i, P) if i < t else 0 for i in range(k)] for x in points]
    high = [[pow(x, i - t, P) if i >= t else 0 for i in range(k)] for x in points]
    assert rank(np.array(low + high, np.uint64)) == 2 * t


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_single_symbols_tell_two_witnesses_apart_no_better_than_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kolmogorov-Smirnov distances from uniform of every word of 200 proofs, all weights large or all zero."""
    case = CASES["mask-only"][0](Parameters(128, 8))
    y, tries = case.layout, 200
    large = np.where(case.terms.mask, 0, y.limit)
    monkeypatch.setattr(iop, "Transcript", Programmed)  # the same columns each time
    means = []
    for weights in (large, np.zeros_like(large)):
        words = []
        for i in range(tries):
            tree = commit(y, weights, None, b"state %d" % i)
            proof = prove_change(case.terms, None, tree, Held(weights), b"", b"proof %d" % i, minimum=0.0)
            rows = y.theta_rows * y.parameters.queries
            words.append(np.frombuffer(proof, "<u8", 15 * y.parameters.k + rows, offset=96).astype(np.float64) / P)
        samples = np.array(words)
        ordered, grid = np.sort(samples, 0), np.arange(1, tries + 1)[:, None] / tries
        distance = np.maximum(abs(ordered - grid), abs(ordered - grid + 1 / tries)).max(0) * np.sqrt(tries)
        # 1.36 is exceeded with probability 0.05; of 2,000 words, dependent ones among them, 8 % leaves room
        assert np.mean(distance > 1.36) < 0.08
        means.append(samples.mean(0))
    difference = (means[0] - means[1]) * np.sqrt(6 * tries)
    assert abs(difference.std() - 1) < 0.1
    assert abs(difference.mean()) < 0.1


def test_challenges_are_programmed_in_tests_alone() -> None:
    assert iop.Transcript is Transcript

"""The term of the soundness error that queries have: lies that only the opened columns can show, counted.

Proofs with one, two and three queries of a statement that is false are accepted with the probability that the analysis
gives for the very lie, and no lie has a better one than `soundness` says.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from make_vectors import CASES, made_with, states
from transparent_forger import WrongWords, forged
from transparent_vectors import reason

from zkapex.circuits.transparent.field import Array, P
from zkapex.circuits.transparent.params import Parameters, soundness

K = 64
N = 4 * K


def rate(name: str, queries: int, tries: int, **lie: object) -> float:
    """How many of some proofs with a lie are accepted, each with columns of its own."""
    case = CASES[name][0](Parameters(K, queries))
    about, count = made_with(case), 0
    for i in range(tries):
        words = lie.get("columns")
        own = {key: value for key, value in lie.items() if key != "columns"}
        if words is not None:
            own["words"] = WrongWords(K, np.asarray(words))
        said, proof = forged({**about, "context": f"{i:08x}"}, case.witness, states(case), b"%d" % i, **own)
        why = reason(said, proof)
        assert why in ("", "the rows are not code words", "S is not what the opened columns make of it")
        count += not why
    return count / tries


def among(good: int, queries: int) -> float:
    """The probability that distinct columns are all among the good ones."""
    return math.comb(good, queries) / math.comb(N, queries)


def near(found: float, wanted: float, tries: int) -> bool:
    """Within four standard deviations."""
    return abs(found - wanted) <= 4 * math.sqrt(wanted * (1 - wanted) / tries)


def spoiled(errors: int) -> np.ndarray:
    return np.random.default_rng(errors).permutation(N)[:errors]


def wrong_v(name: str, messages: Array) -> None:
    if name == "v":
        messages[0, 0] = (int(messages[0, 0]) + 5) % P


@pytest.mark.parametrize(("queries", "tries"), [(1, 120), (2, 60)])
def test_words_with_errors_are_accepted_as_often_as_columns_miss_them(queries: int, tries: int) -> None:
    errors = (N - K) // 2 + 1  # one more than decode uniquely
    wanted = among(N - errors, queries)
    found = rate("same-weights", queries, tries, columns=spoiled(errors), spoiled="new.theta")
    assert near(found, wanted, tries)
    assert wanted <= 2 ** soundness(Parameters(K, queries), 10)["queries"] + 1e-9


def test_a_word_without_errors_is_none() -> None:
    assert rate("same-weights", 2, 5, columns=np.zeros(0, np.int64), spoiled="new.theta") == 1
    assert rate("same-weights", 8, 5, columns=np.arange(N), spoiled="new.theta") == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("queries", [1, 2, 3])
@pytest.mark.parametrize(
    ("errors", "rows"), [(13, "new.theta"), (160, "new.theta"), (97, "old.theta"), (97, "mask.p"), (97, "mask.s")]
)
def test_of_any_row_and_any_number_of_errors(queries: int, errors: int, rows: str) -> None:
    tries = 200
    found = rate("same-weights", queries, tries, columns=spoiled(errors), spoiled=rows)
    assert near(found, among(N - errors, queries), tries)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("queries", [1, 2, 3])
def test_a_false_sum_corrected_on_a_quarter_of_the_columns(queries: int) -> None:
    """S has the right sum by a polynomial that vanishes on one coset: whoever opens columns of that alone accepts."""
    tries = 200
    found = rate("mask-only", queries, tries, change=wrong_v, correct_sum=True)
    assert near(found, among(K, queries), tries)
    assert among(K, queries) <= 2 ** soundness(Parameters(K, queries), 10)["queries"]


def test_a_false_sum_that_is_not_corrected_is_always_noticed() -> None:
    case = CASES["mask-only"][0](Parameters(K, 1))
    said, proof = forged(made_with(case), case.witness, states(case), b"seed", change=wrong_v)
    assert reason(said, proof) == "the sum over slots is wrong"

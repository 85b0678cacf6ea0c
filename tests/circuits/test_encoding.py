"""Fixed point: exact at powers of two, bounded, and refused when it would not fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zkapex.circuits.encoding import HEADROOM, dequantise, exponent_for, quantise
from zkapex.errors import InputError

LIMIT = 4032
WEIGHTS = hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(-100, 100, width=32))


@given(WEIGHTS)
def test_the_exponent_is_the_largest_that_leaves_headroom(weights: np.ndarray) -> None:
    exponent = exponent_for(weights, LIMIT)
    largest = float(np.abs(weights).max())
    assert largest * 2.0**exponent <= LIMIT / HEADROOM
    if largest > 0 and exponent < 64:
        assert largest * 2.0 ** (exponent + 1) > LIMIT / HEADROOM


@given(hnp.arrays(np.int64, st.integers(1, 20), elements=st.integers(-LIMIT, LIMIT)), st.integers(-8, 40))
def test_quantising_what_was_dequantised_gives_the_same_integers(values: np.ndarray, exponent: int) -> None:
    assert (quantise(dequantise(values, exponent), exponent, LIMIT) == values).all()


@given(WEIGHTS)
def test_rounding_moves_a_weight_by_at_most_half_a_step(weights: np.ndarray) -> None:
    exponent = exponent_for(weights, LIMIT)
    error = dequantise(quantise(weights, exponent, LIMIT), exponent).astype(np.float64) - weights
    assert np.abs(error).max() <= 2.0 ** -(exponent + 1)


def test_no_weight_at_all_and_only_zeros_have_an_exponent() -> None:
    assert exponent_for(np.zeros((0, 3)), LIMIT) == 0
    assert exponent_for(np.zeros(3), LIMIT) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="not finite"):
        exponent_for(np.array([1.0, bad]), LIMIT)
    with pytest.raises(InputError, match="limit"):
        quantise(np.array([1.0, bad]), 3, LIMIT)


def test_a_weight_beyond_the_limit_is_refused_and_one_at_it_is_not() -> None:
    assert quantise(np.array([LIMIT / 8]), 3, LIMIT) == LIMIT
    with pytest.raises(InputError, match="limit of 4032"):
        quantise(np.array([(LIMIT + 1) / 8]), 3, LIMIT)

"""Field elements as ezkl reads them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zkapex.circuits.field import FELT_BYTES, MODULUS, felts, from_felt, random_elements, to_felt


@given(st.integers(-(2**300), 2**300))
def test_a_felt_is_the_residue_of_its_integer(value: int) -> None:
    text = to_felt(value)
    assert len(text) == 2 * FELT_BYTES
    assert from_felt(text) == value % MODULUS


@given(st.lists(st.integers(-(2**62), 2**62), max_size=12))
def test_felts_of_an_array_are_those_of_its_values_in_row_major_order(values: list[int]) -> None:
    array = np.array(values, np.int64)
    assert felts(array) == felts(values) == [to_felt(v) for v in values]
    square = np.arange(6).reshape(2, 3)
    assert felts(square.T) == [to_felt(v) for v in (0, 3, 1, 4, 2, 5)]


def test_random_elements_are_canonical_and_never_repeat() -> None:
    drawn = random_elements(1000)
    assert len(set(drawn)) == 1000
    assert all(0 <= v < MODULUS for v in drawn)

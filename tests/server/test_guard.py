from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkapex.errors import InputError
from zkapex.unlearning.planning.guard import gradient_gram, guard_blocks


@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(5, 20), rank=st.integers(1, 4))
def test_guards_are_the_blocks_top_right_singular_vectors(seed: int, columns: int, rank: int) -> None:
    width = 8
    gradient = np.random.default_rng(seed).normal(size=(12, columns)) * np.geomspace(1, 40, columns)
    blocks = guard_blocks(gradient_gram(gradient, width), rank, 10)
    assert len(blocks) == -(-columns // width)
    for index, guard in enumerate(blocks):
        part = gradient[:, index * width : (index + 1) * width]
        found = min(rank, part.shape[1])
        vectors = np.linalg.svd(part)[2][:found].T
        np.testing.assert_allclose(
            np.abs((guard[: part.shape[1], :found] / 2**10).T @ vectors), np.eye(found), atol=0.02
        )
        assert not guard[part.shape[1] :].any()
        assert not guard[:, found:].any()
        assert np.abs(guard).max() <= 2**10
        np.testing.assert_allclose(guard.T @ guard, 4**10 * np.diag(guard.any(0)), atol=4**10 * 0.02)


def test_directions_the_gradient_does_not_have_are_zero() -> None:
    gradient = np.outer([1.0, -2.0], [3.0, 0.0, 4.0, 0.0])
    (guard,) = guard_blocks(gradient_gram(gradient, 4), 3, 10)
    np.testing.assert_array_equal(guard[:, 0], np.rint(np.array([0.6, 0, 0.8, 0]) * 1024))
    assert not guard[:, 1:].any()
    (nothing,) = guard_blocks(gradient_gram(np.zeros((2, 4)), 4), 3, 10)
    assert not nothing.any()


def test_summed_gradients_weigh_the_same_whatever_their_size() -> None:
    first, second = np.outer([1.0], [1.0, 0.0, 0.0]), np.outer([1e6], [0.0, 1.0, 0.0])
    gram = gradient_gram(first, 3) + gradient_gram(second, 3)
    np.testing.assert_allclose(gram[0], np.diag([1.0, 1.0, 0.0]))


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="finite"):
        gradient_gram(np.full((2, 2), np.inf), 2)
    for rank, bits in ((3, 10), (-1, 10), (1, 40)):
        with pytest.raises(InputError, match="no guard"):
            guard_blocks(np.zeros((1, 2, 2)), rank, bits)

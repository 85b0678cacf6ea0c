from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkapex.errors import InputError
from zkapex.server.mask import top_fraction


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    fraction=st.floats(0, 1, exclude_min=True),
)
def test_exactly_the_highest_scores_of_all_layers_are_masked(
    seed: int, rows: int, columns: int, fraction: float
) -> None:
    rng = np.random.default_rng(seed)
    scores = {"a": rng.integers(-5, 6, (rows, columns)).astype(float), "b": rng.normal(size=(columns, rows))}
    masks = top_fraction(scores, fraction)
    n = 2 * rows * columns
    assert sum(m.sum() for m in masks.values()) == max(1, round(fraction * n))
    masked = np.concatenate([scores[k][masks[k]] for k in scores])
    kept = np.concatenate([scores[k][~masks[k]] for k in scores])
    assert len(kept) == 0 or masked.min() >= kept.max()


def test_ties_are_broken_by_position() -> None:
    masks = top_fraction({"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}, 0.375)
    assert masks["a"].tolist() == [[True, True], [True, False]]
    assert not masks["b"].any()


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_impossible_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(InputError, match="fraction"):
        top_fraction({"a": np.ones((1, 1))}, fraction)


def test_scores_must_be_numbers() -> None:
    with pytest.raises(InputError, match="not a number"):
        top_fraction({"a": np.full((1, 2), np.nan)}, 0.5)
    with pytest.raises(InputError, match="no layer"):
        top_fraction({}, 0.5)

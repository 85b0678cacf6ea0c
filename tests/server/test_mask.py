from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkapex.errors import InputError
from zkapex.unlearning.planning.mask import ChunkShape, concentrated, top_fraction


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


@st.composite
def layers(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], ChunkShape]:
    """Scores of two layers, what is masked in them already, and a chunk shape that need not divide them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = [(draw(st.integers(1, 14)), draw(st.integers(1, 14))) for _ in range(2)]
    scores = {name: rng.normal(size=size) for name, size in zip("ab", sizes, strict=True)}
    density = draw(st.sampled_from([0.0, 0.05, 0.5]))
    masked = {name: rng.random(score.shape) < density for name, score in scores.items()}
    masked["a"][0, 0] = False
    return scores, masked, ChunkShape(draw(st.integers(1, 6)), draw(st.integers(1, 6)))


def room(masked: dict[str, np.ndarray], shape: ChunkShape) -> tuple[int, list[int]]:
    """Unmasked weights in chunks that are touched, together, and in each that is not, largest first."""
    inside, others = 0, []
    for mask in masked.values():
        numbers = shape.of(mask.shape)
        for number in range(int(numbers.max()) + 1):
            own = mask[numbers == number]
            if own.any():
                inside += int((~own).sum())
            else:
                others.append(own.size)
    return inside, sorted(others, reverse=True)


@settings(max_examples=60, deadline=None)
@given(layers(), st.floats(0.001, 1), st.floats(0, 1))
def test_a_concentrated_mask_has_its_size_and_keeps_what_is_masked(
    case: tuple[dict[str, np.ndarray], dict[str, np.ndarray], ChunkShape], fraction: float, concentration: float
) -> None:
    scores, masked, shape = case
    masks = concentrated(scores, fraction, shape, concentration, masked)
    total = sum(s.size for s in scores.values())
    before = sum(int(m.sum()) for m in masked.values())
    assert sum(int(m.sum()) for m in masks.values()) == min(total, before + max(1, round(fraction * total)))
    assert all((masks[name] >= masked[name]).all() for name in scores)
    scattered = concentrated(scores, fraction, shape, 0.0, masked)
    assert shape.touched(masked) <= shape.touched(masks) <= shape.touched(scattered)


@settings(max_examples=60, deadline=None)
@given(layers(), st.floats(0.001, 1))
def test_the_two_ends_are_the_best_weights_and_the_fewest_chunks(
    case: tuple[dict[str, np.ndarray], dict[str, np.ndarray], ChunkShape], fraction: float
) -> None:
    scores, masked, shape = case
    plain, best = concentrated(scores, fraction, shape, 0.0), top_fraction(scores, fraction)
    assert all(np.array_equal(plain[name], best[name]) for name in scores)
    masks = concentrated(scores, fraction, shape, 1.0, masked)
    inside, others = room(masked, shape)
    missing = sum(int(m.sum()) for m in masks.values()) - sum(int(m.sum()) for m in masked.values()) - inside
    fewest = 0
    while missing > sum(others[:fewest]):
        fewest += 1
    assert shape.touched(masks) == shape.touched(masked) + fewest


def test_of_equally_large_chunks_the_most_salient_is_filled() -> None:
    scores = np.zeros((4, 4))
    scores[0, 0], scores[2:, 2:] = 3.0, 2.0
    masks = concentrated({"a": scores}, 0.25, ChunkShape(2, 2), 1.0)
    assert np.array_equal(masks["a"], scores == 2.0)
    assert ChunkShape(2, 2).touched(concentrated({"a": scores}, 0.25, ChunkShape(2, 2), 0.0)) == 2


def test_impossible_concentrations_are_refused() -> None:
    scores = {"a": np.ones((2, 2))}
    for concentration in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="concentration"):
            concentrated(scores, 0.5, ChunkShape(1, 1), concentration)
    with pytest.raises(InputError, match="masked already"):
        concentrated(scores, 0.5, ChunkShape(1, 1), 0.5, {"a": np.ones((2, 2), np.bool_)})
    with pytest.raises(InputError, match="hold no weight"):
        ChunkShape(0, 4)

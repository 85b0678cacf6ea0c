"""KLOM: what two samples of margins have to do with each other."""

from __future__ import annotations

import numpy as np
import pytest

from zkapex.errors import InputError
from zkapex.simulation.evaluation.metrics.klom import BINS, LEAST_SHARE, klom


def test_the_same_margins_are_no_distance_apart() -> None:
    margins = np.random.default_rng(0).normal(size=(50, 7))
    assert np.array_equal(klom(margins, margins[::-1]), np.zeros(7))
    assert np.array_equal(klom(np.ones((3, 2)), np.ones((5, 2))), np.zeros(2))


def test_margins_apart_are_as_far_as_can_be() -> None:
    far = klom(np.full((10, 1), -5.0), np.full((40, 1), 5.0))
    assert far[0] == pytest.approx(-np.log(LEAST_SHARE))


def test_a_value_by_hand() -> None:
    """Of 20 bins from 0 to 20 the first and the last are filled: halves against a quarter and three quarters."""
    unlearned, oracles = np.array([[0.0], [20.0]]), np.array([[0.0], [20.0], [20.0], [20.0]])
    assert BINS == 20
    assert klom(unlearned, oracles)[0] == pytest.approx(0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75))
    assert klom(oracles, unlearned)[0] == pytest.approx(0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5))


def test_forgetting_too_much_is_as_far_as_forgetting_too_little() -> None:
    chance = np.random.default_rng(1)
    oracles = chance.normal(size=(96, 30))
    known, buried, alike = (klom(chance.normal(mean, size=(96, 30)), oracles).mean() for mean in (8.0, -8.0, 0.0))
    assert known > 8
    assert buried > 8
    assert 0 < alike < 1.5


def test_margins_without_bound_are_cut() -> None:
    far = klom(np.array([[np.inf], [-np.inf]]), np.array([[100.0], [-100.0]]))
    assert far[0] == 0.0


@pytest.mark.parametrize(("ours", "theirs"), [((2, 3), (2, 4)), ((0, 3), (2, 3)), ((2, 3), (0, 3)), ((3,), (2, 3))])
def test_what_cannot_be_compared_is_refused(ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        klom(np.zeros(ours), np.zeros(theirs))

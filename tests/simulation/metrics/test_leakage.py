"""What the targets of a head say about the class they were planned for."""

from __future__ import annotations

import numpy as np

from zkapex.simulation.evaluation.metrics.leakage import guessed_labels
from zkapex.simulation.evaluation.metrics.undo import Public


def public(layer: str, moved: int, size: float) -> Public:
    rows = np.random.default_rng(0).normal(0, 1.0, (10, 3))
    rows[moved] += size
    return Public({}, {(layer, 0): np.eye(4)[:, :3]}, {(layer, 0): np.column_stack([rows, np.zeros(10)])}, 4, True)


def test_the_row_that_was_moved_is_guessed_first() -> None:
    assert [guessed_labels(public("head", row, 20.0))[0] for row in (0, 4, 9)] == [0, 4, 9]
    assert sorted(guessed_labels(public("head", 4, 20.0))) == list(range(10))


def test_rows_that_are_alike_say_nothing_certain() -> None:
    assert len({guessed_labels(public("head", row, 0.0))[0] for row in range(10)}) == 1


def test_targets_elsewhere_say_nothing_of_the_class() -> None:
    assert guessed_labels(public("blocks.0.fc1", 4, 20.0)) == ()

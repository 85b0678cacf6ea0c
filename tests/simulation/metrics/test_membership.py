from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn

from zkapex.errors import InputError
from zkapex.simulation.data.digits import Examples
from zkapex.simulation.evaluation.metrics.membership import (
    Shadows,
    Signals,
    attack,
    lira,
    rmia,
    separation,
    shadow_halves,
    signals,
)


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.lists(st.integers(-5, 5), min_size=1, max_size=30))
def test_the_area_is_that_of_scikit_learn(members: list[int], others: list[int]) -> None:
    truth = [1] * len(members) + [0] * len(others)
    found = separation(np.array(members, float), np.array(others, float))
    assert found.auc == pytest.approx(roc_auc_score(truth, members + others))
    assert found.tpr == np.mean(np.array(members) > max(others))


def test_one_false_positive_in_a_thousand_is_allowed() -> None:
    members, others = np.array([0.5, 1.5, 2.5]), np.concatenate([np.zeros(998), [1.0, 2.0]])
    assert separation(members, others[1:]).tpr == pytest.approx(1 / 3)
    assert separation(members, others).tpr == pytest.approx(2 / 3)


def test_scores_must_be_numbers_on_both_sides() -> None:
    with pytest.raises(InputError, match="not a number"):
        separation(np.array([np.nan]), np.zeros(2))
    with pytest.raises(InputError, match="non-members"):
        separation(np.zeros(2), np.zeros(0))


def test_every_example_is_left_out_by_half_of_the_shadow_models() -> None:
    halves = np.stack(list(shadow_halves(11, 6, 0)))
    assert (halves.sum(0) == 3).all()
    assert not np.array_equal(halves[0], halves[2])
    with pytest.raises(InputError, match="even"):
        list(shadow_halves(11, 3, 0))


def test_lira_compares_with_the_shadow_models_that_did_not_see_an_example() -> None:
    trained_on = np.array([[True, False], [False, True], [True, False], [False, True]])
    odds = np.array([[100.0, 1.0], [2.0, 100.0], [100.0, 3.0], [4.0, 100.0]])
    shadows = Shadows(Signals(odds, np.zeros((4, 2))), trained_on)
    assert lira(Signals(np.array([5.0, 5.0]), np.zeros(2)), shadows).tolist() == [2.0, 3.0]


@given(st.lists(st.tuples(*[st.floats(0.01, 1.0)] * 3), min_size=4, max_size=12), st.floats(0.2, 5.0))
def test_rmia_orders_as_its_count_over_a_population(
    likelihoods: list[tuple[float, float, float]], gamma: float
) -> None:
    p, first, second = np.array(likelihoods).T
    shadows = Shadows(Signals(np.zeros((2, len(p))), np.log([first, second])), np.zeros((2, len(p)), bool))
    score = rmia(Signals(np.zeros(len(p)), np.log(p)), shadows)
    ratio = p / ((first + second) / 2)
    assert np.allclose(np.exp(score), ratio)
    population, contested = ratio[:2], slice(2, None)
    count = (ratio[contested][:, None] / population[None] >= gamma).mean(1)
    order = np.argsort(score[contested], kind="stable")
    assert (np.diff(count[order]) >= 0).all()


def test_signals_are_of_the_label() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [50.0, 0.0, 0.0]])
    examples = Examples(logits, torch.tensor([1, 0]))
    p = torch.softmax(logits.double(), 1)[0, 1]
    found = signals(nn.Identity(), examples)
    assert found.log_likelihood[0] == pytest.approx(float(torch.log(p)))
    assert found.log_odds[0] == pytest.approx(float(torch.log(p / (1 - p))))
    assert found.log_odds[1] == pytest.approx(50 - np.log(2)), "even where the probability is 1 in floating point"


def test_an_overfitted_model_gives_its_members_away() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 2, generator=generator)
    members = Examples(inputs[:100], torch.zeros(100, dtype=torch.int64))
    others = Examples(inputs[100:], torch.zeros(100, dtype=torch.int64))

    class Overfitted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            known = (x[:, None] == members.inputs[None]).all(2).any(1)
            return x + torch.stack([3.0 * known, 0.0 * known], 1)

    plain = signals(nn.Identity(), Examples(inputs, torch.zeros(200, dtype=torch.int64)))
    stacked = Signals(plain.log_odds[None], plain.log_likelihood[None])
    shadows = Shadows(stacked, np.zeros((1, 200), np.bool_))
    given_away = attack(Overfitted(), members, others, shadows)
    assert given_away["lira"].auc == 1.0
    assert given_away["rmia"].auc > 0.99
    assert {name: found.auc for name, found in attack(nn.Identity(), members, others, shadows).items()} == {
        "rmia": 0.5, "lira": 0.5,
    }  # fmt: skip

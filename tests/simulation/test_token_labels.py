"""A label for every token: losses and metrics are those of the flattened tokens, and per example their mean."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from zkapex.errors import InputError
from zkapex.simulation.data.digits import Examples
from zkapex.simulation.evaluation.metrics.membership import signals
from zkapex.simulation.evaluation.metrics.similarity import features
from zkapex.simulation.models.training import accuracy
from zkapex.unlearning.curvature.moments import fisher_moments
from zkapex.unlearning.personalise import FitSettings, cross_entropy, fit
from zkapex.unlearning.planning import trials
from zkapex.unlearning.planning.saliency import gradient_moments, margin_loss

CLASSES, N, T, WIDTH = 7, 9, 5, 6


class Tokens(nn.Module):
    """A linear classifier of every token."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)  # type: ignore[no-any-return]


@pytest.fixture
def model() -> Tokens:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tokens()


@pytest.fixture
def tokens() -> Examples:
    generator = torch.Generator().manual_seed(1)
    return Examples(
        torch.randn(N, T, WIDTH, generator=generator), torch.randint(0, CLASSES, (N, T), generator=generator)
    )


@pytest.fixture
def flat(tokens: Examples) -> Examples:
    return Examples(tokens.inputs.flatten(0, 1), tokens.labels.flatten())


def test_losses_are_those_of_the_flattened_tokens(model: Tokens, tokens: Examples, flat: Examples) -> None:
    ours, wanted = model(tokens.inputs), model(flat.inputs)
    assert torch.allclose(cross_entropy(ours, tokens.labels), functional.cross_entropy(wanted, flat.labels))
    assert torch.equal(cross_entropy(wanted, flat.labels), functional.cross_entropy(wanted, flat.labels))
    assert torch.allclose(margin_loss(ours, tokens.labels), margin_loss(wanted, flat.labels))


def test_accuracy_counts_tokens(model: Tokens, tokens: Examples, flat: Examples) -> None:
    assert accuracy(model, tokens) == accuracy(model, flat)
    assert accuracy(model, tokens, batch_size=2) == accuracy(model, flat)
    with torch.no_grad():
        for raised in (0.0, 0.7):
            assert trials.accuracy(model, tokens, raised) == trials.accuracy(model, flat, raised)


def test_confidence_of_an_example_is_the_mean_over_its_tokens(model: Tokens, tokens: Examples, flat: Examples) -> None:
    of_tokens, of_windows = signals(model, flat), signals(model, tokens)
    assert np.allclose(of_windows.log_odds, of_tokens.log_odds.reshape(N, T).mean(1))
    assert np.allclose(of_windows.log_likelihood, of_tokens.log_likelihood.reshape(N, T).mean(1))


def test_features_are_of_tokens(model: Tokens, tokens: Examples) -> None:
    assert np.array_equal(features(model, tokens.inputs), tokens.inputs.flatten(0, 1).double().numpy())


def test_gradients_are_of_examples(model: Tokens, tokens: Examples) -> None:
    """And their squares are multiplied by the tokens that each is a mean of."""
    mean, square = gradient_moments(model, ["head"], *tokens)["head"]
    each = [gradient_moments(model, ["head"], *tokens.take(torch.tensor([i])))["head"][0] for i in range(N)]
    assert np.allclose(mean, np.mean(each, 0), atol=1e-7)
    assert np.allclose(square, T * np.mean(np.square(each), 0), atol=1e-6)


def test_training_is_that_of_the_flattened_tokens(model: Tokens, tokens: Examples, flat: Examples) -> None:
    one, two = copy.deepcopy(model), copy.deepcopy(model)
    losses = [
        fit(trained, *examples, FitSettings(3, 1e-2, batch_size=len(examples.labels)), seed=0)
        for trained, examples in ((one, tokens), (two, flat))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(one.head.weight, two.head.weight, atol=1e-5)


def test_curvature_of_sampled_labels_is_refused(model: Tokens, tokens: Examples) -> None:
    with pytest.raises(InputError, match="labels every token"):
        fisher_moments(model, ["head"], tokens.inputs, 4)

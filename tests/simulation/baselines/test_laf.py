from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from zkapex.errors import InputError
from zkapex.simulation.evaluation.baselines.laf import (
    Autoencoder,
    alignment_loss,
    representations,
    unlearning_loss,
)


def test_the_unlearning_loss_by_hand() -> None:
    """Squared errors 0 and 3 of what is kept, 1 of what is to be forgotten."""
    kept, gone = torch.zeros(2, 3), torch.zeros(1, 2)
    rebuilt = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    found = unlearning_loss(kept, rebuilt, gone, torch.tensor([[1.0, 0.0]]))
    assert float(found) == pytest.approx(1 + math.exp(0.75) - math.exp(0.5))


def test_the_alignment_loss_by_hand() -> None:
    """What is kept has turned by 0 and 90 degrees, what is to be forgotten by 180 and 0."""
    kept, was_kept = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    gone, was_gone = torch.tensor([[-1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    found = alignment_loss(kept, was_kept, gone, was_gone, 20.0)
    shared = math.exp(2 / 20) + 1
    assert float(found) == pytest.approx(math.log(1 / shared) + math.log(math.e / shared), rel=1e-5)
    turned_more = alignment_loss(kept, was_kept, -was_gone, was_gone, 20.0)
    assert float(turned_more) < float(found)


def test_the_autoencoder_draws_from_its_generator_alone() -> None:
    autoencoder = Autoencoder(6, (5, 4), 2)
    x = torch.rand(3, 6)
    before = torch.random.get_rng_state()
    first = autoencoder(x, torch.Generator().manual_seed(1))
    again = autoencoder(x, torch.Generator().manual_seed(1))
    assert torch.equal(first[0], again[0])
    assert first[1].shape == (3, 2)
    assert (first[2] > 0).all()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(InputError, match="'head'"):
        representations(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2))

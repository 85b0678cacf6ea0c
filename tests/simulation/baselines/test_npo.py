from __future__ import annotations

import math

import pytest
import torch

from zkapex.simulation.evaluation.baselines.npo import log_likelihood, npo_loss


def test_the_loss_by_hand() -> None:
    """Two sequences of two tokens over two words; probabilities 1/2 and 3/4 each, against 1/2 throughout."""
    third = math.log(3.0)
    logits = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[third, 0.0], [0.0, third]]])
    labels = torch.tensor([[0, 1], [0, 1]])
    ours, reference = log_likelihood(logits, labels), log_likelihood(torch.zeros(2, 2, 2), labels)
    assert ours.tolist() == pytest.approx([2 * math.log(0.5), 2 * math.log(0.75)])
    ratios, beta = [1.0, (0.75 / 0.5) ** 2], 0.1
    wanted = sum(2 / beta * math.log(1 + ratio**beta) for ratio in ratios) / 2
    assert float(npo_loss(ours, reference, beta)) == pytest.approx(wanted)


def test_its_gradient_fades_where_the_model_has_forgotten() -> None:
    """Gradient ascent on the likelihood would pull alike everywhere; that is why there is NPO."""
    ours = torch.tensor([0.0, -200.0], requires_grad=True)
    npo_loss(ours, torch.zeros(2), 0.1).backward()  # type: ignore[no-untyped-call]
    assert ours.grad is not None
    assert ours.grad[0] == pytest.approx(0.5), "as gradient ascent: half of two examples"
    assert abs(float(ours.grad[1])) < 1e-8

from __future__ import annotations

import pytest
import torch

from zkapex.simulation.evaluation.baselines.loku import inverted_hinge_loss, split


def test_the_loss_by_hand() -> None:
    """Two tokens over three words: probabilities 1/2, 1/4, 1/4, the label the first, then the second word."""
    logits = torch.tensor([0.5, 0.25, 0.25]).log().expand(1, 2, 3)
    assert float(inverted_hinge_loss(logits, torch.tensor([[0, 1]]))) == pytest.approx((1.25 + 0.75) / 2)
    assert float(inverted_hinge_loss(logits[:, 0], torch.tensor([0]))) == pytest.approx(1.25)


def test_its_gradient_pulls_at_the_label_and_one_rival() -> None:
    """Gradient ascent raises every other word; that is why there is an inverted hinge."""
    logits = torch.tensor([[2.0, 1.0, -9.0, -9.0]], requires_grad=True)
    inverted_hinge_loss(logits, torch.tensor([0])).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[0, 0] > 0.1
    assert logits.grad[0, 1] < -0.1
    assert float(logits.grad[0, 2:].abs().max()) < 1e-4


def test_factors_and_rest_make_up_the_weight_and_rows_that_matter_come_first() -> None:
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([100.0, 1.0, 1.0, 1.0, 1.0, 100.0])
    rest, up, down = split(weight, rows, 2, 2.0)
    torch.testing.assert_close(rest + 2.0 * up @ down, weight)
    assert (up.shape, down.shape) == ((6, 2), (2, 5))
    assert float(rest[[0, 5]].norm()) < 0.01 * float(weight[[0, 5]].norm())
    assert split(weight, rows, 32, 2.0)[1].shape == (6, 5)

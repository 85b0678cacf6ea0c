from __future__ import annotations

import math

import pytest
import torch

from zkapex.simulation.evaluation.baselines.hamu import constrained_step


@pytest.mark.parametrize("seed", range(20))
def test_the_step_keeps_both_constraints_and_no_other_is_better(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    retain, forget = torch.randn(2, 3, 4, generator=generator).double()
    if seed % 2:
        forget = forget - 0.8 * retain
    radius = 0.1
    quota = 0.5 * radius * float(forget.norm())
    step = constrained_step(retain, forget, quota, radius)
    assert float((forget * step).sum()) >= quota - 1e-12
    assert float(step.norm()) <= radius + 1e-12
    cost = float((retain * step).sum())
    others = torch.randn(5000, 3, 4, generator=generator).double()
    others *= radius / others.flatten(1).norm(dim=1)[:, None, None]
    allowed = others[(others * forget).sum((1, 2)) >= quota]
    assert len(allowed)
    assert float((allowed * retain).sum((1, 2)).min()) >= cost - 1e-9


def test_it_goes_straight_down_where_that_forgets_enough() -> None:
    retain, forget = torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 1.0])
    assert constrained_step(retain, forget, 0.05, 0.1).tolist() == pytest.approx([-0.1, 0.0])
    # At a larger quota the step is bent: half of it is needed along the forget gradient.
    bent = constrained_step(retain, forget, 0.12, 0.1)
    assert bent.tolist() == pytest.approx([
        -0.06 - math.sqrt(0.01 - 0.0072) / math.sqrt(2), 0.06 - math.sqrt(0.01 - 0.0072) / math.sqrt(2),
    ])  # fmt: skip


def test_out_of_reach_it_takes_the_shortest_step_that_reaches_the_quota() -> None:
    retain, forget = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.5])
    assert constrained_step(retain, forget, 0.2, 0.1).tolist() == pytest.approx([0.0, 0.4])
    assert constrained_step(retain, torch.zeros(2), 0.0, 0.1).tolist() == pytest.approx([-0.1, 0.0])
    assert constrained_step(torch.zeros(2), forget, 0.0, 0.1).tolist() == [0.0, 0.0]

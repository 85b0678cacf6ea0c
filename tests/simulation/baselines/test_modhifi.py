from __future__ import annotations

import torch

from zkapex.simulation.evaluation.baselines.modhifi import fidelity


def test_fidelity_is_what_one_term_explains_at_its_best_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 5, generator=generator).double()
    weight[1, 2] = 0.0
    h = torch.randn(1000, 5, generator=generator).double() @ torch.randn(5, 5, generator=generator).double()
    found = fidelity(weight, h.T @ h / len(h))
    terms, outputs = weight[None] * h[:, None, :], h @ weight.T
    for c in range(3):
        for i in range(5):
            y, a = outputs[:, c], terms[:, c, i]
            scale = (y * a).mean() / a.square().mean() if a.any() else torch.tensor(0.0)
            wanted = 1 - (y - scale * a).square().mean() / y.square().mean()
            torch.testing.assert_close(found[c, i], wanted)
    assert ((found >= 0) & (found <= 1 + 1e-9)).all()


def test_terms_that_do_not_go_together_share_the_output() -> None:
    weight = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    found = fidelity(weight, torch.eye(3).double())
    torch.testing.assert_close(found, torch.tensor([[0.2, 0.8, 0.0], [0.0, 0.0, 0.0]]).double())

from __future__ import annotations

import torch

from zkapex.simulation.evaluation.baselines.mrp import Projection, basis_of, projected


def test_a_projection_takes_a_span_away_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, states = torch.randn(2, 6, generator=generator), torch.randn(4, 3, 6, generator=generator)
    basis = basis_of(rows)
    torch.testing.assert_close(basis @ basis.T, torch.eye(2))
    after = projected(states, basis)
    torch.testing.assert_close(after @ rows.T, torch.zeros(4, 3, 2), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(projected(after, basis), after)
    aside = torch.linalg.svd(rows)[2][2:]
    torch.testing.assert_close(after @ aside.T, states @ aside.T)
    torch.testing.assert_close(Projection(basis)(states), after)

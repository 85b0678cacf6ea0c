from __future__ import annotations

import pytest
import torch
from torch import nn

from zkapex.errors import InputError
from zkapex.simulation.data.digits import Examples
from zkapex.simulation.evaluation.metrics.probing import probe_auc


class Body(nn.Module):
    """A representation of two numbers, and a head that ignores the one which tells the kinds apart."""

    def __init__(self, blind: bool) -> None:
        super().__init__()
        self.blind = blind
        self.head = nn.Linear(2, 2)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.head(x * torch.tensor([0.0 if self.blind else 1.0, 1.0]))
        return hidden


def kinds(seed: int, shape: tuple[int, ...] = (200, 2)) -> tuple[Examples, Examples]:
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(shape, generator=generator) for _ in range(2)]
    noise[0][..., 0] += 3
    return Examples(noise[0], torch.zeros(200, dtype=torch.int64)), Examples(
        noise[1], torch.ones(200, dtype=torch.int64)
    )


def test_a_probe_finds_what_the_head_does_not_use() -> None:
    assert probe_auc(Body(blind=False), kinds(0), kinds(1)) > 0.95
    assert abs(probe_auc(Body(blind=True), kinds(0), kinds(1)) - 0.5) < 0.1


def test_sequences_are_represented_by_their_mean() -> None:
    assert probe_auc(Body(blind=False), kinds(0, (200, 5, 2)), kinds(1, (200, 5, 2))) > 0.99


def test_both_sides_must_have_examples() -> None:
    forget, keep = kinds(0)
    with pytest.raises(InputError, match="probe"):
        probe_auc(Body(blind=False), (forget, keep), (forget.take(torch.arange(0)), keep))

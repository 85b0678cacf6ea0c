"""A small classifier and examples for it, always the same."""

from __future__ import annotations

import torch
from torch import nn


def network() -> nn.Sequential:
    """Linear layers ``0`` (5 to 7) and ``2`` (7 to 3)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))


def inputs(*shape: int) -> torch.Tensor:
    """Examples ``[*shape, 5]``."""
    return torch.randn(*shape, 5, generator=torch.Generator().manual_seed(1))

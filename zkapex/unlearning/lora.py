"""Low-rank adaptation (Hu et al., arXiv 2106.09685): a small change of large weights, merged into them afterwards.

Every linear layer that may be trained keeps its weight W and learns ``W + alpha / rank * up @ down``. Once merged, the
model is an ordinary one: what is committed to, unlearned and proved knows nothing of the factors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from zkapex.errors import InputError


@dataclass(frozen=True)
class LoRA:
    """Rank of the change, and ``alpha``: it is scaled by ``alpha / rank``. The usual 8 and 16."""

    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise InputError("impossible low-rank adaptation", why=repr(self))


class _Adapter(nn.Module):
    """The parametrisation of one weight; ``held`` is where the sum stays zero, bool [out, in], or None."""

    def __init__(
        self, weight: torch.Tensor, settings: LoRA, held: torch.Tensor | None, generator: torch.Generator
    ) -> None:
        super().__init__()
        rows, columns = weight.shape
        bound = 1 / math.sqrt(columns)
        start = (2 * torch.rand(settings.rank, columns, generator=generator) - 1) * bound
        self.down = nn.Parameter(start.to(weight))
        self.up = nn.Parameter(weight.new_zeros(rows, settings.rank))
        self.scale = settings.alpha / settings.rank
        self.held = held

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        merged = weight + self.scale * (self.up @ self.down)
        return merged if self.held is None else merged.masked_fill(self.held, 0.0)


@contextmanager
def adapted(
    model: nn.Module, settings: LoRA, held: Mapping[str, torch.Tensor], seed: int
) -> Iterator[list[nn.Parameter]]:
    """The factors to train, of every linear layer whose weight may be trained; merged when the context ends.

    All other parameters stay as they are.

    Parameters
    ----------
    model : nn.Module
    settings : LoRA
    held : mapping of str to bool tensor [out, in]
        Layer name to weights that stay zero, during training and after merging.
    seed : int
        Of the factors' initial values.

    Raises
    ------
    InputError
        The model has no linear layer that may be trained.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.weight.requires_grad}
    if not layers:
        raise InputError("low-rank adaptation needs a linear layer that may be trained")
    generator = torch.Generator().manual_seed(seed)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    factors: list[nn.Parameter] = []
    for name, layer in layers.items():
        adapter = _Adapter(layer.weight.detach(), settings, held.get(name), generator)
        parametrize.register_parametrization(layer, "weight", adapter)
        factors += [adapter.down, adapter.up]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield factors
    finally:
        for layer in layers.values():
            parametrize.remove_parametrizations(layer, "weight")
        for parameter in trainable:
            parameter.requires_grad_(True)

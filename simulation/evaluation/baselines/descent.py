"""Plain stochastic gradient descent, up or down: what fine-tuning and gradient ascent have in common."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from zkapex.simulation.data.digits import Examples
from zkapex.simulation.evaluation.baselines.base import batches


@dataclass(frozen=True)
class Descent:
    """Hyperparameters of SGD with momentum, and the loop over shuffled batches that follows them."""

    epochs: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 256

    def descend(
        self,
        before: nn.Module,
        examples: Examples,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        seed: int,
    ) -> nn.Module:
        """A copy of a model that went down the loss of logits and labels."""
        model = copy.deepcopy(before)
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.SGD(
            model.parameters(), self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        model.train()
        for _ in range(self.epochs):
            for x, y in batches(examples, self.batch_size, generator):
                optimiser.zero_grad()
                loss(model(x), y).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        return model.eval()

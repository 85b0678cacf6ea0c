"""Fine-tuning on what is to be kept, hoping that the rest fades."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from zkapex.simulation.baselines.base import Case, batches


@dataclass(frozen=True)
class FineTune:
    """SGD with momentum on the retain examples."""

    epochs: int = 10
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 256
    name: str = "fine-tune"
    label: str = "fine-tune"
    source: str = "OPTML-Group/Unlearn-Saliency, Classification/README.md: FT, lr 0.01, 10 epochs, batch 256"
    stage: str | None = None

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        model = copy.deepcopy(case.before)
        generator = torch.Generator().manual_seed(case.seed)
        optimiser = torch.optim.SGD(
            model.parameters(), self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        model.train()
        for _ in range(self.epochs):
            for x, y in batches(case.retain, self.batch_size, generator):
                optimiser.zero_grad()
                functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        return model.eval()

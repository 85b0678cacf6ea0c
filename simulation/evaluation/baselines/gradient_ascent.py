"""Gradient ascent on what is to be forgotten."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from zkapex.simulation.evaluation.baselines.base import Case
from zkapex.simulation.evaluation.baselines.descent import Descent
from zkapex.unlearning.personalise import cross_entropy


@dataclass(frozen=True)
class GradientAscent(Descent):
    """SGD with momentum that maximises cross-entropy on the forget set, with nothing to hold the rest."""

    epochs: int = 5
    learning_rate: float = 1e-4
    name: str = "gradient-ascent"
    label: str = "gradient ascent"
    source: str = "OPTML-Group/Unlearn-Saliency, Classification/README.md: GA, lr 1e-4, 5 epochs, batch 256"
    stage: str | None = None

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        return self.descend(case.before, case.forget, _negative_cross_entropy, case.seed)


def _negative_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return -cross_entropy(logits, labels)

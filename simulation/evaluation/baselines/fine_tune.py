"""Fine-tuning on what is to be kept, hoping that the rest fades."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from zkapex.simulation.evaluation.baselines.base import Case
from zkapex.simulation.evaluation.baselines.descent import Descent
from zkapex.unlearning.personalise import cross_entropy


@dataclass(frozen=True)
class FineTune(Descent):
    """SGD with momentum on the retain examples."""

    epochs: int = 10
    learning_rate: float = 0.01
    name: str = "fine-tune"
    label: str = "fine-tune"
    source: str = "OPTML-Group/Unlearn-Saliency, Classification/README.md: FT, lr 0.01, 10 epochs, batch 256"
    stage: str | None = None

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        return self.descend(case.before, case.retain, cross_entropy, case.seed)

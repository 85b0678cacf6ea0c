"""Selective synaptic dampening: shrink what matters more to the forget set than to the rest (arXiv 2308.07707)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from zkapex.simulation.data.digits import Examples, concatenate
from zkapex.simulation.evaluation.baselines.base import Case
from zkapex.unlearning.personalise import cross_entropy


@dataclass(frozen=True)
class SelectiveSynapticDampening:
    """Where a weight's importance to the forget set is ``alpha`` times that to all data, scale it down.

    Importance is the mean over batches of the squared mean gradient of cross-entropy; dampening multiplies by
    ``min(strength * importance to all / importance to forget, 1)``.
    """

    alpha: float = 5.0
    strength: float = 1.0
    batch_size: int = 64
    name: str = "ssd"
    label: str = "SSD"
    source: str = "if-loops/selective-synaptic-dampening: alpha 5 (ViT, full class), lambda 1"
    stage: str | None = None

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        model = copy.deepcopy(case.before).eval()
        forget = self._importance(model, case.forget)
        everything = self._importance(model, concatenate(case.retain, case.forget))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                chosen = forget[name] > self.alpha * everything[name]
                ratio = (self.strength * everything[name] / forget[name].clamp_min(1e-30)).clamp_max(1.0)
                weight[chosen] *= ratio[chosen]
        return model

    def _importance(self, model: nn.Module, examples: Examples) -> dict[str, torch.Tensor]:
        totals = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
        parts = list(zip(*(torch.split(part, self.batch_size) for part in examples), strict=True))
        for x, y in parts:
            model.zero_grad()
            cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            for name, weight in model.named_parameters():
                if weight.grad is not None:
                    totals[name] += weight.grad.square() / len(parts)
        model.zero_grad()
        return totals

"""What forgetting is asked to be of a model's answers and representations, as losses that planners descend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from zkapex.unlearning.planning.saliency import margins
from zkapex.unlearning.planning.trials import Contrast, Examples, Trial, margins_of

_TEMPERATURE = 0.1


@dataclass(frozen=True)
class Asked:
    """What forgetting means of every example: float32 [copies, *labels], by how much another label is to win.

    Attributes
    ----------
    levels : tensor
    both_sides : bool
        Whether more is as wrong as less.
    """

    levels: torch.Tensor
    both_sides: bool

    @classmethod
    def of(cls, trials: Sequence[Trial], forget_set: Examples, margin: float, contrast: Contrast | None) -> Asked:
        """One margin for all or, with a contrast, each example's own."""
        if contrast is None:
            return cls(torch.full((len(trials), *forget_set[1].shape), margin), both_sides=False)
        change = contrast.change(forget_set)
        return cls(torch.stack([margins_of(trial.deployed, forget_set) + change for trial in trials]), both_sides=True)

    def missing(self, logits: torch.Tensor, labels: torch.Tensor, chosen: Sequence[torch.Tensor]) -> torch.Tensor:
        """How far a batch of each copy, examples `chosen` of the forget set, is from what is asked."""
        if not self.both_sides:
            return self.shortfall(logits, labels, chosen)
        return functional.smooth_l1_loss(margins(logits, labels), self._of(chosen))

    def shortfall(self, logits: torch.Tensor, labels: torch.Tensor, chosen: Sequence[torch.Tensor]) -> torch.Tensor:
        """By how much it gives away more than that."""
        return functional.relu(self._of(chosen) - margins(logits, labels)).mean()

    def _of(self, chosen: Sequence[torch.Tensor]) -> torch.Tensor:
        times = len(chosen) // len(self.levels)
        return torch.stack([self.levels[index // times][i] for index, i in enumerate(chosen)])


def prototypes(features: torch.Tensor, labels: torch.Tensor, forgotten: int, classes: int) -> torch.Tensor:
    """By how much the mean of a few of the deleted class is too good a prototype for the others of it."""
    z = functional.normalize(features, dim=-1)
    hot = functional.one_hot(labels, classes).float()
    count = hot.sum(1)
    kept = hot.mT @ z[:, forgotten:] / count.clamp(min=1)[..., None]
    half = forgotten // 2
    others = z[:, half:forgotten]
    to_kept = torch.cdist(others, kept).square() / _TEMPERATURE + 1e6 * (count == 0)[:, None]
    loss = torch.zeros(())
    for shots in (min(3, half), half):
        own = (others - z[:, :shots].mean(1, keepdim=True)).square().sum(-1) / _TEMPERATURE
        loss = loss + functional.relu(2.0 - own - torch.logsumexp(-to_kept, -1)).mean() / 2
    return loss


def deleted_labels(forgotten: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The labels that are to go altogether: all of the forget set's, or where others keep one of them, none."""
    labels: torch.Tensor = torch.unique(forgotten)
    return labels[:0] if bool(torch.isin(labels, kept).any()) else labels

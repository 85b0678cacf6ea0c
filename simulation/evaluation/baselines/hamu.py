"""HAMU-Q: every step forgets by a given amount, at the least cost to what is kept (Chen et al., arXiv 2606.02119)."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass

import torch
from torch import nn

from zkapex.simulation.data.digits import Examples
from zkapex.simulation.evaluation.baselines.base import Case, batches
from zkapex.unlearning.personalise import cross_entropy


@dataclass(frozen=True)
class HamuQ:
    """Steps of `constrained_step` in every tensor of weights, without momentum.

    The forget loss is to rise by ``quota`` times the learning rate in all; a tensor's share of that is the product of
    the norms of its two gradients. The radius is the learning rate times the norm of the retain gradient.

    The published steps are small, and there are 225 of them: they promise a change of the loss by about 0.01, not a
    class that is answered no more. A batch of 5,000 was a ninth of the images to keep there, and so it is here.
    Where the quota cannot be reached within the radius, as with the small gradients of a model that fits its data, the
    published code stops unless it is told to go on; here it goes on, or nothing would change.
    """

    learning_rate: float = 1e-4
    quota: float = 0.5
    epochs: int = 25
    steps_per_epoch: int = 9
    largest_batch: int = 5000
    largest_gradient: float = 1.0
    name: str = "hamu"
    label: str = "HAMU-Q"
    source: str = (
        "aoi3142/HAMU, scripts/experiments/cifar/hamu_unlearn.sh: lr 1e-4, Q 0.5 x lr shared by gradient norms, radius "
        "lr x retain gradient, gradients clipped to 1, 25 epochs of nine steps, continue_on_failed_feasibility"
    )
    stage: str | None = None

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        model = copy.deepcopy(case.before)
        generator = torch.Generator().manual_seed(case.seed)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        kept = min(self.largest_batch, math.ceil(len(case.retain.labels) / self.steps_per_epoch))
        forget = itertools.chain.from_iterable(
            batches(case.forget, self.largest_batch, generator) for _ in itertools.count()
        )
        model.train()
        for _ in range(self.epochs):
            for retain in batches(case.retain, kept, generator):
                gradients = [self._gradients(model, weights, part) for part in (retain, next(forget))]
                with torch.no_grad():
                    self._step(weights, *gradients)
        return model.eval()

    def _gradients(self, model: nn.Module, weights: list[nn.Parameter], part: Examples) -> list[torch.Tensor]:
        loss = cross_entropy(model(part.inputs), part.labels)
        found = torch.autograd.grad(loss, weights, materialize_grads=True)
        norm = torch.stack([gradient.square().sum() for gradient in found]).sum().sqrt()
        shrink = (self.largest_gradient / norm.clamp_min(1e-12)).clamp_max(1.0)
        return [gradient * shrink for gradient in found]

    def _step(self, weights: list[nn.Parameter], retain: list[torch.Tensor], forget: list[torch.Tensor]) -> None:
        products = [r.norm() * f.norm() for r, f in zip(retain, forget, strict=True)]
        total = torch.stack(products).sum().clamp_min(1e-12)
        for weight, r, f, product in zip(weights, retain, forget, products, strict=True):
            quota = float(self.quota * self.learning_rate * product / total)
            weight.add_(constrained_step(r, f, quota, self.learning_rate * float(r.norm())))


def constrained_step(retain: torch.Tensor, forget: torch.Tensor, quota: float, radius: float) -> torch.Tensor:
    """The step d with the least ``<retain, d>`` of those with ``<forget, d> >= quota`` and ``|d| <= radius``.

    The plain step down the retain gradient, where that forgets enough; otherwise what the quota needs of the forget
    gradient, and the rest of the radius along the part of the retain gradient that does not touch it. If no step of
    that length reaches the quota: the shortest that does.

    Parameters
    ----------
    retain, forget : tensor
        Gradients of the losses, of one shape.
    quota : float
        Not negative.
    radius : float
    """
    r_norm, f_square = float(retain.norm()), float(forget.square().sum())
    dot = float((retain * forget).sum())
    down = -radius / r_norm * retain if r_norm > 0 else torch.zeros_like(retain)
    if f_square == 0.0 or (r_norm > 0 and dot * radius <= -quota * r_norm):
        return down
    ascent = quota / f_square * forget
    left = radius**2 - quota**2 / f_square
    aside = retain - dot / f_square * forget
    length = float(aside.norm())
    if left <= 0 or length <= 1e-6 * r_norm:
        return ascent
    return ascent - math.sqrt(left) / length * aside

"""SalUn: random labels on what is to be forgotten, in the weights that matter to it (Fan et al., arXiv 2310.12508)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from zkapex.simulation.evaluation.baselines.base import Case, batches
from zkapex.unlearning.personalise import cross_entropy


@dataclass(frozen=True)
class SalUn:
    """SGD with momentum on randomly relabelled forget examples and true retain ones; other weights do not move.

    The salient weights are the ``fraction`` with the largest gradient of the forget loss. The published schedule
    divides the learning rate at epochs 91 and 136, which ten epochs never reach.
    """

    fraction: float = 0.5
    epochs: int = 10
    learning_rate: float = 0.013
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 256
    name: str = "salun"
    label: str = "SalUn"
    source: str = (
        "OPTML-Group/Unlearn-Saliency as of February 2026: random labels, mask 0.5, lr 0.013, 10 epochs, batch 256, "
        "masked-out weights restored after every step"
    )
    stage: str | None = None

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        model = copy.deepcopy(case.before)
        frozen = self._frozen(model, case)
        start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        generator = torch.Generator().manual_seed(case.seed)
        optimiser = torch.optim.SGD(
            model.parameters(), self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        model.train()
        for _ in range(self.epochs):
            for x, y in batches(case.forget, self.batch_size, generator):
                classes = model(x[:1]).shape[-1]
                wrong = torch.randint(0, classes, y.shape, generator=generator)
                self._step(model, optimiser, x, wrong, frozen, start)
            for x, y in batches(case.retain, self.batch_size, generator):
                self._step(model, optimiser, x, y, frozen, start)
        return model.eval()

    def _frozen(self, model: nn.Module, case: Case) -> dict[str, torch.Tensor]:
        """True where a weight is not salient."""
        model.eval()
        model.zero_grad()
        cross_entropy(model(case.forget.inputs), case.forget.labels).backward()  # type: ignore[no-untyped-call]
        sizes = {name: p.grad.abs() for name, p in model.named_parameters() if p.grad is not None}
        flat = torch.cat([size.flatten() for size in sizes.values()])
        cut = flat.kthvalue(max(1, round(len(flat) * (1 - self.fraction)))).values
        model.zero_grad()
        return {name: size <= cut for name, size in sizes.items()}

    def _step(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        x: torch.Tensor,
        y: torch.Tensor,
        frozen: dict[str, torch.Tensor],
        start: dict[str, torch.Tensor],
    ) -> None:
        optimiser.zero_grad()
        cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        for name, weight in model.named_parameters():
            if weight.grad is not None and name in frozen:
                weight.grad[frozen[name]] = 0.0
        optimiser.step()
        with torch.no_grad():
            for name, kept in frozen.items():
                model.get_parameter(name)[kept] = start[name][kept]

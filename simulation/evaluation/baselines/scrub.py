"""SCRUB: away from a teacher on what is to be forgotten, close to it elsewhere (Kurmanji et al., arXiv 2302.09880)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from zkapex.simulation.evaluation.baselines.base import Case, batches
from zkapex.unlearning.personalise import cross_entropy


@dataclass(frozen=True)
class Scrub:
    """Alternate an epoch of maximising the divergence on the forget set with one of minimising it on the retain set.

    The first ``ascents`` epochs do both, the others only the second. The published code's pull towards a running
    average of the student (``smoothing``) is left out.
    """

    epochs: int = 10
    ascents: int = 3
    learning_rate: float = 5e-4
    decay_epochs: tuple[int, ...] = (5, 8, 9)
    decay: float = 0.1
    weight_decay: float = 0.1
    gamma: float = 1.0
    alpha: float = 0.5
    temperature: float = 2.0
    forget_batch_size: int = 32
    retain_batch_size: int = 128
    name: str = "scrub"
    label: str = "SCRUB"
    source: str = (
        "meghdadk/SCRUB, small_scale_unlearning.ipynb: Adam, lr 5e-4, 10 epochs, msteps 3, gamma 1, alpha 0.5, T 2, "
        "weight decay 0.1, lr x 0.1 after epochs 5, 8, 9"
    )
    stage: str | None = None

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        teacher, student = case.before.eval(), copy.deepcopy(case.before)
        generator = torch.Generator().manual_seed(case.seed)
        optimiser = torch.optim.Adam(student.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        student.train()
        for epoch in range(1, self.epochs + 1):
            steps = sum(epoch > at for at in self.decay_epochs)
            for group in optimiser.param_groups:
                group["lr"] = self.learning_rate * self.decay**steps
            if epoch <= self.ascents:
                for x, _ in batches(case.forget, self.forget_batch_size, generator):
                    optimiser.zero_grad()
                    (-self._divergence(student(x), teacher, x)).backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
            for x, y in batches(case.retain, self.retain_batch_size, generator):
                optimiser.zero_grad()
                logits = student(x)
                loss = self.gamma * cross_entropy(logits, y)
                loss = loss + self.alpha * self._divergence(logits, teacher, x)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        return student.eval()

    def _divergence(self, logits: torch.Tensor, teacher: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = functional.softmax(teacher(x).flatten(0, -2) / self.temperature, 1)
        ours = functional.log_softmax(logits.flatten(0, -2) / self.temperature, 1)
        return functional.kl_div(ours, wanted, reduction="batchmean") * self.temperature**2

"""Negative preference optimisation: the forget set as answers nobody preferred (Zhang et al., arXiv 2404.05868)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from zkapex.simulation.data.digits import Examples
from zkapex.simulation.evaluation.baselines.base import Case, batches
from zkapex.unlearning.personalise import cross_entropy


@dataclass(frozen=True)
class NegativePreference:
    """AdamW on `npo_loss` of forget sequences plus cross-entropy of as many retain ones; for language models.

    The learning rate rises over the first epoch and falls linearly after it. Gradient ascent, which it tends to for
    small ``beta``, has no bound; this loss has.
    """

    beta: float = 0.1
    epochs: int = 10
    learning_rate: float = 1e-5
    weight_decay: float = 0.01
    batch_size: int = 32
    name: str = "npo"
    label: str = "NPO"
    source: str = (
        "licong-lin/negative-preference-optimization, config/forget.yaml: npo_grad_diff, beta 0.1, coefficients 1, "
        "lr 1e-5, weight decay 0.01, 10 epochs, one of them warm-up, batch 2 GPUs x 4 x 4"
    )
    stage: str | None = None

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        model = copy.deepcopy(case.before)
        generator = torch.Generator().manual_seed(case.seed)
        optimiser = torch.optim.AdamW(model.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        epoch = -(-len(case.forget.labels) // self.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser,
            lambda step: min((step + 1) / epoch, (self.epochs * epoch - step) / max(1, (self.epochs - 1) * epoch)),
        )
        reference = _reference(model.eval(), case.forget, self.batch_size)
        model.train()
        for _ in range(self.epochs):
            kept = batches(case.retain, self.batch_size, generator)
            for index in torch.split(torch.randperm(len(reference), generator=generator), self.batch_size):
                optimiser.zero_grad()
                x, y = case.forget.take(index)
                loss = npo_loss(log_likelihood(model(x), y), reference[index], self.beta)
                retain = next(kept, None)
                if retain is not None:
                    loss = loss + cross_entropy(model(retain.inputs), retain.labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
        return model.eval()


@torch.no_grad()
def _reference(model: nn.Module, forget: Examples, size: int) -> torch.Tensor:
    parts = zip(*(torch.split(part, size) for part in forget), strict=True)
    return torch.cat([log_likelihood(model(x), y) for x, y in parts])


def npo_loss(ours: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """``-2 / beta * log sigmoid(-beta * (ours - reference))``, the mean over sequences (equation 3 of the paper).

    Parameters
    ----------
    ours, reference : tensor [n]
        Log-likelihoods of forget sequences, by the model and by the one it started from.
    beta : float
        Inverse temperature.
    """
    return -functional.logsigmoid(-beta * (ours - reference)).mean() * 2 / beta


def log_likelihood(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of all labels of each example, [n], from logits [n, T, vocabulary] and int64 labels [n, T]."""
    own = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    return own.reshape(len(labels), -1).sum(-1)

"""LoKU: an inverted hinge loss on low-rank factors of what matters to the forget set (Cha et al., arXiv 2408.06621)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from zkapex.simulation.data.digits import Examples
from zkapex.simulation.evaluation.baselines.base import Case, batches
from zkapex.simulation.models.blocks import INSIDE_BLOCK
from zkapex.unlearning.personalise import cross_entropy


@dataclass(frozen=True)
class LowRankUnlearning:
    """AdamW on `inverted_hinge_loss` of forget sequences plus cross-entropy of retain ones; for language models.

    Only factors of every linear layer of the blocks are trained, and merged afterwards. They start as `split` says:
    where squared gradients of the forget set are large beside those of the retain set. Ranks no larger than the
    smaller side of a layer. The learning rate rises over the first epoch and falls linearly after it.
    """

    rank: int = 32
    alpha: float = 64.0
    epochs: int = 5
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    batch_size: int = 32
    importance_batch: int = 2
    name: str = "loku"
    label: str = "LoKU"
    source: str = (
        "csm9493/efficient-llm-unlearning, TOFU (Llama2-7B): IHL and FILA, rank 32, alpha 64, lr 1e-4, weight decay "
        "0.01, 5 epochs, one of them warm-up, batch 2 x 16; importances over batches of 2"
    )
    stage: str | None = None

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        model = copy.deepcopy(case.before)
        generator = torch.Generator().manual_seed(case.seed)
        names = [
            f"{name}.weight"
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and INSIDE_BLOCK.search(name)
        ]
        scale = self.alpha / self.rank
        forget, retain = (self._importance(model, names, part) for part in (case.forget, case.retain))
        rest, factors = {}, {}
        for name in names:
            rows = (forget[name] / (retain[name] + 1e-5)).sum(1).sqrt()
            rest[name], up, down = split(model.get_parameter(name).detach(), rows, self.rank, scale)
            factors[name] = up.requires_grad_(), down.requires_grad_()
        self._train(model, case, rest, factors, scale, generator)
        with torch.no_grad():
            for name, (up, down) in factors.items():
                model.get_parameter(name).copy_(rest[name] + scale * up @ down)
        return model.eval()

    def _train(
        self,
        model: nn.Module,
        case: Case,
        rest: dict[str, torch.Tensor],
        factors: dict[str, tuple[torch.Tensor, torch.Tensor]],
        scale: float,
        generator: torch.Generator,
    ) -> None:
        optimiser = torch.optim.AdamW(
            [part for pair in factors.values() for part in pair], self.learning_rate, weight_decay=self.weight_decay
        )
        epoch = -(-len(case.forget.labels) // self.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser,
            lambda step: min((step + 1) / epoch, (self.epochs * epoch - step) / max(1, (self.epochs - 1) * epoch)),
        )
        model.train()
        for _ in range(self.epochs):
            kept = batches(case.retain, self.batch_size, generator)
            for x, y in batches(case.forget, self.batch_size, generator):
                optimiser.zero_grad()
                weights = {name: rest[name] + scale * up @ down for name, (up, down) in factors.items()}
                loss = inverted_hinge_loss(functional_call(model, weights, (x,)), y)
                retain = next(kept, None)
                if retain is not None:
                    loss = loss + cross_entropy(functional_call(model, weights, (retain.inputs,)), retain.labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()

    def _importance(self, model: nn.Module, names: list[str], examples: Examples) -> dict[str, torch.Tensor]:
        """Squared gradients of the mean loss of small batches, averaged over tokens."""
        weights = [model.get_parameter(name) for name in names]
        totals = {name: torch.zeros_like(weight) for name, weight in zip(names, weights, strict=True)}
        for x, y in zip(*(torch.split(part, self.importance_batch) for part in examples), strict=True):
            gradients = torch.autograd.grad(cross_entropy(model(x), y), weights)
            for name, gradient in zip(names, gradients, strict=True):
                totals[name] += gradient.square() * (y.numel() / examples.labels.numel())
        return totals


def split(
    weight: torch.Tensor, rows: torch.Tensor, rank: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight as ``rest + scale * up @ down``, the product the best of its rank with rows weighted by importance.

    Parameters
    ----------
    weight : tensor [out, in]
    rows : tensor [out]
        Importance of the rows, not negative.
    rank : int
    scale : float

    Returns
    -------
    rest, up, down : tensor [out, in], [out, r], [r, in], with r the rank or what the weight has room for
    """
    u, s, vh = torch.linalg.svd(rows[:, None] * weight, full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    up = (u[:, :rank] * root) / (rows + 1e-5)[:, None]
    down = root[:, None] * vh[:rank]
    return weight - scale * up @ down, up, down


def inverted_hinge_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of ``1 + p(label) - max p(other)`` over tokens: bounded, and pulls at one rival only.

    Logits are ``[n, classes]`` or ``[n, T, classes]``, labels int64 ``[n]`` or ``[n, T]``.
    """
    probabilities = logits.softmax(-1)
    own = probabilities.gather(-1, labels[..., None])
    rival = probabilities.scatter(-1, labels[..., None], -1.0).amax(-1)
    return (1 + own[..., 0] - rival).clamp_min(0.0).mean()

"""LAF: representations move away from what an autoencoder knows of the forget set (Shen et al., arXiv 2404.00506)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from zkapex.errors import InputError
from zkapex.simulation.data.digits import Examples, concatenate
from zkapex.simulation.evaluation.baselines.base import Case, paired_batches


@dataclass(frozen=True)
class LabelAgnosticForgetting:
    """Two variational autoencoders of representations, then unlearning and alignment in turn by batches; no labels.

    One autoencoder learns from all data, the other from the forget set. `unlearning_loss` keeps what is to be kept
    within reach of the first and drives the forget set out of the second's; `alignment_loss` keeps directions. The
    representation is what goes into the head, of 256 numbers there and of fewer here; the autoencoders' inner widths
    are those published. Gradients reach no head, as in the published code, where its weights stay as they are. Epochs
    are those for MNIST, whose forget set is some fifty times as large as that of `digits`: as many fewer steps are
    taken here. The variant with labels (LAF+R) is left out.
    """

    epochs: int = 20
    unlearning_rate: float = 5e-5
    alignment_rate: float = 1e-4
    temperature: float = 20.0
    latent: int = 8
    widths: tuple[int, int] = (128, 32)
    autoencoder_epochs: int = 10
    autoencoder_rate: float = 1e-3
    divergence_weight: float = 0.025
    batch_size: int = 32
    name: str = "laf"
    label: str = "LAF"
    source: str = (
        "ShaofeiShen768/LAF, hyperparameter.md (class unlearning, MNIST) and code: latent 8, 20 epochs, Adam, lr 5e-5 "
        "and 1e-4, temperature 20; autoencoders 10 epochs, lr 1e-3, KL x 0.025; batch 32"
    )
    stage: str | None = None

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        model, teacher = copy.deepcopy(case.before), copy.deepcopy(case.before).eval()
        generator = torch.Generator().manual_seed(case.seed)
        everything = concatenate(case.retain, case.forget)
        kept, gone = (self._autoencoder(teacher, part, case.seed, generator) for part in (everything, case.forget))
        unlearn = torch.optim.Adam(model.parameters(), self.unlearning_rate)
        align = torch.optim.Adam(model.parameters(), self.alignment_rate)
        model.train()
        for _ in range(self.epochs):
            for (u, _), (s, _) in paired_batches(case, self.batch_size, generator):
                unlearn.zero_grad()
                retained, forgotten = representations(model, s), representations(model, u)
                loss = unlearning_loss(retained, kept(retained, generator)[0], forgotten, gone(forgotten, generator)[0])
                loss.backward()  # type: ignore[no-untyped-call]
                unlearn.step()
                align.zero_grad()
                with torch.no_grad():
                    was_retained, was_forgotten = representations(teacher, s), representations(teacher, u)
                ours = representations(model, s), representations(model, u)
                loss = alignment_loss(ours[0], was_retained, ours[1], was_forgotten, self.temperature)
                loss.backward()  # type: ignore[no-untyped-call]
                align.step()
        return model.eval()

    def _autoencoder(self, model: nn.Module, examples: Examples, seed: int, generator: torch.Generator) -> Autoencoder:
        with torch.no_grad():
            known = torch.cat([representations(model, part) for part in torch.split(examples.inputs, 256)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            autoencoder = Autoencoder(known.shape[1], self.widths, self.latent)
        optimiser = torch.optim.Adam(autoencoder.parameters(), self.autoencoder_rate)
        for _ in range(self.autoencoder_epochs):
            for index in torch.split(torch.randperm(len(known), generator=generator), self.batch_size):
                optimiser.zero_grad()
                x = known[index]
                rebuilt, mean, deviation = autoencoder(x, generator)
                divergence = (
                    -0.5 * (torch.log(deviation.square() + 1e-8) + 1 - mean.square() - deviation.square()).sum()
                )
                loss = ((rebuilt - x).square().sum() + self.divergence_weight * divergence) / len(x)
                loss.backward()
                optimiser.step()
        return autoencoder.requires_grad_(False)


class Autoencoder(nn.Module):
    """A variational autoencoder of vectors, its output between 0 and 1 as published."""

    def __init__(self, size: int, widths: tuple[int, int], latent: int) -> None:
        super().__init__()
        wide, narrow = widths
        self.encoder = nn.Sequential(nn.Linear(size, wide), nn.ReLU(), nn.Linear(wide, narrow), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(narrow, latent), nn.Linear(narrow, latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, narrow),
            nn.ReLU(),
            nn.Linear(narrow, wide),
            nn.ReLU(),
            nn.Linear(wide, size),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``[n, size]`` rebuilt from a latent vector drawn for each, and the means and deviations of these."""
        code = self.encoder(x)
        mean, deviation = self.mean(code), torch.exp(0.5 * self.log_variance(code))
        noise = torch.randn(deviation.shape, generator=generator)
        return self.decoder(mean + deviation * noise), mean, deviation


def representations(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What goes into the model's head, ``[n, features]``. Raises InputError if it has no linear layer of that name."""
    head = dict(model.named_modules()).get("head")
    if not isinstance(head, nn.Linear):
        raise InputError("the model has no linear layer 'head'", fix="leave the method out")
    parts: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, args: parts.append(args[0]))
    try:
        model(inputs)
    finally:
        handle.remove()
    return parts[0].flatten(0, -2)


def unlearning_loss(
    retained: torch.Tensor, rebuilt_retained: torch.Tensor, forgotten: torch.Tensor, rebuilt_forgotten: torch.Tensor
) -> torch.Tensor:
    """``sum exp(m / (m + 1))`` over squared errors m of what is kept, minus the same of what is to be forgotten."""

    def bounded(x: torch.Tensor, rebuilt: torch.Tensor) -> torch.Tensor:
        error = (rebuilt - x).square().sum(1)
        return torch.exp(error / (error + 1)).sum()

    return bounded(retained, rebuilt_retained) - bounded(forgotten, rebuilt_forgotten)


def alignment_loss(
    retained: torch.Tensor,
    was_retained: torch.Tensor,
    forgotten: torch.Tensor,
    was_forgotten: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """``sum_s log(exp(d_s) / sum_u exp(d_u / temperature))`` with d one minus the cosine to what it was before."""
    moved = 1 - functional.cosine_similarity(retained, was_retained, dim=1)
    away = 1 - functional.cosine_similarity(forgotten, was_forgotten, dim=1)
    return (moved - torch.logsumexp(away / temperature, 0)).sum()

"""MRP: directions that training chose are projected out of the states between blocks (Wu et al., arXiv 2508.15449)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from zkapex.simulation.evaluation.baselines.base import Case, paired_batches
from zkapex.simulation.models.blocks import BLOCK
from zkapex.unlearning.personalise import cross_entropy


@dataclass(frozen=True)
class RepresentationProjection:
    """Train a few directions for each chosen block, forget loss up and retain loss down; all weights stay as they are.

    The published code chooses two of the first 31 of 32 blocks at random; a model with fewer has as many of its own
    before the last chosen, or its only one. It starts from the leading principal directions of what retain states have
    outside the span of forget states, which is rounding noise once there are as many tokens as dimensions: the start
    is random here.

    The projection is a part that is added to the model, not a change of its weights. Attackers here train or restore
    what is around it; whoever holds the model can also leave it out, and has the original back.
    """

    blocks: int = 2
    directions: int = 2
    epochs: int = 2
    learning_rate: float = 2e-4
    retain_weight: float = 1.2
    batch_size: int = 5
    name: str = "mrp"
    label: str = "MRP"
    source: str = (
        "ChengcanWu/MRP, train.py (Llama-2-7b): 2 directions after each of 2 random blocks, gradient descent, lr 2e-4, "
        "2 epochs, retain loss x 1.2, batch 5; random start, see the docstring"
    )
    stage: str | None = None

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        model = copy.deepcopy(case.before)
        generator = torch.Generator().manual_seed(case.seed)
        learnt = self._start(model, case, generator)
        model.train()
        for _ in range(self.epochs):
            for forget, retain in paired_batches(case, self.batch_size, generator):
                with _projected(model, {name: basis_of(rows) for name, rows in learnt.items()}):
                    loss = self.retain_weight * cross_entropy(model(retain.inputs), retain.labels)
                    loss = loss - cross_entropy(model(forget.inputs), forget.labels)
                gradients = torch.autograd.grad(loss, list(learnt.values()))
                with torch.no_grad():
                    for rows, gradient in zip(learnt.values(), gradients, strict=True):
                        rows -= self.learning_rate * gradient
        for name, rows in learnt.items():
            block = model.get_submodule(name)
            block.add_module("projection", Projection(basis_of(rows.detach())))
            block.register_forward_hook(_project)
        return model.eval()

    def _start(self, model: nn.Module, case: Case, generator: torch.Generator) -> dict[str, torch.Tensor]:
        names = [name for name, _ in model.named_modules() if BLOCK.search(name)]
        names = names[:-1] or names
        order = torch.randperm(len(names), generator=generator)[: self.blocks].tolist()
        widths: dict[str, int] = {}
        handles = [
            model.get_submodule(name).register_forward_hook(
                lambda _, __, out, name=name: widths.update({name: _states(out).shape[-1]})
            )
            for name in (names[index] for index in order)
        ]
        with torch.no_grad():
            model(case.retain.inputs[:1])
        for handle in handles:
            handle.remove()
        return {
            name: torch.randn(self.directions, width, generator=generator).requires_grad_()
            for name, width in widths.items()
        }


class Projection(nn.Module):
    """``h - Q^T Q h`` for orthonormal rows Q, [directions, dim]; nothing along them comes through."""

    basis: torch.Tensor

    def __init__(self, basis: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("basis", basis)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States of the same shape, dim last."""
        return projected(states, self.basis)


def projected(states: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """States without what they have along the rows of a basis."""
    return states - (states @ basis.T) @ basis


def basis_of(rows: torch.Tensor) -> torch.Tensor:
    """Orthonormal rows with the span of the given ones."""
    q: torch.Tensor = torch.linalg.qr(rows.T)[0]
    return q.T


def _states(out: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return out[0] if isinstance(out, tuple) else out


def _with_states(
    out: torch.Tensor | tuple[torch.Tensor, ...], change: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)


def _project(
    block: nn.Module, _: object, out: torch.Tensor | tuple[torch.Tensor, ...]
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """A forward hook that copies of a model keep."""
    return _with_states(out, block.get_submodule("projection"))


@contextmanager
def _projected(model: nn.Module, bases: Mapping[str, torch.Tensor]) -> Iterator[None]:
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, basis=basis: _with_states(out, lambda states: projected(states, basis))
        )
        for name, basis in bases.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

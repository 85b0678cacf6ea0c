"""Fitting a model on the device: the local step of federated training, and personalisation of the global model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from zkapex.errors import InputError
from zkapex.unlearning.finite import require_finite
from zkapex.unlearning.lora import LoRA, adapted
from zkapex.unlearning.operators.held import Held, HeldTargets


@dataclass(frozen=True)
class FitSettings:
    """How to fit: AdamW with decoupled weight decay, learning rate decayed to zero along a half cosine if ``decay``.

    With ``lora`` the linear layers change by matrices of low rank, which are merged in the end, and nothing else does.
    """

    epochs: int
    learning_rate: float
    batch_size: int = 32
    weight_decay: float = 0.01
    decay: bool = True
    lora: LoRA | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1 or not 0 < self.learning_rate < 1 or self.weight_decay < 0:
            raise InputError("impossible training settings", why=repr(self))


#: Fine-tuning of theta_0 on the device: strong enough to learn the shift, light enough not to leave theta_0's basin.
PERSONALISE = FitSettings(epochs=15, learning_rate=1e-3)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of logits ``[n, classes]`` and int64 labels ``[n]``, or ``[n, T, classes]`` and ``[n, T]``."""
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten())


def fit(
    model: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    settings: FitSettings,
    seed: int,
    hold_zero: Mapping[str, torch.Tensor] | None = None,
    hold_targets: HeldTargets | None = None,
) -> float:
    """Train ``model`` in place with cross-entropy and return the mean loss of the last epoch (0.0 for no epoch).

    Parameters
    ----------
    model : nn.Module
        Maps ``inputs`` batches to logits ``[n, classes]``, or ``[n, T, classes]`` with labels for every token. Left in
        evaluation mode.
    inputs, labels : torch.Tensor
        ``[n, ...]`` and int64 ``[n]`` or ``[n, T]``.
    settings : FitSettings
        Epochs, learning rate, batch size, weight decay.
    seed : int
        Decides the order of the examples. Nothing else is random.
    hold_zero : mapping of str to bool tensor, optional
        Layer name to mask ``[out, in]`` of weights that are set to zero and kept there: what an earlier deletion
        removed must not be learned back.
    hold_targets : mapping of str to tuple of Targets, optional
        Likewise what earlier deletions prescribed along directions, see `zkapex.unlearning.operators.held`.

    Raises
    ------
    InputError
        If there is nothing to train on, an input is not finite, a label is no class of the model's, a mask or targets
        do not fit the model, or training diverges; or targets are held in low-rank adaptation, which cannot.
    """
    _check_examples(inputs, labels)
    held = _held_weights(model, hold_zero or {})
    if hold_targets and settings.lora:
        raise InputError("low-rank adaptation cannot hold targets", fix="train all weights")
    zero = {name: mask.numpy() for name, mask in (hold_zero or {}).items() if name in (hold_targets or {})}
    holders = Held(zero, hold_targets or {}).in_place(model)
    for holder in holders:
        holder.hold()
    generator = torch.Generator().manual_seed(seed)
    steps = max(1, settings.epochs * -(-len(inputs) // settings.batch_size))
    mean_loss = 0.0
    _zero(held)
    model.train()
    lora = settings.lora
    with adapted(model, lora, hold_zero or {}, seed) if lora else nullcontext(list(model.parameters())) as parameters:
        optimiser = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps) if settings.decay else None
        for _ in range(settings.epochs):
            total = 0.0
            for batch in _batches(model, len(inputs), settings.batch_size, generator):
                optimiser.zero_grad()
                logits = model(inputs[batch])
                _check_labels(labels[batch], logits)
                loss = cross_entropy(logits, labels[batch])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                if schedule is not None:
                    schedule.step()
                _zero(held)
                for holder in holders:
                    holder.hold()
                total += loss.item() * len(batch)
            mean_loss = total / len(inputs)
            if not math.isfinite(mean_loss):
                raise InputError(
                    f"training diverged: the mean loss is {mean_loss}",
                    why="inputs and labels are in order, so the steps are too large, or the dtype is too small",
                    fix="use a smaller learning rate, and float32",
                )
    model.eval()
    return mean_loss


def personalise(
    model: nn.Module,
    personal: tuple[torch.Tensor, torch.Tensor],
    replay: tuple[torch.Tensor, torch.Tensor] | None,
    seed: int,
    settings: FitSettings = PERSONALISE,
    hold_zero: Mapping[str, torch.Tensor] | None = None,
    hold_targets: HeldTargets | None = None,
) -> float:
    """Fine-tune the global model in place on personal examples, mixed with replayed general ones if given.

    Replay keeps the model useful outside the personal domain; without it a few epochs on shifted data alone undo what
    the federation learned. Parameters and errors as in :func:`fit`.
    """
    inputs, labels = personal
    if replay is not None:
        inputs, labels = torch.cat([inputs, replay[0]]), torch.cat([labels, replay[1]])
    return fit(model, inputs, labels, settings, seed, hold_zero, hold_targets)


def _check_examples(inputs: torch.Tensor, labels: torch.Tensor) -> None:
    if len(inputs) == 0 or len(inputs) != len(labels):
        raise InputError(f"cannot train on {len(inputs)} inputs with {len(labels)} labels")
    if labels.dtype != torch.int64:
        raise InputError(
            f"labels must be int64 numbers of classes, not {str(labels.dtype).removeprefix('torch.')}",
            why="fractions would be cut off, or be taken for probabilities",
            fix="convert labels that are whole numbers with labels.long()",
        )
    require_finite(inputs, "the inputs to train on", examples=True, fix="leave these examples out")


def _check_labels(labels: torch.Tensor, logits: torch.Tensor) -> None:
    classes = logits.shape[-1]
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise InputError(
            f"the label {int(wrong.flatten()[0])} is no class of the model, which has {classes}",
            fix="number the classes from 0, and give the model an output for each",
        )


def _batches(model: nn.Module, examples: int, size: int, generator: torch.Generator) -> Sequence[torch.Tensor]:
    """The examples in random order, in batches. Batch normalisation gets no batch of one: it has no variance."""
    batches = list(torch.split(torch.randperm(examples, generator=generator), size))
    if len(batches[-1]) > 1 or not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return batches
    if len(batches) == 1 or size == 1:
        raise InputError(
            "batch normalisation cannot be trained on batches of one example",
            fix="use a larger batch size and more examples, or another normalisation",
        )
    return [*batches[:-2], torch.cat(batches[-2:])]


def _held_weights(model: nn.Module, masks: Mapping[str, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    held: list[tuple[torch.Tensor, torch.Tensor]] = []
    for name, mask in masks.items():
        try:
            weight = model.get_parameter(f"{name}.weight")
        except AttributeError as error:
            raise InputError(f"the mask names layer {name!r}, which the model does not have") from error
        if mask.dtype != torch.bool or mask.shape != weight.shape:
            raise InputError(f"the mask of layer {name!r} must be bool {tuple(weight.shape)}, not {tuple(mask.shape)}")
        held.append((weight, mask))
    return held


@torch.no_grad()
def _zero(held: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for weight, mask in held:
        weight.masked_fill_(mask, 0.0)

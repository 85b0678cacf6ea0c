"""Second moments from which curvature is made: of a layer's inputs, or of its per-example gradients.

*kfac.* For a linear layer ``y = W x`` the change of the outputs under a change ``D`` of the weights is, in the mean
over the data, ``sum_i d_i^T E[x x^T] d_i`` over the rows of D: one matrix serves every row (the structure of Optimal
Brain Compression and SparseGPT, and the input factor of K-FAC). Not every token's output matters alike to what the
model answers, and some of a vision transformer's last layer not at all: `weighted_moments` weighs each by the squared
norm of the logits' derivative.

*block-fisher.* The mean of ``g g^T`` over examples, g the gradient of the log-likelihood with respect to B consecutive
weights of one row (ZK-APEX, arXiv 2512.09953, section 4). The paper takes the labels of the data (empirical Fisher);
here they are drawn from the model's own predictions, which gives the Fisher information itself (Kunstner, Balles and
Hennig, NeurIPS 2019) and needs no labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.errors import InputError
from zkapex.unlearning.boundary import linear_layer, used_again
from zkapex.unlearning.finite import require_finite

FloatArray = npt.NDArray[np.float64]

_WEIGHTED_BATCH = 64
"""Examples whose logits and activations are held at once."""

_GRADIENT_BYTES = 64 * 2**20
"""Memory for the per-example gradients of one layer, at most; a batch has at least one example."""

_OVERFLOW = "inputs and weights are finite, so something overflows on the way: run the model in float32"


def weighted_moments(
    model: nn.Module, names: Sequence[str], inputs: torch.Tensor, block_width: int, seed: int = 0
) -> dict[str, FloatArray]:
    """Mean of ``w x x^T`` over all tokens, with w the squared norm of what a token's output does to the logits.

    For the Jacobian J of an example's logits by a layer's output at a token, ``w = |J^T r|^2`` with one standard normal
    r per example: in expectation ``|J|_F^2``, the trace of the token's block of the Gauss-Newton matrix of squared
    error in the logits. Scaled so that the mean of w is one.

    Parameters
    ----------
    model : nn.Module
        Its output are logits ``[n, ...]``. Put in evaluation mode; not otherwise changed.
    names, inputs, block_width
        As in `visit_inputs`.
    seed : int
        Of the r.

    Returns
    -------
    dict of str to float64 array [blocks, B, B]

    Raises
    ------
    InputError
        As `visit_inputs`; also if a layer's outputs do nothing to the logits, or something overflows.
    """
    _check_inputs(inputs, block_width)
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    handles = []

    def hook(name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if name in seen:
            raise used_again(name)
        probe = torch.zeros_like(y, requires_grad=True)
        seen[name] = (x.detach(), probe)
        return y + probe

    totals: dict[str, FloatArray] = {}
    weights = dict.fromkeys(names, 0.0)
    try:
        for name, module in _linear_layers(model, names).items():
            handles.append(
                module.register_forward_hook(
                    lambda _, args, named, y, name=name: hook(name, _input(args, named), y), with_kwargs=True
                )
            )
        model.eval()
        generator = torch.Generator().manual_seed(seed)
        for batch in torch.split(inputs, _WEIGHTED_BATCH):
            seen.clear()
            logits = model(batch)
            direction = torch.randn(logits.shape, generator=generator).to(logits)
            _check_used(names, set(seen))
            gradients = torch.autograd.grad((logits * direction).sum(), [seen[name][1] for name in names])
            for name, gradient in zip(names, gradients, strict=True):
                w = gradient.double().square().sum(-1).reshape(-1).numpy(force=True)
                blocks = _blocked(seen[name][0], block_width)
                columns = blocks.transpose(1, 2, 0)
                totals[name] = totals.get(name, 0.0) + (columns * w) @ columns.transpose(0, 2, 1)
                weights[name] += float(w.sum())
    finally:
        for handle in handles:
            handle.remove()
    for name in names:
        _require_sums(name, totals[name], weights[name])
    silent = [name for name in names if not weights[name] > 0]
    if silent:
        raise InputError(f"the logits do not depend on layers {', '.join(silent)}")
    return {name: totals[name] / weights[name] for name in names}


def visit_inputs(
    model: nn.Module,
    names: Sequence[str],
    inputs: torch.Tensor,
    block_width: int,
    record: Callable[[str, FloatArray], None],
    batch_size: int = 256,
) -> None:
    """Call `record` with the name and the input, float64 ``[tokens, blocks, B]``, of each named layer in each batch.

    Parameters
    ----------
    model : nn.Module
        Put in evaluation mode; not otherwise changed.
    names : sequence of str
        Qualified names of ``nn.Linear`` modules.
    inputs : torch.Tensor
        Examples ``[n, ...]``.
    block_width : int
        B. The last block is padded with zeros.
    batch_size : int
        Examples per forward pass.

    Raises
    ------
    InputError
        If there are no inputs, or one is not finite, a name is not a linear layer, or a layer is not used exactly once
        in a forward pass.
    """
    _check_inputs(inputs, block_width)
    used: set[str] = set()
    now: set[str] = set()

    def seen(name: str, x: torch.Tensor) -> None:
        if name in now:
            raise used_again(name)
        now.add(name)
        require_finite(x, f"the inputs of layer {name!r}", examples=True, fix=_OVERFLOW)
        record(name, _blocked(x.detach(), block_width))
        used.add(name)

    handles = []
    try:
        for name, module in _linear_layers(model, names).items():
            handles.append(
                module.register_forward_pre_hook(
                    lambda _, args, named, name=name: seen(name, _input(args, named)), with_kwargs=True
                )
            )
        model.eval()
        with torch.no_grad():
            for batch in torch.split(inputs, batch_size):
                now.clear()
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    _check_used(names, used)


def fisher_moments(
    model: nn.Module, names: Sequence[str], inputs: torch.Tensor, block_width: int, seed: int = 0
) -> dict[str, FloatArray]:
    """Mean of ``g g^T`` over examples, for every B consecutive weights of every row of each named linear layer.

    Parameters
    ----------
    model : nn.Module
        A classifier: its output is ``[n, classes]``. Put in evaluation mode; not otherwise changed.
    names, inputs, block_width
        As in `visit_inputs`.
    seed : int
        Of the labels drawn from the model's predictions.

    Returns
    -------
    dict of str to float64 array [blocks, rows, B, B]

    Raises
    ------
    InputError
        If there are no inputs, or one is not finite, a name is not a linear layer, the model is no classifier, or
        something overflows.
    """
    _check_inputs(inputs, block_width)
    weights = {f"{name}.weight": module.weight.detach() for name, module in _linear_layers(model, names).items()}
    model.eval()
    frozen = {k: v.detach() for k, v in [*model.named_parameters(), *model.named_buffers()] if k not in weights}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        logits = [model(batch) for batch in torch.split(inputs, 256)]
    if logits[0].ndim != 2:
        raise InputError(
            "block-fisher curvature is of classifiers, and this model labels every token", fix="use kfac curvature"
        )
    for part in logits:
        require_finite(part, "the model's logits", examples=True, fix=_OVERFLOW)
    chances = torch.cat([part.float().softmax(1) for part in logits]).cpu()
    labels = torch.multinomial(chances, 1, generator=generator)[:, 0].to(inputs.device)

    def loss(targets: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(model, {**frozen, **targets}, (x[None],))
        return nn.functional.cross_entropy(logits, y[None])

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    largest = max(weight.numel() for weight in weights.values())
    size = max(1, _GRADIENT_BYTES // (4 * largest))
    totals: dict[str, FloatArray] = {}
    for x, y in zip(torch.split(inputs, size), torch.split(labels, size), strict=True):
        for key, gradient in gradients(weights, x, y).items():
            name = key.removesuffix(".weight")
            g = gradient.double().numpy(force=True)
            blocks = -(-g.shape[2] // block_width)
            padded = np.pad(g, ((0, 0), (0, 0), (0, blocks * block_width - g.shape[2])))
            columns = padded.reshape(*g.shape[:2], blocks, block_width).transpose(2, 1, 3, 0)
            totals[name] = totals.get(name, 0.0) + columns @ columns.transpose(0, 1, 3, 2)
    for name, total in totals.items():
        _require_sums(name, total, float(len(inputs)))
    return {name: total / len(inputs) for name, total in totals.items()}


def _blocked(x: torch.Tensor, block_width: int) -> FloatArray:
    """Tokens of any shape [..., in] as float64 [tokens, blocks, B], the last block padded with zeros."""
    flat = x.reshape(-1, x.shape[-1]).double().numpy(force=True)
    blocks = -(-flat.shape[1] // block_width)
    return np.pad(flat, ((0, 0), (0, blocks * block_width - flat.shape[1]))).reshape(-1, blocks, block_width)


def _check_inputs(inputs: torch.Tensor, block_width: int) -> None:
    if len(inputs) == 0 or block_width < 1:
        raise InputError("curvature needs at least one example and a positive block width")
    require_finite(inputs, "the inputs that curvature is taken from", examples=True, fix="leave these examples out")


def _linear_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Linear]:
    return {name: linear_layer(model, name) for name in names}


def _input(args: tuple[Any, ...], named: Mapping[str, Any]) -> torch.Tensor:
    """What a linear layer was called with, by place or by keyword."""
    x: torch.Tensor = args[0] if args else named["input"]
    return x


def _require_sums(name: str, total: FloatArray, weight: float) -> None:
    if not (np.isfinite(total).all() and math.isfinite(weight)):
        raise InputError(f"the curvature of layer {name!r} is not finite", why="a sum overflows", fix=_OVERFLOW)


def _check_used(names: Sequence[str], used: set[str]) -> None:
    unused = [name for name in names if name not in used]
    if unused:
        raise InputError(f"layers {', '.join(unused)} took no part in the forward pass")

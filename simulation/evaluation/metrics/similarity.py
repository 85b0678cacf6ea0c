"""Linear centred kernel alignment: how alike two models represent examples (Kornblith et al., arXiv 1905.00414)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.errors import InputError

FloatArray = npt.NDArray[np.float64]


@torch.no_grad()
def features(model: nn.Module, inputs: torch.Tensor, layer: str = "head") -> FloatArray:
    """What goes into the named linear layer, float64 [n, features]: by default the last representation.

    Where it goes in token by token, [n * T, features].

    Raises
    ------
    InputError
        The model has no such linear layer.
    """
    module = dict(model.named_modules()).get(layer)
    if not isinstance(module, nn.Linear):
        raise InputError(f"the model has no linear layer {layer!r}")
    parts: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: parts.append(args[0].double().flatten(0, -2)))
    # Sequences may come with a label for every token, and logits are large.
    size = max(16, 512 // inputs.shape[1]) if inputs.ndim == 3 else 512
    try:
        model.eval()
        for batch in torch.split(inputs, size):
            model(batch)
    finally:
        handle.remove()
    return torch.cat(parts).numpy()


def linear_cka(first: FloatArray, second: FloatArray) -> float:
    """``|A^T B|^2 / (|A^T A| |B^T B|)`` of centred A [n, p] and B [n, q]: 1 up to rotation and scale, 0 if unrelated.

    Raises
    ------
    InputError
        They are of different examples, or one is constant.
    """
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second) or len(first) < 2:
        raise InputError("centred kernel alignment needs two representations of the same examples")
    a, b = first - first.mean(0), second - second.mean(0)
    norm = float(np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    if not norm > 0:
        raise InputError("a representation is the same for all examples")
    return float(np.linalg.norm(a.T @ b) ** 2 / norm)

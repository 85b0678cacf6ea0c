"""Post-training quantisation of a model: rounding can bring back what a small change of the weights had removed."""

from __future__ import annotations

import copy

import torch
from torch import nn

from zkapex.errors import InputError


@torch.no_grad()
def rounded(model: nn.Module, bits: int) -> nn.Module:
    """A copy with every linear layer's weights rounded to nearest, symmetrically, with one scale per output channel.

    Parameters
    ----------
    model : nn.Module
    bits : int
        8 gives integers from -127 to 127, 4 from -7 to 7.

    Raises
    ------
    InputError
        There are fewer than 2 bits.
    """
    if bits < 2:
        raise InputError(f"cannot round weights to {bits} bits")
    result = copy.deepcopy(model).eval()
    largest = 2 ** (bits - 1) - 1
    for module in result.modules():
        if isinstance(module, nn.Linear):
            scale = module.weight.abs().amax(1, keepdim=True).clamp_min(1e-30) / largest
            module.weight.copy_((module.weight / scale).round() * scale)
    return result

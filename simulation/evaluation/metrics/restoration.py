"""Restoration: where a model that forgot still reads what it forgot.

The output of one block of the original model is put in place of the unlearned model's own, for the same inputs. If the
class is answered again, what comes after that block still reads it, and the forgetting lies before. The oracle, too,
reads some of it: what counts is the distance to it. Activation patching, as in Meng et al., arXiv 2202.05262.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from zkapex.simulation.data.digits import Examples
from zkapex.simulation.models.blocks import BLOCK


def restored(model: nn.Module, original: nn.Module, forget: Examples) -> float:
    """Forget accuracy with one block's output replaced by the original's, at the block where that is largest.

    A model without blocks has nowhere to be patched, and keeps its own accuracy.
    """
    names = [name for name, _ in model.named_modules() if BLOCK.search(name)]
    if not names:
        return _patched(model, original, None, forget)
    return max(_patched(model, original, name, forget) for name in names)


@torch.no_grad()
def _patched(model: nn.Module, original: nn.Module, name: str | None, forget: Examples) -> float:
    kept: list[Any] = []
    handles = []
    if name is not None:
        handles.append(original.get_submodule(name).register_forward_hook(lambda _, __, out: kept.append(out)))
        handles.append(model.get_submodule(name).register_forward_hook(lambda _, __, out: kept.pop()))
    hits = 0
    try:
        for x, y in zip(torch.split(forget.inputs, 64), torch.split(forget.labels, 64), strict=True):
            if name is not None:
                original(x)
            hits += int((model(x).argmax(-1) == y).sum())
    finally:
        for handle in handles:
            handle.remove()
    return hits / forget.labels.numel()

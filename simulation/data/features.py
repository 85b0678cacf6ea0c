"""What the frozen trunk of a model makes of its inputs, computed once and kept in zkapex's cache folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import nn

from zkapex.circuits.cache import cache_root, filling
from zkapex.errors import StorageError
from zkapex.simulation.data.pictures import Gallery, IntArray
from zkapex.simulation.models.backbone import Backbone
from zkapex.storage import load_arrays, save_arrays
from zkapex.unlearning.finite import require_finite

BATCH = 64
FORMAT = b"zkapex features 1"


def features_of(
    backbone: Backbone,
    gallery: Gallery,
    numbers: IntArray,
    size: int,
    blocks: int,
    *,
    negative: bool = False,
    before: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """What goes into the last `blocks` blocks, float16 [images, tokens, dim]; see `kept`.

    Parameters
    ----------
    backbone : Backbone
    gallery : Gallery
    numbers : int64 array [images]
        Which images.
    size : int
        Width and height the images are brought to, a multiple of the patch size.
    blocks : int
    negative : bool
        See the images in grey, bright and dark exchanged.
    before : callable
        Called if there is something to compute.

    Raises
    ------
    InputError
        An image cannot be decoded.
    StorageError
        The cache folder cannot be written.
    """
    facts = (backbone.config, size, blocks, negative)
    images = (gallery.encoded(index) for index in numbers.tolist())

    def make() -> torch.Tensor:
        before()
        return _run(backbone, gallery, numbers, size, blocks, negative)

    return kept(repr(facts), backbone, images, make)


def kept(facts: str, model: nn.Module, inputs: Iterable[bytes], make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Features from the cache, or made and put there.

    The file is named by everything that the features depend on, and shared by all evaluations and runs.

    Parameters
    ----------
    facts : str
        What decides the features beside weights and inputs.
    model : nn.Module
    inputs : iterable of bytes
    make : callable
        Makes the features.

    Raises
    ------
    StorageError
        The cache folder cannot be written.
    """
    digest = hashlib.sha256(FORMAT + facts.encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    for encoded in inputs:
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    folder = cache_root() / "features"
    path = folder / f"{digest.hexdigest()[:32]}.npz"
    if (found := _found(path)) is not None:
        return found
    with filling(folder, path.stem):
        # Another process may have made them by now.
        if (found := _found(path)) is None:
            found = make()
            require_finite(
                found,
                "the features that the frozen part of the model makes",
                examples=True,
                fix="they are kept in float16, up to 65504: take a model with smaller activations",
            )
            save_arrays(path, {"features": found.numpy()})
        return found


def _found(path: Path) -> torch.Tensor | None:
    if path.exists():
        # What is damaged is made anew.
        with suppress(StorageError, KeyError):
            return torch.from_numpy(load_arrays(path)["features"])
    return None


@torch.no_grad()
def _run(
    backbone: Backbone, gallery: Gallery, numbers: IntArray, size: int, blocks: int, negative: bool
) -> torch.Tensor:
    parts = []
    for batch in np.split(numbers, range(BATCH, len(numbers), BATCH)):
        images = torch.stack([gallery.pixels(index, size) for index in batch.tolist()])
        if negative:
            images = 1 - images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        parts.append(backbone(images, backbone.config.depth - blocks).half())
    return torch.cat(parts)

"""Target-layer weights between the model in floating point and the integers that are committed to and proved."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.circuits.encoding import dequantise, quantise
from zkapex.errors import InputError
from zkapex.proofs.messages import ModelManifest
from zkapex.unlearning.boundary import linear_layer

FloatArray = npt.NDArray[np.float64]
Weights = Mapping[str, npt.NDArray[np.int64]]


def weight_of(model: nn.Module, name: str) -> FloatArray:
    """The weight [out, in] of a linear layer, float64; exact, whatever dtype and device it has.

    Raises
    ------
    InputError
        As `zkapex.unlearning.boundary.linear_layer`.
    """
    values: FloatArray = linear_layer(model, name).weight.detach().double().numpy(force=True)
    return values


@torch.no_grad()
def put_weight(model: nn.Module, name: str, values: npt.NDArray[np.int64], exponent: int) -> None:
    """Put ``values * 2**-exponent`` into a layer of the model, and make sure that it is what the layer now holds.

    Parameters
    ----------
    model : nn.Module
    name : str
        Of a linear layer.
    values : int64 array [out, in]
    exponent : int
        log2 of the layer's scale.

    Raises
    ------
    InputError
        The layer holds something else afterwards: its dtype has no such numbers, or another layer shares the memory.
    """
    parameter = linear_layer(model, name).weight
    parameter.copy_(torch.from_numpy(dequantise(values, exponent)))
    held = weight_of(model, name) * 2.0**exponent
    different = held != values
    if different.any():
        dtype = str(parameter.dtype).removeprefix("torch.")
        raise InputError(
            f"layer {name!r} does not hold the weights it was given",
            why=f"{int(different.sum())} of {values.size} weights of dtype {dtype} differ, "
            f"by up to {float(np.abs(held - values).max()):g} units of 2^-{exponent}",
            fix="keep the target layers in float32",
        )


def encode_weights(model: nn.Module, manifest: ModelManifest) -> dict[str, npt.NDArray[np.int64]]:
    """Integer weights ``[rows, cols]`` of every layer of the manifest.

    Raises
    ------
    InputError
        The model lacks a layer, has another shape, or a weight is too large for the layer's scale.
    """
    names = {name for name, _ in model.named_modules(remove_duplicate=False)}
    encoded = {}
    for layer in manifest.layers:
        values = weight_of(model, layer.name) if layer.name in names else np.empty((0, 0))
        if values.shape != (layer.rows, layer.cols):
            raise InputError(
                f"the manifest's layer {layer.name!r} of shape ({layer.rows}, {layer.cols}) is not in this model",
                fix="server and device must run the same model",
            )
        encoded[layer.name] = quantise(values, layer.exponent, manifest.weight_limit)
    return encoded


def load_weights(model: nn.Module, manifest: ModelManifest, weights: Weights) -> None:
    """Put integer weights into the model, dequantised, and read them back: what is proved is what runs.

    Raises
    ------
    InputError
        As `put_weight`; also if, of layers that share memory, the later one has overwritten the earlier.
    """
    for layer in manifest.layers:
        put_weight(model, layer.name, weights[layer.name], layer.exponent)
    for layer in manifest.layers:
        if not np.array_equal(weight_of(model, layer.name) * 2.0**layer.exponent, weights[layer.name]):
            raise InputError(f"layer {layer.name!r} shares its memory with a layer of other weights", fix="untie them")

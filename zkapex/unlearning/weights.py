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

Weights = Mapping[str, npt.NDArray[np.int64]]


def encode_weights(model: nn.Module, manifest: ModelManifest) -> dict[str, npt.NDArray[np.int64]]:
    """Integer weights ``[rows, cols]`` of every layer of the manifest.

    Raises
    ------
    InputError
        The model lacks a layer, has another shape, or a weight is too large for the layer's scale.
    """
    parameters = dict(model.named_parameters())
    encoded = {}
    for layer in manifest.layers:
        weight = parameters.get(f"{layer.name}.weight")
        if weight is None or tuple(weight.shape) != (layer.rows, layer.cols):
            raise InputError(
                f"the manifest's layer {layer.name!r} of shape ({layer.rows}, {layer.cols}) is not in this model",
                fix="server and device must run the same model",
            )
        values = weight.detach().to(torch.float64).numpy()
        encoded[layer.name] = quantise(values, layer.exponent, manifest.weight_limit)
    return encoded


@torch.no_grad()
def load_weights(model: nn.Module, manifest: ModelManifest, weights: Weights) -> None:
    """Put integer weights into the model, dequantised: what is proved is what runs."""
    for layer in manifest.layers:
        values = dequantise(weights[layer.name], layer.exponent)
        model.get_parameter(f"{layer.name}.weight").copy_(torch.from_numpy(values))

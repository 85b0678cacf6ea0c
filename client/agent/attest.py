"""Curvature that is proved at enrolment: made of activations that are committed to. A backend shows that it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from zkapex.errors import InputError, ProverError
from zkapex.proofs.messages import CurvatureCheck, ModelManifest
from zkapex.unlearning.curvature.activations import (
    EncodedActivations,
    FloatArray,
    encode_activations,
    sample_activations,
)
from zkapex.unlearning.curvature.factor import CurvatureEncoding, EncodedCurvature, encode

Activations = Mapping[str, FloatArray]
"""By layer, float64 ``[blocks, m, B]``."""


def drawn_activations(model: nn.Module, manifest: ModelManifest, inputs: torch.Tensor, nonce: str) -> Activations:
    """The activations that the provider's nonce picks, as many as the manifest's curvature check has room for."""
    names = [layer.name for layer in manifest.layers]
    count = _check(manifest).statement.rows_per_chunk
    return sample_activations(model, names, inputs, manifest.block_width, count, int(nonce, 16))


def curvature_from(activations: Activations, manifest: ModelManifest) -> dict[str, tuple[EncodedCurvature, ...]]:
    """Encoded curvature of every column block, from these activations alone."""
    encoding = CurvatureEncoding.of(manifest.statement, manifest.curvature_bits)
    width = manifest.block_width
    return {
        layer.name: tuple(
            encode(x.T @ x / len(x), min(width, layer.cols - i * width), encoding)
            for i, x in enumerate(activations[layer.name])
        )
        for layer in manifest.layers
    }


def encode_for_proof(
    activations: Activations, curvature: Mapping[str, Sequence[EncodedCurvature]], manifest: ModelManifest
) -> tuple[EncodedActivations, ...]:
    """The activations as they are committed to, one array for each curvature factor, in the manifest's order.

    Raises
    ------
    ProverError
        A factor is further from their second moment than the manifest allows.
    """
    check = _check(manifest)
    encoded = []
    for layer in manifest.layers:
        for block, (x, factor) in enumerate(zip(activations[layer.name], curvature[layer.name], strict=True)):
            one = encode_activations(x, factor.factor, check.statement, manifest.curvature_bits)
            if one.per_mille > check.largest_per_mille:
                raise ProverError(
                    f"the curvature of column block {block} of {layer.name} cannot be proved",
                    why=f"it is {one.per_mille} per mille from its activations' second moment, at most "
                    f"{check.largest_per_mille} are allowed",
                    fix="ask the provider to enrol without proofs of curvature",
                )
            encoded.append(one)
    return tuple(encoded)


def _check(manifest: ModelManifest) -> CurvatureCheck:
    if manifest.curvature_check is None:
        raise InputError("the manifest asks for no proofs about curvature")
    return manifest.curvature_check

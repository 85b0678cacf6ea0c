"""Curvature that is proved at enrolment: made of activations that are committed to, and shown to be so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from zkapex.circuits.halo2.store import Circuit
from zkapex.client.state.holdings import Holdings
from zkapex.client.state.salts import SaltLedger
from zkapex.errors import InputError, ProverError
from zkapex.proofs.chunk.commitment import commit
from zkapex.proofs.chunk.enrolled import statement_about
from zkapex.proofs.chunk.second_moment import MomentWitness, prove_curvature
from zkapex.proofs.chunk.witness import SaltedVector
from zkapex.proofs.messages import CurvatureCheck, CurvatureProof, ModelManifest
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


def prove_enrolment(
    circuit: Circuit,
    holdings: Holdings,
    encoded: Sequence[EncodedActivations],
    client_id: str,
    nonce: str,
    ledger: SaltLedger,
) -> Iterator[CurvatureProof]:
    """Prove of every enrolled factor, in order, that it is the second moment of its activations; some seconds each.

    Parameters
    ----------
    circuit : Circuit
        `zkapex.proofs.chunk.verifier.check_circuit_of` the manifest.
    encoded : sequence of EncodedActivations
        As `encode_for_proof` gives them.
    client_id, nonce : str
        As in the enrolment.
    ledger : SaltLedger
        Counts the opening of each factor before its proof starts.

    Raises
    ------
    ProverError
        If ezkl fails.
    """
    manifest = holdings.manifest
    factors = [factor for layer in manifest.layers for factor in holdings.curvature[layer.name]]
    for number, (factor, one) in enumerate(zip(factors, encoded, strict=True)):
        public = statement_about(manifest, client_id, nonce, number, one.scale, one.per_mille)
        salts = holdings.salts[f"curvature/{number}"]
        witness = MomentWitness(SaltedVector(np.ascontiguousarray(factor), salts), SaltedVector(one.values))
        ledger.spend({f"curvature/{number}": salts})
        yield CurvatureProof(
            activations=commit(circuit, witness.activations.vector()).hex(),
            scale=one.scale,
            per_mille=one.per_mille,
            proof=prove_curvature(circuit, public, witness),
        )


def _check(manifest: ModelManifest) -> CurvatureCheck:
    if manifest.curvature_check is None:
        raise InputError("the manifest asks for no proofs about curvature")
    return manifest.curvature_check

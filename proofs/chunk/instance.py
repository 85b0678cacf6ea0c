"""From a request to the public inputs of every chunk's proof. Client, server and offline verifier share this code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zkapex.circuits.operators import declared
from zkapex.circuits.statement import FACTOR_UNIT
from zkapex.errors import ProtocolError
from zkapex.proofs.chunk.context import context_element
from zkapex.proofs.chunk.public import BoolArray, IntArray, PublicInputs
from zkapex.proofs.messages import ModelManifest, UnlearnRequest
from zkapex.proofs.records.packing import (
    locate_chunk,
    touched_chunks,
    unpack_factors,
    unpack_guards,
    unpack_masks,
    unpack_steering,
)


@dataclass(frozen=True)
class Place:
    """Where a chunk lies.

    Attributes
    ----------
    layer : str
    block, band : int
        Column block and band of rows.
    curvature : int
        Number of its curvature factor, in the order of an enrolment's curvature commitments.
    """

    layer: str
    block: int
    band: int
    curvature: int


def place(manifest: ModelManifest, chunk: int) -> Place:
    """Locate a chunk by its number.

    Raises
    ------
    ProtocolError
        The model has no such chunk.
    """
    layer, block, band = locate_chunk(manifest, chunk)
    before = 0
    for spec in manifest.layers:
        if spec.name == layer:
            break
        before += manifest.blocks(spec)
    if manifest.by_layer:
        return Place(layer, block, band, chunk)
    shared = manifest.statement.curvature == "kfac"
    return Place(layer, block, band, before + block if shared else chunk)


def cut(manifest: ModelManifest, where: Place, matrix: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """One chunk ``[R, B]`` of a layer's matrix ``[rows, cols]``, padded with zeros where the layer ends.

    All of it where a layer is proved as a whole.
    """
    if manifest.by_layer:
        return matrix
    height, width = manifest.rows_per_chunk, manifest.block_width
    part = matrix[where.band * height : (where.band + 1) * height, where.block * width : (where.block + 1) * width]
    return np.pad(part, ((0, height - part.shape[0]), (0, width - part.shape[1])))


class Instance:
    """The public side of one request: mask and guard as arrays, and every touched chunk's public inputs.

    Parameters
    ----------
    manifest : ModelManifest
    request : UnlearnRequest

    Raises
    ------
    ProtocolError
        Operator, mask or guard do not fit the manifest.
    """

    def __init__(self, manifest: ModelManifest, request: UnlearnRequest) -> None:
        self.manifest = manifest
        self.request = request
        if request.operator != manifest.statement.kind:
            raise ProtocolError(
                f"a request asks for {request.operator!r}",
                why=f"the manifest's circuit proves {manifest.statement.kind!r}",
            )
        self.masks = unpack_masks(manifest, request.mask, required=not manifest.statement.constrains_result)
        dampens = "factors" in declared(request.operator).terms
        if not dampens and any(mask.factors for mask in request.mask):
            raise ProtocolError("a request carries dampening factors", why=f"its operator is {request.operator!r}")
        self.dampening = unpack_factors(request.mask, self.masks) if dampens else {}
        self.guards = unpack_guards(manifest, request.guards)
        self.steering = unpack_steering(manifest, request.guards, self.masks)
        self.touched = touched_chunks(manifest, self.masks, self.steering)
        self._manifest_digest = manifest.digest()

    def mask(self, layer: str) -> BoolArray:
        """The mask bool [rows, cols] of a layer, which may have no masked weight."""
        if layer in self.masks:
            return self.masks[layer]
        shape = next((spec.rows, spec.cols) for spec in self.manifest.layers if spec.name == layer)
        return np.zeros(shape, np.bool_)

    def guard(self, layer: str, block: int) -> IntArray:
        """The guard of a column block, int64 ``[B, r]``, filled with zero columns up to the circuit's rank."""
        rank = self.manifest.guard_rank
        full = np.zeros((self.manifest.block_width, rank), np.int64)
        given = self.guards.get((layer, block))
        if given is not None:
            full[:, : given.shape[1]] = given
        return full

    def public(self, chunk: int) -> PublicInputs:
        """The public inputs of a touched chunk, context included."""
        where = place(self.manifest, chunk)
        mask: BoolArray = cut(self.manifest, where, self.mask(where.layer)).astype(np.bool_)
        context = context_element(
            self.request.request_id,
            self.request.client_id,
            self._manifest_digest,
            where.layer,
            where.block,
            where.band,
            self.manifest.circuit_digest,
            self.request.nonce,
        )
        guard = self.guard(where.layer, where.block)
        factors = self.dampening.get(where.layer)
        if factors is not None:  # one, not zero, beyond the layer's edge
            factors = FACTOR_UNIT + cut(self.manifest, where, factors - FACTOR_UNIT).astype(np.int64)
        steering = self.steering.get((where.layer, where.block))
        if steering is not None:
            height = self.manifest.rows_per_chunk
            band = steering[where.band * height : (where.band + 1) * height]
            steering = np.pad(band, ((0, height - len(band)), (0, 0)))
        return PublicInputs(mask, guard, self.request.tau_s, self.request.tau_g, context, factors, steering)

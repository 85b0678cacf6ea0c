"""From a manifest and a request to what the transparent backend's statements are about, layer by layer."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np

from zkapex.circuits.statement import StatementSpec
from zkapex.circuits.transparent.compliance import Compliance
from zkapex.circuits.transparent.dampening import Dampening
from zkapex.circuits.transparent.enrol import check_no_wrap
from zkapex.circuits.transparent.group_obs import Request
from zkapex.circuits.transparent.layout import Layout, layout_of
from zkapex.circuits.transparent.transcript import DOMAIN
from zkapex.errors import InputError
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.messages import ModelManifest
from zkapex.proofs.records.record import encode_parts

Terms = Request | Compliance | Dampening
"""What is public of the change of a layer."""


@lru_cache(maxsize=64)
def layout_for(spec: StatementSpec, rows: int, cols: int, kappa: int) -> Layout:
    """The layout of a layer, checked to have room in the field.

    Raises
    ------
    InputError
        It cannot be proved: it is too large, or its integers could wrap around.
    """
    try:
        layout = layout_of(spec, rows, cols, kappa)
        if layout.factor_rank:
            check_no_wrap(layout)
    except ValueError as e:
        raise InputError(f"no layer of {rows} x {cols} weights can be proved under this statement", why=str(e)) from e
    return layout


def layout(manifest: ModelManifest, unit: int) -> Layout:
    """The layout of one layer of a manifest; raises as `layout_for`."""
    layer = manifest.layers[unit]
    return layout_for(manifest.statement, layer.rows, layer.cols, manifest.curvature_bits)


def parameters_digest(spec: StatementSpec, shapes: list[tuple[int, int]], kappa: int) -> str:
    """SHA-256 (hex) of all that determines proofs of layers of these shapes, and is this release's choice."""
    parts = [layout_for(spec, rows, cols, kappa).digest_parts() for rows, cols in shapes]
    return hashlib.sha256(encode_parts("zkapex:transparent-parameters:v1", DOMAIN, spec.kind, *parts)).hexdigest()


def change_context(instance: Instance, unit: int) -> bytes:
    """Everything the proof of a change must not be detached from."""
    request, manifest = instance.request, instance.manifest
    return encode_parts(
        "zkapex:layer-context:v1",
        request.request_id,
        request.client_id,
        manifest.digest(),
        manifest.layers[unit].name,
        unit,
        manifest.circuit_digest,
        request.nonce,
    )


def state_context(manifest: ModelManifest, client_id: str, nonce: str, unit: int) -> bytes:
    """Everything the proof about an enrolled state must not be detached from."""
    name = manifest.layers[unit].name
    return encode_parts(
        "zkapex:state-context:v1", client_id, manifest.digest(), name, unit, manifest.circuit_digest, nonce
    )


def terms_of(instance: Instance, unit: int) -> Terms:
    """What a request asks of a layer.

    Raises
    ------
    InputError
        The layer, or the operator, cannot be proved, or the request asks nothing of it.
    """
    manifest, name = instance.manifest, instance.manifest.layers[unit].name
    y, kind = layout(manifest, unit), manifest.statement.kind
    mask = instance.mask(name)
    if kind == "dampening":
        return Dampening(y, mask, instance.dampening[name])
    guard = np.zeros((y.blocks, y.width, y.rank), np.int64)
    offsets = np.zeros((y.blocks, y.rows, y.rank), np.int64)
    prescribed = np.zeros(y.blocks, np.bool_)
    for block in range(y.blocks) if y.rank else ():
        guard[block] = instance.guard(name, block)
        given = instance.steering.get((name, block))
        if given is not None:
            offsets[block], prescribed[block] = given, True
    if kind in ("guarded-group-obs", "targeted-group-obs"):
        return Request(y, mask, guard, offsets, prescribed & manifest.statement.constrains_result)
    if kind == "mask-only":
        return Compliance.of_mask(y, mask)
    if kind == "constraint-only":
        return Compliance(y, mask, guard, offsets, prescribed)
    raise InputError(f"the transparent backend does not prove {kind}")


def layer_distance(terms: Terms) -> float | None:
    """The certified distance of a layer in integer weight units; see `zkapex.proofs.chunk.certificate`."""
    if not isinstance(terms, Request):
        return None
    return math.sqrt(terms.tolerances[2]) / terms.layout.ridge

"""A request on random weights of any shapes, through the real operator: what benchmarks prove and tests compare with.

What proving costs depends on the circuit alone, not on the values, so random weights, curvature and guard suffice; but
they must satisfy the statement, so the change is solved for like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zkapex.circuits.operators import declared
from zkapex.circuits.operators.tolerances import GUARD_BITS, tolerances
from zkapex.circuits.statement import FACTOR_UNIT, StatementSpec
from zkapex.client.state.holdings import Change, Holdings
from zkapex.proofs.backends import about, backend
from zkapex.proofs.backends.interface import Engine
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.chunk.public import BoolArray, IntArray
from zkapex.proofs.jobs.claim import Claim
from zkapex.proofs.messages import Audit, LayerSpec, ModelManifest, UnlearnRequest
from zkapex.proofs.records.packing import Int16Array, pack_guards, pack_masks
from zkapex.unlearning.curvature.factor import KAPPA, CurvatureEncoding, encode
from zkapex.unlearning.operators import operator

if TYPE_CHECKING:
    from zkapex.circuits.halo2.store import Circuit

_NOBODY = "0" * 64
_EXPONENT = 12
_TARGET = 300
"""Largest target along a direction, in units of the statement's guard limit."""
_TYPICAL = 16
"""Standard deviation of the weights, as a fraction of the circuit's limit: room for the change."""


@dataclass(frozen=True)
class Shape:
    """A target layer: a weight ``[rows, cols]``."""

    name: str
    rows: int
    cols: int


@dataclass(frozen=True)
class Workload:
    """A request as both sides know it.

    Attributes
    ----------
    engine : Engine
    instance : Instance
    holdings : Holdings
    change : Change
    """

    engine: Engine
    instance: Instance
    holdings: Holdings
    change: Change

    def write_jobs(self, folder: Path) -> dict[int, Path]:
        """A proving job for every touched chunk, in folders below `folder`."""
        jobs = {chunk: folder / str(chunk) for chunk in self.instance.touched}
        for chunk, job in jobs.items():
            self.engine.write_job(job, self.instance, self.holdings, self.change, chunk)
        return jobs

    def claim(self) -> Claim:
        """What the proofs are to be checked against. Chunks that are not touched have stand-ins, which nobody reads."""
        touched, after = self.instance.touched, self.change.apply(self.holdings)
        lists = []
        for holdings in (self.holdings, after):
            points = [""] * self.instance.manifest.n_chunks
            for chunk, point in self.engine.commit(holdings, touched):
                points[chunk] = point
            lists.append(points)
        curvature = self.engine.commit_curvature(self.holdings)
        return Claim(self.instance.manifest, self.instance.request, curvature, *lists)


def random_mask(shapes: Sequence[Shape], density: float, rng: np.random.Generator) -> dict[str, BoolArray]:
    """``round(density * weights)`` masked weights, at least one, scattered uniformly over all layers together."""
    sizes = [shape.rows * shape.cols for shape in shapes]
    count = max(1, round(density * sum(sizes)))
    flat = np.zeros(sum(sizes), np.bool_)
    flat[rng.choice(flat.size, count, replace=False)] = True
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return {s.name: part.reshape(s.rows, s.cols) for s, part in zip(shapes, parts, strict=True)}


def random_workload(circuit: Circuit, shapes: Sequence[Shape], masks: Mapping[str, BoolArray], seed: int) -> Workload:
    """A request that masks these weights of a model of these layers, on random weights, curvature and guards."""
    from zkapex.proofs.backends.halo2 import Halo2Engine

    manifest = ModelManifest(
        model="random",
        profile="random",
        statement=circuit.spec,
        curvature_bits=KAPPA,
        layers=_layers(shapes),
        circuit_digest=circuit.vk_digest,
        settings_digest=circuit.settings_digest,
        srs_digest=circuit.srs.digest,
        srs_origin="local",
    )
    return _workload(Halo2Engine(manifest, circuit), shapes, masks, seed)


def layer_workload(
    spec: StatementSpec, shapes: Sequence[Shape], masks: Mapping[str, BoolArray], seed: int, name: str = "transparent"
) -> Workload:
    """The same for a backend that proves layers, whose engine needs nothing but the manifest."""
    proving = backend(name)
    fields = proving.manifest_fields(spec, _layers(shapes), KAPPA, "", None)
    manifest = ModelManifest(
        model="random", profile="random", statement=spec, curvature_bits=KAPPA, layers=_layers(shapes), **fields
    )
    return _workload(proving.open(manifest, {}), shapes, masks, seed)


def _layers(shapes: Sequence[Shape]) -> tuple[LayerSpec, ...]:
    return tuple(LayerSpec(name=s.name, rows=s.rows, cols=s.cols, exponent=_EXPONENT) for s in shapes)


def _workload(engine: Engine, shapes: Sequence[Shape], masks: Mapping[str, BoolArray], seed: int) -> Workload:
    rng, manifest = np.random.default_rng(seed), engine.manifest
    spec = manifest.statement
    scale = spec.weight_limit / _TYPICAL
    weights = {s.name: np.rint(rng.normal(0, scale / 4, (s.rows, s.cols))).astype(np.int64) for s in shapes}
    curvature = {}
    if spec.curvature != "none":
        curvature = {layer.name: _curvature(manifest, layer, rng) for layer in manifest.layers}
    factors = None
    if "factors" in declared(spec.kind).terms:
        factors = {s.name: rng.integers(0, FACTOR_UNIT, (s.rows, s.cols)) for s in shapes}
    guards = _guards(manifest, masks, rng)
    targets = None
    if spec.constrains_result:
        rows = {layer.name: layer.rows for layer in manifest.layers}
        targets = {
            key: rng.integers(-_TARGET, _TARGET + 1, (rows[key[0]], guard.shape[1])).astype(np.int16)
            for key, guard in guards.items()
        }
    request = _request(manifest, masks, guards, factors, targets)
    instance = Instance(manifest, request)
    holdings = Holdings.create(manifest, weights, curvature)
    change = Change.create(*operator(request.operator).apply(holdings, instance), instance.touched)
    return Workload(engine, instance, holdings, change)


def _columns(manifest: ModelManifest, layer: LayerSpec) -> list[int]:
    """Columns of each block of a layer that are not padding."""
    width = manifest.block_width
    return [min(width, layer.cols - block * width) for block in range(manifest.blocks(layer))]


def _curvature(manifest: ModelManifest, layer: LayerSpec, rng: np.random.Generator) -> IntArray:
    """Factors, int64 [blocks, q, B] or [blocks, rows, q, B], of second moments of data whose scales differ tenfold."""
    encoding, width = CurvatureEncoding.of(manifest.statement), manifest.block_width
    each = (layer.rows,) if encoding.kind == "block-fisher" else ()
    factors = []
    for columns in _columns(manifest, layer):
        x = rng.normal(size=(*each, 2 * width, width)) * rng.uniform(0.2, 2, width)
        factors.append(encode(np.swapaxes(x, -1, -2) @ x, columns, encoding).factor)
    return np.stack(factors)


def _guards(
    manifest: ModelManifest, masks: Mapping[str, BoolArray], rng: np.random.Generator
) -> dict[tuple[str, int], Int16Array]:
    """Orthonormal columns at the guard's scale for every block of the masked layers; none at rank 0."""
    guards: dict[tuple[str, int], Int16Array] = {}
    for layer in manifest.layers:
        if not manifest.guard_rank or not masks[layer.name].any():
            continue
        for block, columns in enumerate(_columns(manifest, layer)):
            q, _ = np.linalg.qr(rng.normal(size=(columns, manifest.guard_rank)))
            guard = np.zeros((manifest.block_width, manifest.guard_rank), np.int16)
            guard[:columns, : q.shape[1]] = np.rint(q * 2**GUARD_BITS)
            guards[layer.name, block] = guard
    return guards


def _request(
    manifest: ModelManifest,
    masks: Mapping[str, BoolArray],
    guards: Mapping[tuple[str, int], Int16Array],
    factors: Mapping[str, IntArray] | None,
    targets: Mapping[tuple[str, int], Int16Array] | None,
) -> UnlearnRequest:
    tau_s, tau_g = tolerances(manifest.rows_per_chunk, manifest.block_width, manifest.guard_rank, KAPPA, GUARD_BITS)
    if not about(manifest.backend).tolerances_stated:
        tau_s = tau_g = 0
    now = datetime.now(UTC)
    return UnlearnRequest(
        request_id="random",
        client_id=_NOBODY,
        manifest_digest=manifest.digest(),
        nonce=_NOBODY,
        operator=manifest.statement.kind,
        pre_root=_NOBODY,
        mask=pack_masks(manifest, masks, factors),
        guards=pack_guards(manifest, guards, targets),
        tau_s=tau_s,
        tau_g=tau_g,
        audit=Audit(),
        forget_digest=_NOBODY,
        issued_at=now,
        expires_at=now + timedelta(days=1),
    )

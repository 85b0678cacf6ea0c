"""The plan of a deletion on disk, and the same deletion applied to the provider's own model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from zkapex.circuits.operators import declared
from zkapex.errors import StorageError
from zkapex.proofs.chunk.demands import Along, Demands
from zkapex.proofs.messages import ModelManifest
from zkapex.server.federation.provider import Provider
from zkapex.storage import load_arrays, load_json, save_arrays, save_text
from zkapex.unlearning.curvature.factor import CurvatureEncoding, curvature_of
from zkapex.unlearning.operators import Curvature, Terms, operator
from zkapex.unlearning.planning.trials import Outcome, Plan
from zkapex.unlearning.weights import encode_weights, load_weights

ARRAYS, TEXT = "plan.npz", "plan.json"


@dataclass(frozen=True)
class StoredPlan:
    """A plan as it is kept on disk.

    Attributes
    ----------
    masks : mapping of str to bool [rows, cols]
    guards : mapping of str to int64 [blocks, B, r]
        Empty for operators without a guard.
    chosen : dict
        The chosen setting and what it did to the provider's copies.
    curve : tuple of dict
        Every setting tried.
    factors : mapping of str to int64 [rows, cols]
        For dampening, in units of ``1 / FACTOR_UNIT``; else empty.
    steering, targets : mapping of (str, int) to int64 [rows, r]
        By layer and column block; see `zkapex.unlearning.operators.Terms`.
    """

    masks: Mapping[str, npt.NDArray[np.bool_]]
    guards: Mapping[str, npt.NDArray[np.int64]]
    chosen: dict[str, Any]
    curve: tuple[dict[str, Any], ...]
    factors: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    steering: Mapping[tuple[str, int], npt.NDArray[np.int64]] = field(default_factory=dict)
    targets: Mapping[tuple[str, int], npt.NDArray[np.int64]] = field(default_factory=dict)

    @property
    def terms(self) -> Terms:
        """The plan as operators take it."""
        guards = {name: list(blocks) for name, blocks in self.guards.items()}
        return Terms(self.masks, guards, self.factors, self.steering, self.targets)

    @property
    def zeroed(self) -> dict[str, npt.NDArray[np.bool_]]:
        """The weights, bool [rows, cols] by layer, that it makes zero whatever they were."""
        return {name: mask & (self.factors[name] == 0) if self.factors else mask for name, mask in self.masks.items()}

    def demands(self, manifest: ModelManifest) -> Demands:
        """What it asks of weights for good."""
        if not declared(manifest.statement.kind).zeroes:
            return Demands()
        along = {(name, block): Along.of(self.guards[name][block], t) for (name, block), t in self.targets.items()}
        along = {key: one for key, one in along.items() if one.directions.size}
        return Demands().joined(Demands(self.zeroed, along))

    def guard_map(self) -> dict[tuple[str, int], npt.NDArray[np.int16]]:
        """Guards by (layer, block), int16 [B, r], without those that guard nothing."""
        return {
            (name, index): block.astype(np.int16)
            for name, blocks in self.guards.items()
            for index, block in enumerate(blocks)
            if block.any()
        }

    def steering_map(self, unit: int) -> dict[tuple[str, int], npt.NDArray[np.int16]]:
        """What is prescribed along the guards by (layer, block), int16 [n, r] in multiples of `unit`.

        Steering is of the n rows with a masked weight there, targets of all rows.
        """
        found = {key: (values // unit).astype(np.int16) for key, values in self.targets.items()}
        for (name, block), values in self.steering.items():
            width = self.guards[name].shape[1]
            rows = self.masks[name][:, block * width : (block + 1) * width].any(1)
            found[name, block] = (values[rows] // unit).astype(np.int16)
        return found


def save_plan(folder: Path, plan: Plan) -> StoredPlan:
    """Write a plan, and return it as it is read again."""
    chosen, curve = _flat(plan.chosen), tuple(_flat(outcome) for outcome in plan.curve)
    guards = {name: np.stack(blocks) for name, blocks in plan.guards.items()}
    return keep_plan(folder, StoredPlan(plan.masks, guards, chosen, curve, plan.factors, plan.steering, plan.targets))


def keep_plan(folder: Path, plan: StoredPlan) -> StoredPlan:
    """The same with a plan that was read: arrays first, so that a plan whose text exists is complete."""
    arrays: dict[str, npt.NDArray[np.generic]] = {f"mask/{name}": mask for name, mask in plan.masks.items()}
    arrays |= {f"guard/{name}": np.stack(list(blocks)) for name, blocks in plan.guards.items()}
    arrays |= {f"factor/{name}": factors for name, factors in plan.factors.items()}
    for kind, along in (("steering", plan.steering), ("targets", plan.targets)):
        arrays |= {f"{kind}/{block}/{name}": values for (name, block), values in along.items()}
    save_arrays(folder / ARRAYS, arrays)
    text = {"chosen": plan.chosen, "curve": list(plan.curve)}
    save_text(folder / TEXT, json.dumps(text, indent=1))
    stored = load_plan(folder)
    if stored is None:
        raise StorageError(f"the plan in {folder} vanished while it was written")
    return stored


def load_plan(folder: Path) -> StoredPlan | None:
    """The plan in a folder, or None if there is none yet.

    Raises
    ------
    StorageError
        It is damaged.
    """
    if not (folder / TEXT).exists():
        return None
    text = load_json(folder / TEXT)
    if not isinstance(text, dict) or not text.keys() >= {"chosen", "curve"}:
        raise StorageError(f"{folder / TEXT} is damaged", fix="delete it and resume")
    arrays = load_arrays(folder / ARRAYS)
    masks = {k.removeprefix("mask/"): v.astype(np.bool_) for k, v in arrays.items() if k.startswith("mask/")}
    guards, factors = (
        {k.removeprefix(kind): v.astype(np.int64) for k, v in arrays.items() if k.startswith(kind)}
        for kind in ("guard/", "factor/")
    )
    along: dict[str, dict[tuple[str, int], npt.NDArray[np.int64]]] = {"steering": {}, "targets": {}}
    for key, values in arrays.items():
        if key.startswith(tuple(f"{kind}/" for kind in along)):
            kind, block, name = key.split("/", 2)
            along[kind][name, int(block)] = values.astype(np.int64)
    return StoredPlan(masks, guards, text["chosen"], tuple(text["curve"]), factors, **along)


def unlearn_global(
    model: nn.Module, manifest: ModelManifest, curvature: Curvature, plan: StoredPlan
) -> dict[str, npt.NDArray[np.generic]]:
    """The global model after the operator the clients run, in the same fixed point; later rounds start from here.

    Leaves `model` as it was. Returns every entry of its state dict.
    """
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = encode_weights(model, manifest)
    weights, _ = operator(manifest.statement.kind).change(weights, plan.terms, curvature, manifest.weight_limit)
    load_weights(model, manifest, weights)
    after = {name: value.clone().numpy(force=True) for name, value in model.state_dict().items()}
    model.load_state_dict(before)
    return after


def provider_curvature(
    provider: Provider, model: nn.Module, manifest: ModelManifest
) -> dict[str, list[npt.NDArray[np.int64]]]:
    """The curvature matrices of the provider's own model, by layer; empty if the operator looks at none."""
    if manifest.statement.curvature == "none":
        return {}
    names = [layer.name for layer in manifest.layers]
    encoded = curvature_of(model, names, provider.curvature_inputs(), CurvatureEncoding.of(manifest.statement))
    return {name: [block.matrix for block in blocks] for name, blocks in encoded.items()}


def _flat(outcome: Outcome) -> dict[str, Any]:
    values = asdict(outcome)
    return {**values.pop("setting"), **values}

"""The plan of a deletion on disk, and the same deletion applied to the provider's own model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from zkapex.client.curvature import EncodedCurvature
from zkapex.client.group_obs import solve_layer
from zkapex.client.weights import encode_weights, load_weights
from zkapex.errors import StorageError
from zkapex.proofs.messages import ModelManifest
from zkapex.server.search import Outcome, Plan
from zkapex.server.storage import load_arrays, load_json, save_arrays, save_text

ARRAYS, TEXT = "plan.npz", "plan.json"


@dataclass(frozen=True)
class StoredPlan:
    """A plan as it is kept on disk.

    Attributes
    ----------
    masks : mapping of str to bool [rows, cols]
    guards : mapping of str to int64 [blocks, B, r]
    chosen : dict
        The chosen setting and what it did to the provider's copies.
    curve : tuple of dict
        Every setting tried.
    """

    masks: Mapping[str, npt.NDArray[np.bool_]]
    guards: Mapping[str, npt.NDArray[np.int64]]
    chosen: dict[str, Any]
    curve: tuple[dict[str, Any], ...]

    def guard_map(self) -> dict[tuple[str, int], npt.NDArray[np.int16]]:
        """Guards by (layer, block), int16 [B, r], without those that guard nothing."""
        return {
            (name, index): block.astype(np.int16)
            for name, blocks in self.guards.items()
            for index, block in enumerate(blocks)
            if block.any()
        }


def save_plan(folder: Path, plan: Plan) -> StoredPlan:
    """Write a plan; arrays first, so that a plan whose text exists is complete."""
    arrays: dict[str, npt.NDArray[np.generic]] = {f"mask/{name}": mask for name, mask in plan.masks.items()}
    arrays |= {f"guard/{name}": np.stack(blocks) for name, blocks in plan.guards.items()}
    save_arrays(folder / ARRAYS, arrays)
    text = {"chosen": _flat(plan.chosen), "curve": [_flat(outcome) for outcome in plan.curve]}
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
    guards = {k.removeprefix("guard/"): v.astype(np.int64) for k, v in arrays.items() if k.startswith("guard/")}
    return StoredPlan(masks, guards, text["chosen"], tuple(text["curve"]))


def unlearn_global(
    model: nn.Module,
    manifest: ModelManifest,
    curvature: Mapping[str, Sequence[EncodedCurvature]],
    plan: StoredPlan,
) -> dict[str, npt.NDArray[np.generic]]:
    """The global model after the operator the clients run, in the same fixed point; later rounds start from here.

    Leaves `model` as it was. Returns every entry of its state dict.
    """
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = encode_weights(model, manifest)
    for layer in manifest.layers:
        mask = plan.masks.get(layer.name)
        if mask is None or not mask.any():
            continue
        matrices = [block.matrix for block in curvature[layer.name]]
        guards = list(plan.guards[layer.name])
        solution = solve_layer(weights[layer.name], mask, matrices, guards, manifest.weight_limit)
        weights[layer.name] = weights[layer.name] + solution.delta
    load_weights(model, manifest, weights)
    after = {name: value.detach().clone().numpy() for name, value in model.state_dict().items()}
    model.load_state_dict(before)
    return after


def _flat(outcome: Outcome) -> dict[str, Any]:
    values = asdict(outcome)
    return {**values.pop("setting"), **values}

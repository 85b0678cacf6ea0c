"""Federations that live: several requests about the same small model, each with a mask of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from federation import Federation, SmallProvider
from torch import nn

from zkapex.circuits.statement import StatementSpec
from zkapex.client.state.holdings import Holdings
from zkapex.client.state.vault import Vault
from zkapex.proofs.messages import ModelManifest
from zkapex.unlearning.planning.search import Plan
from zkapex.unlearning.planning.steps import OnStep, no_step

Masks = Mapping[str, np.ndarray]


def spots(*places: tuple[str, int, slice]) -> dict[str, np.ndarray]:
    """Masks of (layer, row, columns)."""
    masks = {"fc1": np.zeros((32, 64), np.bool_), "fc2": np.zeros((40, 32), np.bool_)}
    for layer, row, columns in places:
        masks[layer][row, columns] = True
    return masks


MASKS = {
    "request-1": spots(("fc1", 3, slice(2, 8)), ("fc2", 5, slice(10, 15))),
    "request-2": spots(("fc1", 3, slice(20, 24)), ("fc1", 7, slice(40, 46))),
    "request-3": spots(("fc2", 5, slice(0, 4)), ("fc2", 38, slice(3, 9))),
}
"""The second shares a chunk and a row with the first, and so does the third."""


class LivingProvider(SmallProvider):
    """Asked for one thing after the other; which weights go is fixed, so that tests know them."""

    def __init__(self, request_id: str = "request-1", parent: LivingProvider | None = None) -> None:
        super().__init__()
        self.request_id, self.parent = request_id, parent

    def for_request(self, request_id: str) -> LivingProvider:
        return LivingProvider(request_id, self)

    def forget_description(self) -> str:
        return f"what {self.request_id} is about"

    def plan(self, model: nn.Module, statement: StatementSpec, on_step: OnStep = no_step) -> Plan:
        if self.parent is not None:
            self.parent.plans += 1
        found = super().plan(model, statement, on_step)
        masks = MASKS.get(self.request_id, MASKS["request-1"])
        return replace(found, masks={name: mask.copy() for name, mask in masks.items()})


def deployed(federation: Federation, index: int) -> dict[str, np.ndarray]:
    """The weights a device serves."""
    with np.load(federation.state(index) / "model.npz") as arrays:
        return {name: arrays[f"{name}.weight"] for name in ("fc1", "fc2")}


def left(weights: Mapping[str, np.ndarray], masks: Masks) -> int:
    """How many masked weights are not zero."""
    return sum(int(np.count_nonzero(weights[name][mask])) for name, mask in masks.items())


def committed(folder: Path) -> dict[str, np.ndarray]:
    """The integer weights a device stands by."""
    vault = Vault(folder / "enrolment")
    manifest = ModelManifest.from_bytes(vault.get("manifest.json"))
    return dict(Holdings.load(manifest, vault).weights)


def traces(folder: Path, before: Mapping[str, np.ndarray], masks: Masks) -> list[str]:
    """Files below a folder that hold weights from before, around what was deleted, in any layout they may have.

    Parameters
    ----------
    before : mapping of str to array
        Weights from before a request, as integers or floats.
    """
    needles = set()
    for name, mask in masks.items():
        rows, columns = np.nonzero(mask)
        for row, column in zip(rows, columns, strict=True):
            start = min(max(0, column - 1), mask.shape[1] - 4)
            window = before[name][row, start : start + 4]
            if np.count_nonzero(window) < 3 or before[name][row, column] == 0:
                continue
            kinds = (np.float32, np.float64) if window.dtype.kind == "f" else (np.int64, np.int32, np.int16)
            needles |= {np.ascontiguousarray(window.astype(kind)).tobytes() for kind in kinds}
    assert needles
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]

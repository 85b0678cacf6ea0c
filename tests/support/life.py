"""Federations that live: several requests about the same small model, each with a mask of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from federation import Federation, SmallProvider
from torch import nn

from zkapex.circuits.operators.tolerances import GUARD_BITS
from zkapex.circuits.statement import StatementSpec
from zkapex.client.state.holdings import Holdings
from zkapex.client.state.vault import Vault
from zkapex.proofs.messages import ModelManifest
from zkapex.proofs.receipts.chain import verify_chain
from zkapex.proofs.records.signing import load_public_key
from zkapex.server.requests.plan import load_plan
from zkapex.unlearning.planning.search import Outcome, Plan, Setting
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


TARGETS = {"request-1": [("fc1", 0)], "request-2": [("fc1", 0), ("fc2", 0)], "request-3": [("fc1", 0)]}
"""Layers and column blocks that each request prescribes along a direction of its own in; the first one in all three."""


class TargetingProvider(LivingProvider):
    """Prescribes, whatever data it has: along a direction per block, of every row something near zero."""

    def for_request(self, request_id: str) -> TargetingProvider:
        return TargetingProvider(request_id, self)

    def plan(self, model: nn.Module, statement: StatementSpec, on_step: OnStep = no_step) -> Plan:
        if self.parent is not None:
            self.parent.plans += 1
        rng = np.random.default_rng(int(self.request_id[-1]))
        width, rank = statement.block_width, statement.guard_rank
        masks = spots() if self.request_id == "request-1" else spots(("fc1", 3, slice(2, 5)))
        guards = {name: [np.zeros((width, rank), np.int64) for _ in range(-(-m.shape[1] // width))]
                  for name, m in masks.items()}  # fmt: skip
        targets = {}
        for name, block in TARGETS[self.request_id]:
            direction = rng.normal(size=width)
            guards[name][block][:, 0] = np.rint(direction / np.linalg.norm(direction) * 2.0**GUARD_BITS)
            targets[name, block] = np.zeros((len(masks[name]), rank), np.int64)
            targets[name, block][:, 0] = rng.integers(-20, 21, len(masks[name])) * statement.guard_limit
        outcome = Outcome(Setting("targets", 0.0, 1), 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, True, True)
        return Plan(outcome, masks, {n: tuple(blocks) for n, blocks in guards.items()}, (outcome,), targets=targets)


def along(federation: Federation, weights: Mapping[str, np.ndarray], *request_ids: str) -> int:
    """How many rows of integer weights are not what these requests have prescribed along their directions."""
    missed = 0
    for request_id in request_ids:
        plan = load_plan(federation.folder / "provider" / "requests" / request_id)
        assert plan is not None
        for (name, block), wanted in plan.targets.items():
            v = plan.guards[name][block]
            reached = weights[name][:, block * len(v) : (block + 1) * len(v)] @ v
            missed += int((np.abs(reached - wanted) > 6 * 2**GUARD_BITS).any(1).sum())
    return missed


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
    wanted = needles(before, masks)
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(needle in path.read_bytes() for needle in wanted)
    ]


def needles(before: Mapping[str, np.ndarray], masks: Masks) -> set[bytes]:
    """What a file would hold that still has deleted weights with their neighbours, in any layout they may have."""
    found: set[bytes] = set()
    for name, mask in masks.items():
        rows, columns = np.nonzero(mask)
        for row, column in zip(rows, columns, strict=True):
            start = min(max(0, column - 1), mask.shape[1] - 4)
            window = before[name][row, start : start + 4]
            if np.count_nonzero(window) < 3 or before[name][row, column] == 0:
                continue
            kinds = (np.float32, np.float64) if window.dtype.kind == "f" else (np.int64, np.int32, np.int16)
            found |= {np.ascontiguousarray(window.astype(kind)).tobytes() for kind in kinds}
    assert found
    return found


def ask(federation: Federation, *request_ids: str) -> dict[str, Any]:
    federation.settings["requests"] = ",".join(request_ids)
    return federation.serve()


def chains(federation: Federation) -> dict[str, list[str]]:
    """Verdicts by client, of receipts that verify one by one and as chains."""
    found = verify_chain(federation.folder / "receipts", [load_public_key(federation.folder / "key.pub")])
    return {chain.client_id: [v.bundle.receipt.outcome.verdict for v in chain.receipts] for chain in found}


def statuses(federation: Federation) -> list[str]:
    with federation.registry() as registry:
        return [str(client.status) for client in registry.clients()]

"""Unlearning operators by name: what a request asks for, and what the circuit of the same name proves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from zkapex.client.group_obs import solve_layer
from zkapex.client.holdings import Holdings
from zkapex.errors import ProtocolError
from zkapex.proofs.chunk import BoolArray, IntArray
from zkapex.proofs.instance import Instance


class Operator(Protocol):
    """A transformation of committed weights that is exact given public data and the device's curvature."""

    name: str

    def apply(self, holdings: Holdings, instance: Instance) -> tuple[dict[str, IntArray], dict[str, IntArray]]:
        """New weights int64 [rows, cols] of every layer; multipliers int64 [blocks, rows, r] of those that change."""
        ...


class GuardedGroupObs:
    """Zero the masked weights and repair each touched row with Group-OBS, orthogonally to the guard (rank 0: plain)."""

    name = "guarded-group-obs"

    def apply(self, holdings: Holdings, instance: Instance) -> tuple[dict[str, IntArray], dict[str, IntArray]]:
        """See `Operator`. Raises RangeExceededError if a result leaves the circuit's range."""
        return group_obs(holdings, instance.masks, instance.guard)


def group_obs(
    holdings: Holdings, masks: Mapping[str, BoolArray], guard: Callable[[str, int], IntArray]
) -> tuple[dict[str, IntArray], dict[str, IntArray]]:
    """Guarded Group-OBS on every masked layer; `guard` gives int64 [B, r] by layer and column block.

    Raises
    ------
    RangeExceededError
        A result leaves the circuit's range.
    """
    manifest = holdings.manifest
    weights = dict(holdings.weights)
    mu: dict[str, IntArray] = {}
    for layer in manifest.layers:
        if layer.name not in masks:
            continue
        guards = [guard(layer.name, block) for block in range(manifest.blocks(layer))]
        curvature = list(holdings.curvature[layer.name])
        solution = solve_layer(weights[layer.name], masks[layer.name], curvature, guards, manifest.weight_limit)
        weights[layer.name] = weights[layer.name] + solution.delta
        mu[layer.name] = solution.mu
    return weights, mu


OPERATORS: dict[str, Operator] = {o.name: o for o in (GuardedGroupObs(),)}


def operator(name: str) -> Operator:
    """The operator called `name`.

    Raises
    ------
    ProtocolError
        This release has none of that name.
    """
    if name not in OPERATORS:
        raise ProtocolError(f"unknown operator {name!r}", why=f"this release has {', '.join(OPERATORS)}")
    return OPERATORS[name]

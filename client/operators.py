"""Unlearning operators by name: what a request asks for, and what the circuit of the same name proves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from zkapex.circuits.statement import FACTOR_UNIT
from zkapex.client.group_obs import solve_layer
from zkapex.client.holdings import Holdings
from zkapex.errors import ProtocolError
from zkapex.proofs.instance import Instance
from zkapex.proofs.public import BoolArray, IntArray

Applied = tuple[dict[str, IntArray], dict[str, IntArray]]
"""New weights int64 [rows, cols] of every layer; multipliers int64 [blocks, rows, r] of those that have any."""


class Operator(Protocol):
    """A transformation of committed weights that is exact given public data and the device's curvature."""

    name: str

    def apply(self, holdings: Holdings, instance: Instance) -> Applied:
        """The weights that result, and the witness' multipliers."""
        ...


class GuardedGroupObs:
    """Zero the masked weights and repair each touched row with Group-OBS, orthogonally to the guard (rank 0: plain)."""

    name = "guarded-group-obs"

    def apply(self, holdings: Holdings, instance: Instance) -> Applied:
        """See `Operator`. Raises RangeExceededError if a result leaves the circuit's range."""
        return group_obs(holdings, instance.masks, instance.guard)


class MaskOnly:
    """Zero the masked weights and leave the rest as it is; proved is only the former, so weights may move meanwhile."""

    name = "mask-only"

    def apply(self, holdings: Holdings, instance: Instance) -> Applied:
        """See `Operator`."""
        weights = dict(holdings.weights)
        for name, mask in instance.masks.items():
            weights[name] = np.where(mask, 0, weights[name])
        return weights, {}


class Dampening:
    """Multiply the masked weights by the request's factors and round: selective synaptic dampening.

    Foster, Schoepf and Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening",
    AAAI 2024 (arXiv 2308.07707), equation 4.
    """

    name = "dampening"

    def apply(self, holdings: Holdings, instance: Instance) -> Applied:
        """See `Operator`."""
        weights = dict(holdings.weights)
        for name, factors in instance.dampening.items():
            weights[name] = np.rint(weights[name] * factors / FACTOR_UNIT).astype(np.int64)
        return weights, {}


def group_obs(holdings: Holdings, masks: Mapping[str, BoolArray], guard: Callable[[str, int], IntArray]) -> Applied:
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
        curvature = holdings.matrices(layer)
        solution = solve_layer(weights[layer.name], masks[layer.name], curvature, guards, manifest.weight_limit)
        weights[layer.name] = weights[layer.name] + solution.delta
        mu[layer.name] = solution.mu
    return weights, mu


OPERATORS: dict[str, Operator] = {o.name: o for o in (GuardedGroupObs(), MaskOnly(), Dampening())}


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

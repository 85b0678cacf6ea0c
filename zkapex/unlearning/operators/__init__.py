"""Unlearning operators by name, one module each: what a request asks for, and what the circuit of the same name proves.

An operator is a function of integer weights, the public terms of a request, and curvature. Devices apply it to the
weights they committed to, the provider to its own copies of the model: both through this module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar, Protocol

import numpy as np

from zkapex.circuits.operators import declared, named_object, operator_names
from zkapex.circuits.statement import StatementSpec
from zkapex.errors import ProtocolError
from zkapex.proofs.chunk.demands import Demands
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.chunk.public import BoolArray, IntArray
from zkapex.proofs.messages import LayerSpec, ModelManifest
from zkapex.unlearning.accelerator import CPU, torch_device
from zkapex.unlearning.operators.held import Held, Targets

Applied = tuple[dict[str, IntArray], dict[str, IntArray]]
"""New weights int64 [rows, cols] of every layer; multipliers int64 [blocks, rows, r] of those that have any."""

Curvature = Callable[[str], Sequence[IntArray]]
"""Gives the curvature of a layer: per column block int64 [B, B], or [rows, B, B] with one per row."""


@dataclass(frozen=True)
class Terms:
    """The public part of a deletion.

    Attributes
    ----------
    masks : mapping of str to bool [rows, cols]
        Layers may be left out.
    guards : mapping of str to sequence of int64 [B, r]
        Per layer one per column block, for every masked layer; for guarded-group-obs.
    factors : mapping of str to int64 [rows, cols]
        In units of ``1 / FACTOR_UNIT``, for every masked layer; for dampening.
    steering : mapping of (str, int) to int64 [rows, r]
        By layer and column block: what the unmasked change must be along the guard, in the guard's units; zero in rows
        without a masked weight there. Blocks may be left out. For guarded-group-obs.
    targets : mapping of (str, int) to int64 [rows, r]
        By layer and column block: what every row of the result must be along the guard, in the guard's units. Blocks
        may be left out, and stay as they are but for the mask. For targeted-group-obs and constraint-only.
    """

    masks: Mapping[str, BoolArray]
    guards: Mapping[str, Sequence[IntArray]] = field(default_factory=dict)
    factors: Mapping[str, IntArray] = field(default_factory=dict)
    steering: Mapping[tuple[str, int], IntArray] = field(default_factory=dict)
    targets: Mapping[tuple[str, int], IntArray] = field(default_factory=dict)

    def unguarded(self) -> Terms:
        """The same masks for plain Group-OBS: guards of rank 0, and so no steering."""
        return Terms(self.masks, {n: [guard[:, :0] for guard in guards] for n, guards in self.guards.items()})

    @classmethod
    def of(cls, instance: Instance) -> Terms:
        """The terms of a request."""
        manifest = instance.manifest
        named = {*instance.masks, *(name for name, _ in instance.steering)}
        guards = {
            layer.name: [instance.guard(layer.name, block) for block in range(manifest.blocks(layer))]
            for layer in manifest.layers
            if layer.name in named
        }
        masks = {layer.name: instance.mask(layer.name) for layer in manifest.layers if layer.name in named}
        if manifest.statement.constrains_result:
            return cls(masks, guards, targets=instance.steering)
        return cls(masks, guards, instance.dampening, instance.steering)

    @classmethod
    def demanded(cls, manifest: ModelManifest, demands: Demands) -> Terms:
        """What requests demand for good, as constraint-only takes it."""
        masks, guards = dict(demands.zeros), {}
        for layer in manifest.layers:
            if any(name == layer.name for name, _ in demands.along):
                masks.setdefault(layer.name, np.zeros((layer.rows, layer.cols), np.bool_))
                empty = np.zeros((manifest.block_width, 0), np.int64)
                blocks = (demands.along.get((layer.name, block)) for block in range(manifest.blocks(layer)))
                guards[layer.name] = [empty if one is None else one.directions for one in blocks]
        return cls(masks, guards, targets={key: one.targets for key, one in demands.along.items()})

    def held(self, exponents: Mapping[str, int]) -> Held:
        """What masks and targets leave fixed in a model that is trained on.

        Parameters
        ----------
        exponents : mapping of str to int
            log2 of each layer's scale.
        """
        found: dict[str, tuple[Targets, ...]] = {}
        for (name, block), values in self.targets.items():
            v = self.guards[name][block]
            start = block * len(v)
            cut = v[: self.masks[name].shape[1] - start].astype(np.float64)
            one = Targets(start, cut, np.asarray(values * 2.0 ** -exponents[name], np.float64))
            found[name] = (*found.get(name, ()), one)
        return Held({name: mask for name, mask in self.masks.items() if mask.any()}, found)


class Committed(Protocol):
    """Weights and curvature that somebody has committed to, as operators read them."""

    @property
    def manifest(self) -> ModelManifest:
        """What was committed to."""

    @property
    def weights(self) -> Mapping[str, IntArray]:
        """By layer int64 [rows, cols]."""

    def matrices(self, layer: LayerSpec) -> list[IntArray]:
        """The curvature of each column block of a layer, as :data:`Curvature` gives it."""


class Operator(ABC):
    """A transformation of weights that is exact given public terms and curvature."""

    name: ClassVar[str]

    def on(self, device: str) -> Operator:
        """The same, computing on a device if it computes much, see `zkapex.unlearning.accelerator`."""
        return self

    def tolerances(self, statement: StatementSpec) -> tuple[int, int]:
        """What rounding may do to stationarity and guard in one chunk; nothing where there is neither."""
        return 0, 0

    @abstractmethod
    def change(self, weights: Mapping[str, IntArray], terms: Terms, curvature: Curvature, limit: int) -> Applied:
        """The weights that result, and the witness' multipliers.

        Parameters
        ----------
        weights : mapping of str to int64 [rows, cols]
        terms : Terms
        curvature : callable
            Asked for masked layers only, and only by operators that need curvature.
        limit : int
            Largest absolute value the circuit admits.
        """

    def apply(self, committed: Committed, instance: Instance) -> Applied:
        """`change` of committed weights on a request's terms."""
        return apply_terms(self, committed, Terms.of(instance))


def apply_terms(operator: Operator, committed: Committed, terms: Terms) -> Applied:
    """An operator on committed weights, on any terms.

    Raises
    ------
    RangeExceededError
        A result leaves the circuit's range.
    """
    manifest = committed.manifest
    layers = {layer.name: layer for layer in manifest.layers}
    return operator.change(
        committed.weights, terms, lambda name: committed.matrices(layers[name]), manifest.weight_limit
    )


@cache
def _solver(name: str) -> Operator:
    made: type[Operator] = named_object(declared(name).solver)
    return made()


def operator(name: str, device: str = CPU) -> Operator:
    """The operator called `name`, computing on a device if it is one that computes much.

    Raises
    ------
    ProtocolError
        Nothing that is installed here declares one of that name.
    InputError
        This machine has no such device.
    """
    torch_device(device)
    if name not in operator_names():
        raise ProtocolError(f"unknown operator {name!r}", why=f"installed here are {', '.join(operator_names())}")
    return _solver(name).on(device)

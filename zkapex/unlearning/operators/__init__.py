"""Unlearning operators by name: what a request asks for, and what the circuit of the same name proves.

An operator is a function of integer weights, the public terms of a request, and curvature. Devices apply it to the
weights they committed to, the provider to its own copies of the model: both through this module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import numpy as np

from zkapex.circuits.statement import FACTOR_UNIT
from zkapex.errors import ProtocolError
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.chunk.public import BoolArray, IntArray
from zkapex.proofs.messages import LayerSpec, ModelManifest
from zkapex.unlearning.accelerator import CPU, torch_device
from zkapex.unlearning.operators.group_obs import RangeExceededError, solve, solve_layer
from zkapex.unlearning.operators.targets import Held, Targets, nearest, solve_targets

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
        may be left out, and stay as they are but for the mask. For targeted-group-obs.
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
            one = Targets(start, cut, values * 2.0 ** -exponents[name])
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


@dataclass(frozen=True)
class GuardedGroupObs(Operator):
    """Zero the masked weights and repair each touched row with Group-OBS, steered along the guard (rank 0: plain).

    Attributes
    ----------
    device : str
        What to solve on, see `zkapex.unlearning.accelerator`.
    """

    name: ClassVar[str] = "guarded-group-obs"
    device: str = CPU

    def change(self, weights: Mapping[str, IntArray], terms: Terms, curvature: Curvature, limit: int) -> Applied:
        """See `Operator`. Raises RangeExceededError if a result leaves the circuit's range."""
        after = dict(weights)
        mu: dict[str, IntArray] = {}
        for name, mask in terms.masks.items():
            if mask.any():
                guards = terms.guards[name]
                steering = [terms.steering.get((name, block)) for block in range(len(guards))]
                solution = solve_layer(weights[name], mask, curvature(name), guards, limit, steering, self.device)
                after[name] = weights[name] + solution.delta
                mu[name] = solution.mu
        return after, mu


@dataclass(frozen=True)
class TargetedGroupObs(Operator):
    """Zero the masked weights, bring what is along the guard to the targets, and change the rest as little as possible.

    Blocks without targets are repaired as by plain Group-OBS.

    Attributes
    ----------
    device : str
        As in `GuardedGroupObs`.
    """

    name: ClassVar[str] = "targeted-group-obs"
    device: str = CPU

    def change(self, weights: Mapping[str, IntArray], terms: Terms, curvature: Curvature, limit: int) -> Applied:
        """See `Operator`. Raises RangeExceededError if a result leaves the circuit's range."""
        after = dict(weights)
        mu: dict[str, IntArray] = {}
        targeted = {name for name, _ in terms.targets}
        for name, theta in weights.items():
            mask = terms.masks.get(name, np.zeros(theta.shape, np.bool_))
            if name not in targeted and not mask.any():
                continue
            matrices, guards = curvature(name), terms.guards[name]
            width = matrices[0].shape[-1]
            padded = [np.pad(a, ((0, 0), (0, len(guards) * width - a.shape[1]))) for a in (theta, mask)]
            solutions = []
            for block, (h, v) in enumerate(zip(matrices, guards, strict=True)):
                own, hidden = (a[:, block * width : (block + 1) * width] for a in padded)
                targets = terms.targets.get((name, block))
                if targets is None:
                    solutions.append(solve(own, hidden, h, np.zeros_like(v), limit, None, self.device))
                else:
                    solutions.append(solve_targets(own, hidden, h, v, targets, limit, self.device))
            after[name] = theta + np.concatenate([s.delta for s in solutions], 1)[:, : theta.shape[1]]
            mu[name] = np.stack([s.mu for s in solutions])
        return after, mu


class ConstraintOnly(Operator):
    """Go to the nearest weights with the masked ones zero and the targets met; proved is only that they are.

    For weights that were held so in training (`zkapex.unlearning.operators.targets.Held`) that is rounding.
    """

    name = "constraint-only"

    def change(self, weights: Mapping[str, IntArray], terms: Terms, curvature: Curvature, limit: int) -> Applied:
        """See `Operator`. Raises RangeExceededError if a result leaves the circuit's range."""
        after = {n: np.where(terms.masks[n], 0, theta) if n in terms.masks else theta for n, theta in weights.items()}
        for (name, block), targets in terms.targets.items():
            v, theta = terms.guards[name][block], after[name]
            columns = slice(block * len(v), min((block + 1) * len(v), theta.shape[1]))
            mask = terms.masks.get(name, np.zeros(theta.shape, np.bool_))[:, columns]
            after[name] = theta.copy()
            after[name][:, columns] = nearest(theta[:, columns], mask, v[: mask.shape[1]], targets)
            if np.abs(after[name]).max() > limit:
                raise RangeExceededError(f"weights of {name!r} leave the circuit's range of {limit}")
        return after, {}


class MaskOnly(Operator):
    """Zero the masked weights and leave the rest as it is; proved is only the former, so weights may move meanwhile."""

    name = "mask-only"

    def change(self, weights: Mapping[str, IntArray], terms: Terms, curvature: Curvature, limit: int) -> Applied:
        """See `Operator`."""
        return {**weights, **{name: np.where(mask, 0, weights[name]) for name, mask in terms.masks.items()}}, {}


class Dampening(Operator):
    """Multiply the masked weights by the request's factors and round: selective synaptic dampening.

    Foster, Schoepf and Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening",
    AAAI 2024 (arXiv 2308.07707), equation 4.
    """

    name = "dampening"

    def change(self, weights: Mapping[str, IntArray], terms: Terms, curvature: Curvature, limit: int) -> Applied:
        """See `Operator`."""
        after = dict(weights)
        for name, mask in terms.masks.items():
            dampened = np.rint(weights[name] * terms.factors[name] / FACTOR_UNIT).astype(np.int64)
            after[name] = np.where(mask, dampened, weights[name])
        return after, {}


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


OPERATORS: dict[str, Operator] = {
    o.name: o for o in (GuardedGroupObs(), TargetedGroupObs(), ConstraintOnly(), MaskOnly(), Dampening())
}


def operator(name: str, device: str = CPU) -> Operator:
    """The operator called `name`, computing on a device if it is one that computes much.

    Raises
    ------
    ProtocolError
        This release has none of that name.
    InputError
        This machine has no such device.
    """
    torch_device(device)
    if name not in OPERATORS:
        raise ProtocolError(f"unknown operator {name!r}", why=f"this release has {', '.join(OPERATORS)}")
    found = OPERATORS[name]
    return replace(found, device=device) if isinstance(found, (GuardedGroupObs, TargetedGroupObs)) else found

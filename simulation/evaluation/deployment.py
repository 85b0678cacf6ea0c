"""The fixed point of one federation, so that what is evaluated is what would be proved: dequantised integers."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.circuits.encoding import exponent_for, quantise
from zkapex.errors import InputError
from zkapex.unlearning.curvature.factor import curvature_of
from zkapex.unlearning.operators import Terms, operator
from zkapex.unlearning.operators.group_obs import mask_only
from zkapex.unlearning.planning.search import FixedPoint
from zkapex.unlearning.weights import put_weight, weight_of

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Deployment:
    """Scales of the target layers, as the provider's manifest fixes them from the global model.

    Attributes
    ----------
    exponents : mapping of str to int
        Per target layer, log2 of its scale.
    encoding : FixedPoint
        The circuit, and how curvature and guard are encoded.
    """

    exponents: Mapping[str, int]
    encoding: FixedPoint

    @classmethod
    def of(cls, model: nn.Module, names: Sequence[str], encoding: FixedPoint) -> Deployment:
        """The deployment of a global model whose target layers are `names`."""
        limit = encoding.weight_limit
        return cls({name: exponent_for(weight_of(model, name), limit) for name in names}, encoding)

    @property
    def names(self) -> tuple[str, ...]:
        """Target layers."""
        return tuple(self.exponents)

    def encode(self, model: nn.Module) -> dict[str, IntArray]:
        """Integer weights [out, in] of every target layer. Raises InputError if one does not fit its scale."""
        limit = self.encoding.weight_limit
        return {name: quantise(weight_of(model, name), e, limit) for name, e in self.exponents.items()}

    def deploy(self, model: nn.Module) -> nn.Module:
        """A copy of a model whose target layers hold what integers can.

        A baseline may have moved weights beyond the scale that honest devices enrol with; such a layer gets the largest
        scale that it fits.

        Raises
        ------
        InputError
            A weight is not finite.
        """
        deployed = copy.deepcopy(model).eval()
        limit = self.encoding.weight_limit
        for name, wanted in self.exponents.items():
            values = weight_of(model, name)
            largest = float(np.abs(values).max())
            if not math.isfinite(largest):
                raise InputError(f"weights of layer {name!r} are not finite", why="the method diverged")
            exponent = wanted if largest * 2.0**wanted <= limit else math.floor(math.log2(limit / largest))
            put_weight(deployed, name, quantise(values, exponent, limit), exponent)
        return deployed

    def masked(self, model: nn.Module, masks: Mapping[str, BoolArray]) -> nn.Module:
        """A copy of a deployed model with the masked weights zero and nothing repaired."""
        weights = self.encode(model)
        return self._with(model, {n: theta + mask_only(theta, masks[n]).delta for n, theta in weights.items()})

    def unlearned(
        self, model: nn.Module, terms: Terms, calibration: torch.Tensor, name: str = "guarded-group-obs"
    ) -> nn.Module:
        """A copy of a deployed model after an operator; of guarded Group-OBS, guards of rank 0 make it the plain one.

        Parameters
        ----------
        model : nn.Module
            A `deploy`-ed model.
        terms : Terms
        calibration : tensor [n, ...]
            Inputs the curvature is taken from, if the circuit has one.
        name : str
            Of the operator.

        Raises
        ------
        RangeExceededError
            A result leaves the range of the circuit.
        """
        encoding = self.encoding
        curvature = curvature_of(model, self.names, calibration, encoding.curvature)
        weights, _ = operator(name).change(
            self.encode(model), terms, lambda name: [block.matrix for block in curvature[name]], encoding.weight_limit
        )
        return self._with(model, weights)

    def _with(self, model: nn.Module, weights: Mapping[str, IntArray]) -> nn.Module:
        changed = copy.deepcopy(model).eval()
        for name, theta in weights.items():
            put_weight(changed, name, theta, self.exponents[name])
        return changed

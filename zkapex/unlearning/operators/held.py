"""What a deletion leaves fixed in a model that is trained on: weights at zero, and components that are targets.

After every step of training the weights go back to the nearest ones that have both. Rounding those to integers is all
that then separates them from zeros and targets, so that a device can prove they are held (`constraint-only`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.errors import InputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Targets:
    """Targets of one column block at the scale of a model's own weights.

    Attributes
    ----------
    start : int
        First column of the block.
    directions : float64 [b, r]
        V, cut where the layer ends.
    values : float64 [rows, r]
        T.
    """

    start: int
    directions: FloatArray
    values: FloatArray


HeldTargets = Mapping[str, tuple[Targets, ...]]
"""By layer; blocks do not overlap."""


@dataclass(frozen=True)
class Held:
    """What a device that trains on holds: weights that stay zero, and components that stay what they are.

    Attributes
    ----------
    zero : mapping of str to bool [rows, cols]
        By layer.
    targets : mapping of str to tuple of Targets
        By layer; blocks do not overlap.
    """

    zero: Mapping[str, BoolArray] = field(default_factory=dict)
    targets: HeldTargets = field(default_factory=dict)

    def in_place(self, model: nn.Module) -> list[Holder]:
        """What brings a model's weights back to what is held, layer by layer.

        Raises
        ------
        InputError
            The model has no such layer, or one of another shape.
        """
        return [
            Holder(_weight_of(model, name), self.zero.get(name), self.targets.get(name, ()), name)
            for name in sorted({*self.zero, *self.targets})
        ]


class Holder:
    """Brings one weight back to what is held."""

    def __init__(self, weight: nn.Parameter, mask: BoolArray | None, targets: tuple[Targets, ...], name: str) -> None:
        shape = tuple(weight.shape)
        if mask is not None and mask.shape != shape:
            raise InputError(f"the mask of layer {name!r} must be bool {shape}, not {mask.shape}")
        self._weight = weight
        self._mask = None if mask is None else torch.from_numpy(mask)
        self._parts: list[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for one in targets:
            width = one.directions.shape[0]
            stop = one.start + width
            if len(one.values) != shape[0] or stop > shape[1]:
                raise InputError(f"the targets of layer {name!r} do not fit its shape {shape}")
            own = np.zeros((shape[0], width), np.bool_) if mask is None else mask[:, one.start : stop]
            back = projection(own, one.directions)
            v, wanted, inverse = (torch.from_numpy(array) for array in (one.directions, one.values, back))
            self._parts.append((slice(one.start, stop), v, wanted, inverse))

    @torch.no_grad()
    def hold(self) -> None:
        """Set the weight to the nearest one that has zeros and targets."""
        if self._mask is not None:
            self._weight.masked_fill_(self._mask, 0.0)
        for columns, v, wanted, back in self._parts:
            part = self._weight[:, columns].double()
            moved = part + torch.einsum("nbr,nr->nb", back, wanted - part @ v)
            self._weight[:, columns] = moved.to(self._weight.dtype)


def projection(mask: BoolArray, v: FloatArray) -> FloatArray:
    """``V_U (V_U^T V_U)^+`` of every row, float64 [rows, B, r]."""
    unmasked = (~mask)[:, :, None] * v
    gram = unmasked.transpose(0, 2, 1) @ unmasked
    result: FloatArray = unmasked @ np.linalg.pinv(gram, rcond=1e-10, hermitian=True)
    return result


def _weight_of(model: nn.Module, name: str) -> nn.Parameter:
    try:
        return model.get_parameter(f"{name}.weight")
    except AttributeError as error:
        raise InputError(f"something is held in layer {name!r}, which the model does not have") from error

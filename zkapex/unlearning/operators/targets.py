"""Targets: what every row of a column block must be along its guard after unlearning, whatever it was before.

Guarded Group-OBS prescribes the change along the guard V. A prescribed change is public, and whoever subtracts it has
the old component back. Here the result is prescribed instead. Per row, with S the masked and U the unmasked columns,

    minimise 1/2 d^T H d   subject to   d_S = -theta_S   and   V_U^T (theta + d)_U = t,

t public and the same for all clients. What theta had along V is not in t, and is gone with theta. This is guarded
Group-OBS (`zkapex.unlearning.operators.group_obs`) whose steering is each row's own ``c = t - V_U^T theta_U``, which
only its owner knows; so solution, multipliers and tolerances are the same. With nothing masked it is in closed form

    d = H^-1 V (V^T H^-1 V)^-1 (t - V^T theta).

A device that trains on holds mask and targets by going back to the nearest weights that have them after every step
(`Held`). Rounding those to integers is all that then separates them from the targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.errors import InputError
from zkapex.unlearning.accelerator import CPU
from zkapex.unlearning.operators.group_obs import Solution, solve_rows

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Key = tuple[str, int]


def solve_targets(
    theta_p: IntArray, mask: BoolArray, h: IntArray, v: IntArray, targets: IntArray, limit: int, device: str = CPU
) -> Solution:
    """Targeted Group-OBS on one column block; every row changes.

    Parameters
    ----------
    theta_p, mask, h, v, limit, device
        As in `zkapex.unlearning.operators.group_obs.solve`.
    targets : int64 array [rows, r]
        t of every row, at the scale of weights times ``v``.

    Raises
    ------
    InputError
        If shapes do not agree.
    RangeExceededError
        If a result exceeds ``limit``.
    """
    if targets.shape != (len(theta_p), v.shape[-1]):
        raise InputError(f"the targets have shape {targets.shape}, not {(len(theta_p), v.shape[-1])}")
    missing = targets - np.where(mask, 0, theta_p) @ v
    return solve_rows(theta_p, mask, h, v, limit, missing, np.arange(len(theta_p)), device)


def nearest(theta: IntArray, mask: BoolArray, v: IntArray, targets: IntArray) -> IntArray:
    """The nearest integer weights [rows, B] that are zero where masked and have these targets, up to rounding."""
    kept = np.where(mask, 0, theta).astype(np.float64)
    back = _projection(mask, v.astype(np.float64))
    missing = targets - kept @ v
    result: IntArray = np.rint(kept + np.einsum("nbr,nr->nb", back, missing)).astype(np.int64)
    return np.where(mask, 0, result)


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
    targets: Mapping[str, tuple[Targets, ...]] = field(default_factory=dict)

    def in_place(self, model: nn.Module) -> list[_Holder]:
        """What brings a model's weights back to what is held, layer by layer.

        Raises
        ------
        InputError
            The model has no such layer, or one of another shape.
        """
        return [
            _Holder(_weight_of(model, name), self.zero.get(name), self.targets.get(name, ()), name)
            for name in sorted({*self.zero, *self.targets})
        ]


class _Holder:
    """Brings one weight back to what is held."""

    def __init__(self, weight: nn.Parameter, mask: BoolArray | None, targets: tuple[Targets, ...], name: str) -> None:
        shape = tuple(weight.shape)
        if mask is not None and mask.shape != shape:
            raise InputError(f"the mask of layer {name!r} must be bool {shape}, not {mask.shape}")
        self._weight = weight
        self._mask = None if mask is None else torch.from_numpy(mask)
        self._parts = []
        for one in targets:
            width = one.directions.shape[0]
            stop = one.start + width
            if len(one.values) != shape[0] or stop > shape[1]:
                raise InputError(f"the targets of layer {name!r} do not fit its shape {shape}")
            own = np.zeros((shape[0], width), np.bool_) if mask is None else mask[:, one.start : stop]
            back = _projection(own, one.directions)
            self._parts.append((slice(one.start, stop), *map(torch.from_numpy, (one.directions, one.values, back))))

    @torch.no_grad()
    def hold(self) -> None:
        """Set the weight to the nearest one that has zeros and targets."""
        if self._mask is not None:
            self._weight.masked_fill_(self._mask, 0.0)
        for columns, v, wanted, back in self._parts:
            part = self._weight[:, columns].double()
            moved = part + torch.einsum("nbr,nr->nb", back, wanted - part @ v)
            self._weight[:, columns] = moved.to(self._weight.dtype)


def _projection(mask: BoolArray, v: FloatArray) -> FloatArray:
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

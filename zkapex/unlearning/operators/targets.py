"""Targets: what every row of a column block must be along its guard after unlearning, whatever it was before.

Guarded Group-OBS prescribes the change along the guard V. A prescribed change is public, and whoever subtracts it has
the old component back. Here the result is prescribed instead. Per row, with S the masked and U the unmasked columns,

    minimise 1/2 d^T H d   subject to   d_S = -theta_S   and   V_U^T (theta + d)_U = t,

t public and the same for all clients. What theta had along V is not in t, and is gone with theta. This is guarded
Group-OBS (`zkapex.unlearning.operators.group_obs`) whose steering is each row's own ``c = t - V_U^T theta_U``, which
only its owner knows; so solution, multipliers and tolerances are the same. With nothing masked it is in closed form

    d = H^-1 V (V^T H^-1 V)^-1 (t - V^T theta).

A device that trains on holds mask and targets (`zkapex.unlearning.operators.held`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zkapex.errors import InputError
from zkapex.unlearning.accelerator import CPU
from zkapex.unlearning.operators.group_obs import Solution, solve_rows
from zkapex.unlearning.operators.held import projection

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


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
    missing: IntArray = targets - np.where(mask, 0, theta_p).astype(np.int64) @ v
    return solve_rows(theta_p, mask, h, v, limit, missing, np.arange(len(theta_p)), device)


def nearest(theta: IntArray, mask: BoolArray, v: IntArray, targets: IntArray) -> IntArray:
    """The nearest integer weights [rows, B] that are zero where masked and have these targets, up to rounding."""
    kept = np.where(mask, 0, theta).astype(np.float64)
    back = projection(mask, v.astype(np.float64))
    missing = targets - kept @ v
    result: IntArray = np.rint(kept + np.einsum("nbr,nr->nb", back, missing)).astype(np.int64)
    return np.where(mask, 0, result)

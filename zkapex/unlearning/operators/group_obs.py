"""Guarded Group-OBS: the change that zeroes masked weights and disturbs the layer's outputs least, in integers.

Per row of a column block, with S the masked and U the unmasked columns, ``u`` the indicator of U:

    minimise 1/2 d^T H d   subject to   d_S = -theta_S   and   V^T (u * d) = c.

Its Karush-Kuhn-Tucker conditions are ``(H d - V mu)_U = 0``. The first constraint is Group-OBS (ZK-APEX,
arXiv 2512.09953; Optimal Brain Surgeon for a group of weights). The second keeps the repair out of the directions the
forget set's gradient lives in, or with steering c, which is public and differs by row, moves it along them by as much
as the provider prescribes. Rows without a masked weight do not change.

Everything goes in and comes out as integers. The solution is rounded, so both conditions hold up to rounding only;
`tolerances` says how far honest rounding can be off, `zkapex.proofs.chunk.witness.square_sums` how far a given one is.

In between is float64 in torch, the same code on the processor and on an accelerator. Devices may differ in the last
bits of what is rounded, so that once in a long while an integer differs by one: the tolerances hold for either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from zkapex.errors import InputError, ProverError
from zkapex.unlearning.accelerator import CPU, torch_device

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_RANK_TOLERANCE = 1e-10
_BATCH_BYTES, _ACCELERATOR_BATCH_BYTES = 8 << 20, 256 << 20
"""Of the systems, one [B, B] per row, that are held at once. What fits a cache is solved fastest; an accelerator has
none to speak of and wants many rows."""


class RangeExceededError(ProverError):
    """The operator's result does not fit the range of integers the circuit admits."""


@dataclass(frozen=True)
class Solution:
    """The change of one column block.

    Attributes
    ----------
    delta : int64 array [rows, B]
        theta_u - theta_p; exactly ``-theta_p`` where masked.
    mu : int64 array [rows, r]
        Multipliers of the guard; 0 in rows that do not change.
    """

    delta: IntArray
    mu: IntArray


@dataclass(frozen=True)
class LayerSolution:
    """The change of a whole layer: ``delta`` int64 [out, in] and ``mu`` int64 [blocks, out, r]."""

    delta: IntArray
    mu: IntArray


def solve(
    theta_p: IntArray,
    mask: BoolArray,
    h: IntArray,
    v: IntArray,
    limit: int,
    steering: IntArray | None = None,
    device: str = CPU,
) -> Solution:
    """Guarded Group-OBS on one column block.

    Parameters
    ----------
    theta_p : int64 array [rows, B]
        Personalised weights at the layer's scale.
    mask : bool array [rows, B]
        True where the weight is to be zero.
    h : int64 array [B, B], or [rows, B, B] with one per row
        Encoded curvature, positive definite.
    v : int64 array [B, r]
        Encoded guard; r = 0 is plain Group-OBS. Zero columns and linear dependence are allowed.
    limit : int
        Largest absolute value of theta_u, delta and mu the circuit admits.
    steering : int64 array [rows, r], optional
        c of every row, at the scale of weights times ``v``; only that of rows with a masked weight is looked at.
    device : str
        What to solve on, see `zkapex.unlearning.accelerator`.

    Raises
    ------
    InputError
        If shapes do not agree, or there is no such device.
    RangeExceededError
        If a result exceeds ``limit``.
    """
    _check_shapes(theta_p, mask, h, v)
    if steering is None:
        steering = np.zeros((len(theta_p), v.shape[1]), np.int64)
    if steering.shape != (len(theta_p), v.shape[1]):
        raise InputError(f"the steering has shape {steering.shape}, not {(len(theta_p), v.shape[1])}")
    return solve_rows(theta_p, mask, h, v, limit, steering, np.flatnonzero(mask.any(1)), device)


def solve_rows(
    theta_p: IntArray,
    mask: BoolArray,
    h: IntArray,
    v: IntArray,
    limit: int,
    steering: IntArray,
    which: IntArray,
    device: str = CPU,
) -> Solution:
    """`solve` of these rows, whether or not anything is masked in them; the others do not change.

    Parameters and errors as in `solve`; `which` int64 [n] are numbers of rows.
    """
    _check_shapes(theta_p, mask, h, v)
    delta, mu = np.zeros_like(theta_p), np.zeros((len(theta_p), v.shape[1]), np.int64)
    on = torch_device(device)
    vd = _doubles(v, on)
    for rows, masked, own, change, push in _responses(theta_p, mask, h, vd, which, on):
        moved = torch.round(change + (push @ _doubles(steering[rows], on)[:, :, None])[:, :, 0])
        delta[rows] = _integers(moved)
        mu[rows] = _integers(_multipliers(moved, masked, own, vd))
    _check_range(theta_p, delta, mu, limit)
    return Solution(delta, mu)


def mask_only(theta_p: IntArray, mask: BoolArray, guard_rank: int = 0) -> Solution:
    """Zero the masked weights and repair nothing: ``delta`` [rows, B] and an all-zero ``mu`` [rows, guard_rank]."""
    if theta_p.shape != mask.shape:
        raise InputError(f"weights {theta_p.shape} and mask {mask.shape} differ in shape")
    return Solution(np.where(mask, -theta_p, 0).astype(np.int64), np.zeros((len(theta_p), guard_rank), np.int64))


def solve_layer(
    theta_p: IntArray,
    mask: BoolArray,
    curvature: Sequence[IntArray],
    guard: Sequence[IntArray],
    limit: int,
    steering: Sequence[IntArray | None] | None = None,
    device: str = CPU,
) -> LayerSolution:
    """`solve` on every column block of a layer.

    Rows are independent, so any band of rows of the result is what `solve` gives for that band.

    Parameters
    ----------
    theta_p, mask : int64, bool array [out, in]
        Unpadded.
    curvature, guard : sequence of int64 arrays [B, B] (or [out, B, B]), [B, r]
        One per column block, the last padded to B.
    limit, device
        As in `solve`.
    steering : sequence of int64 arrays [out, r] or None, optional
        One per column block.

    Raises
    ------
    InputError, RangeExceededError
        As `solve`; also if the number of blocks does not fit.
    """
    if theta_p.shape != mask.shape or theta_p.ndim != 2:
        raise InputError(f"weights {theta_p.shape} and mask {mask.shape} are not matrices of one shape")
    width = curvature[0].shape[-1] if curvature else 0
    blocks = -(-theta_p.shape[1] // width) if width else 0
    steering = steering or [None] * blocks
    if not blocks == len(curvature) == len(guard) == len(steering):
        raise InputError(
            f"{theta_p.shape[1]} columns in blocks of {width} need {blocks} curvature matrices and guards",
            why=f"got {len(curvature)} and {len(guard)}, and {len(steering)} of steering",
        )
    pad = ((0, 0), (0, blocks * width - theta_p.shape[1]))
    theta_padded, mask_padded = np.pad(theta_p, pad), np.pad(mask, pad)
    solutions = [
        solve(theta_padded[:, start : start + width], mask_padded[:, start : start + width], h, v, limit, c, device)
        for start, h, v, c in zip(range(0, blocks * width, width), curvature, guard, steering, strict=True)
    ]
    delta = np.concatenate([s.delta for s in solutions], 1)[:, : theta_p.shape[1]]
    return LayerSolution(delta, np.stack([s.mu for s in solutions]))


def response(
    theta_p: IntArray, mask: BoolArray, h: IntArray, v: IntArray, device: str = CPU
) -> tuple[FloatArray, FloatArray]:
    """How rows that each have a masked weight change without steering, and by how much more for each unit of it.

    Parameters
    ----------
    theta_p, mask, h, v, device
        As in `solve`.

    Returns
    -------
    float64 arrays [rows, B] and [rows, B, r]
        ``change`` and ``push``: with steering c the exact change is ``change + push @ c``.

    Raises
    ------
    InputError
        As `solve`.
    """
    _check_shapes(theta_p, mask, h, v)
    on = torch_device(device)
    change, push = np.zeros(theta_p.shape), np.zeros((*theta_p.shape, v.shape[1]))
    for rows, _, _, *parts in _responses(theta_p, mask, h, _doubles(v, on), np.arange(len(theta_p)), on):
        change[rows], push[rows] = (part.numpy(force=True) for part in parts)
    return change, push


def _responses(
    theta_p: IntArray, mask: BoolArray, h: IntArray, v: torch.Tensor, rows: IntArray, on: torch.device
) -> Iterator[tuple[IntArray, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Of these rows, as many at a time as memory allows: their numbers, mask, curvature, and what `_response` gives."""
    shared = _doubles(h, on) if h.ndim == 2 else None
    for batch in _batches(rows, h.shape[-1], on):
        theta, masked = _doubles(theta_p[batch], on), torch.from_numpy(mask[batch]).to(on)
        own = _doubles(h[batch], on) if shared is None else shared
        yield batch, masked, own, *_response(theta, masked, own, v)


def _response(
    theta_p: torch.Tensor, mask: torch.Tensor, h: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `response`; all float64 on one device, but for the mask."""
    u = (~mask).double()
    fixed = torch.where(mask, -theta_p, 0.0)
    # One regular system per row: H on U x U, the identity on S x S.
    system = (h * u[:, :, None]).mul_(u[:, None, :])
    system.diagonal(dim1=-2, dim2=-1).add_(mask)
    vu = u[:, :, None] * v
    # It is symmetric, and transposed it lies in memory as LAPACK wants it: that saves a copy, a quarter of the time.
    solved = torch.linalg.solve(system.mT, torch.cat([(-u * _times(fixed, h))[:, :, None], vu], 2))
    free, z = solved[:, :, 0], solved[:, :, 1:]
    if not v.shape[1]:
        return fixed + u * free, z
    # Move along H_UU^-1 V_U until V_U^T d = c; dependent or vanished guard columns drop out of the pseudo-inverse.
    push = z @ _pseudo_inverse(vu.mT @ z)
    free = free - (push @ (vu.mT @ free[:, :, None]))[:, :, 0]
    return fixed + u * free, u[:, :, None] * push


def _multipliers(delta: torch.Tensor, mask: torch.Tensor, h: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Rounded least-squares mu [n, r] for ``(delta H)_U ~ V_U mu``."""
    if not v.shape[1]:
        return delta.new_zeros(len(delta), 0)
    vu = (~mask).double()[:, :, None] * v
    fitted = _pseudo_inverse(vu.mT @ vu) @ (vu.mT @ _times(delta, h)[:, :, None])
    return torch.round(fitted[:, :, 0])


def _times(rows: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Each row [n, B] times the curvature [B, B], or its own [n, B, B]."""
    return rows @ h if h.ndim == 2 else (rows[:, None, :] @ h)[:, 0, :]


def _pseudo_inverse(gram: torch.Tensor) -> torch.Tensor:
    """Pseudo-inverse of symmetric positive semidefinite matrices [n, r, r]."""
    values, vectors = torch.linalg.eigh(gram)
    floor = _RANK_TOLERANCE * values[:, -1:].clamp(min=torch.finfo(torch.float64).tiny)
    inverse = torch.where(values > floor, 1.0 / values, 0.0)
    result: torch.Tensor = (vectors * inverse[:, None, :]) @ vectors.mT
    return result


def _batches(rows: IntArray, width: int, on: torch.device) -> Iterator[IntArray]:
    """Runs of row numbers whose systems [width, width] fit the memory that may be held at once."""
    held = _BATCH_BYTES if on.type == CPU else _ACCELERATOR_BATCH_BYTES
    size = max(1, held // (8 * width * width))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _doubles(values: IntArray, on: torch.device) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float64)).to(on)


def _integers(values: torch.Tensor) -> IntArray:
    result: IntArray = values.numpy(force=True).astype(np.int64)
    return result


def _largest(values: IntArray) -> int:
    return int(np.abs(values).max(initial=0))


def _check_shapes(theta: IntArray, mask: BoolArray, h: IntArray, v: IntArray) -> None:
    width = h.shape[-1]
    shared = h.shape == (width, width) or h.shape == (len(theta), width, width)
    if theta.ndim != 2 or theta.shape != mask.shape or theta.shape[1] != width or not shared:
        raise InputError(f"weights {theta.shape}, mask {mask.shape} and curvature {h.shape} do not fit each other")
    if v.ndim != 2 or v.shape[0] != width:
        raise InputError(f"the guard has shape {v.shape}, not ({width}, rank)")


def _check_range(theta_p: IntArray, delta: IntArray, mu: IntArray, limit: int) -> None:
    for name, values in (("theta_u", theta_p + delta), ("delta", delta), ("mu", mu)):
        if _largest(values) > limit:
            raise RangeExceededError(
                f"{name} reaches {_largest(values)}, but the circuit admits at most {limit}",
                why="the mask leaves the guard too few weights, or the weights are encoded at too fine a scale",
                fix="use a smaller mask or guard rank, a smaller exponent, or a profile with a larger weight limit",
            )

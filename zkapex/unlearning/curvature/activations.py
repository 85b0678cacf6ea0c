"""Activations to commit to, for the proof that a curvature factor is their second moment.

The circuit has room for n of them (`StatementSpec.rows_per_chunk`), and a model sees many more. With all of them in
the curvature and n in the proof, the two differ by sampling error; with the same n in both, by encoding alone
(``docs/security.md`` has what was measured). So curvature that is to be proved is taken from the n that are committed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.circuits.statement import StatementSpec
from zkapex.errors import InputError
from zkapex.unlearning.curvature.moments import visit_inputs

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SCALE = 1024
"""The scale c that is used unless an activation would leave the lookup's range. Larger ones round activations less, and
leave tolerances less room in the circuit; at 1024 the curvature's own rounding dominates."""


@dataclass(frozen=True)
class EncodedActivations:
    """Activations of one column block as the circuit sees them.

    Attributes
    ----------
    values : int64 array [n, B]
        X; unused rows are zero.
    scale : int
        c, such that ``X^T X`` is close to ``c F^T F``.
    per_mille : int
        The least tolerance that holds, see `zkapex.proofs.chunk.second_moment`; more than 1000 cannot be proved.
    """

    values: IntArray
    scale: int
    per_mille: int


def sample_activations(
    model: nn.Module, names: Sequence[str], inputs: torch.Tensor, block_width: int, count: int, seed: int
) -> dict[str, FloatArray]:
    """`count` token inputs of each named linear layer, drawn uniformly without replacement, or all if there are fewer.

    Parameters
    ----------
    model, names, inputs, block_width
        As in `zkapex.unlearning.curvature.moments.visit_inputs`.
    count : int
        At most this many rows.
    seed : int
        From the provider's nonce: a device then does not pick which of its activations count. Nothing proves that it
        has not.

    Returns
    -------
    dict of str to float64 array [blocks, count, B]

    Raises
    ------
    InputError
        As `visit_inputs`, or if `count` is not positive.
    """
    if count < 1:
        raise InputError(f"{count} activations are no sample")
    # The tokens with the smallest of independent random keys are a uniform sample, and one pass in batches finds them.
    generators = {name: np.random.default_rng([seed, i]) for i, name in enumerate(names)}
    keys: dict[str, FloatArray] = {name: np.empty(0) for name in names}
    kept: dict[str, list[FloatArray]] = {name: [] for name in names}

    def record(name: str, blocks: FloatArray) -> None:
        joined = np.concatenate([keys[name], generators[name].random(len(blocks))])
        best = np.sort(np.argsort(joined, kind="stable")[:count])
        rows = np.concatenate([*kept[name], blocks])
        keys[name], kept[name] = joined[best], [rows[best]]

    visit_inputs(model, names, inputs, block_width, record)
    return {name: np.ascontiguousarray(kept[name][0].transpose(1, 0, 2)) for name in names}


def encode_activations(
    activations: FloatArray, factor: IntArray, spec: StatementSpec, kappa: int
) -> EncodedActivations:
    """Activations as integers, at the scale at which their second moment is closest to a multiple of ``F^T F``.

    Parameters
    ----------
    activations : float64 array [m, B]
        m is at most the n of the statement.
    factor : int64 array [q, B]
        F.
    kappa : int
        log2 of the largest Frobenius norm of a curvature matrix, which the tolerance is relative to.

    Raises
    ------
    InputError
        If shapes do not fit the statement, or a value is not finite.
    """
    rows, width = spec.rows_per_chunk, spec.block_width
    if activations.ndim != 2 or activations.shape[1] != width or not 0 < len(activations) <= rows:
        raise InputError(f"activations of shape {activations.shape} do not fit a statement of {(rows, width)}")
    if factor.shape != spec.factor_shape or not np.isfinite(activations).all():
        raise InputError("the curvature factor does not fit the statement, or an activation is not finite")
    curvature = factor.T @ factor
    largest = float(np.abs(activations).max()) or 1.0
    unit = activations / largest
    moment = unit.T @ unit
    ratio = float((curvature * moment).sum()) / (float((moment**2).sum()) or 1.0)
    scale = SCALE
    if scale * ratio > spec.weight_limit**2:
        scale = max(1, math.floor(spec.weight_limit**2 / ratio))
    values = np.zeros((rows, width), np.int64)
    values[: len(unit)] = np.rint(np.sqrt(min(scale * ratio, spec.weight_limit**2)) * unit).astype(np.int64)
    residual = scale * curvature - values.T @ values
    total = sum(v * v for v in residual.ravel().tolist())
    least = -(-total * 1000**2 // (scale**2 << 2 * kappa))
    return EncodedActivations(values, scale, math.isqrt(max(least - 1, 0)) + 1)

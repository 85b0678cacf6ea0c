"""Fixed point: a layer's weights as integers at a power-of-two scale."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from zkapex.errors import InputError

HEADROOM = 4.0
"""The provider scales a layer so that its largest weight is at most ``limit / HEADROOM``: personalisation and
compensation may move weights away from the global ones, and delta must fit as well."""


def exponent_for(weights: npt.NDArray[np.floating], limit: int) -> int:
    """The largest e such that ``max|weights| * 2**e <= limit / HEADROOM``.

    Raises
    ------
    InputError
        If a weight is not finite.
    """
    largest = float(np.abs(weights).max(initial=0.0))
    if not math.isfinite(largest):
        raise InputError("a layer's weights are not finite", fix="train the model again with a smaller learning rate")
    if largest == 0.0:
        return 0
    return min(math.floor(math.log2(limit / HEADROOM / largest)), 64)


def quantise(weights: npt.NDArray[np.floating], exponent: int, limit: int) -> npt.NDArray[np.int64]:
    """``round(weights * 2**exponent)`` as int64 of the same shape.

    Raises
    ------
    InputError
        If a result exceeds `limit` in absolute value or is not finite.
    """
    scaled = np.rint(np.asarray(weights, dtype=np.float64) * 2.0**exponent)
    largest = float(np.abs(scaled).max(initial=0.0))
    if not largest <= limit:
        raise InputError(
            f"a weight becomes {largest:g} at scale 2^{exponent}, above the circuit's limit of {limit}",
            why="the personalised weights have moved far from the global ones",
            fix="personalise with a smaller learning rate, or use a smaller exponent for the layer",
        )
    return scaled.astype(np.int64)


def dequantise(values: npt.NDArray[np.int64], exponent: int) -> npt.NDArray[np.float32]:
    """The weights the integers stand for, float32 (exact: integers below 2^24 times a power of two)."""
    return (values.astype(np.float64) * 2.0**-exponent).astype(np.float32)

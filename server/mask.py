"""Public masks: which weights a request zeroes, chosen over all target layers at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from zkapex.errors import InputError

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


def top_fraction(scores: Mapping[str, FloatArray], fraction: float) -> dict[str, BoolArray]:
    """Mask the ``round(fraction * n)`` highest of the n scores of all layers together, at least one.

    Ties are broken by position (layers in the mapping's order, row-major), so that the count is exact and everybody
    who knows the scores gets the same mask.

    Parameters
    ----------
    scores : mapping of str to float64 array [out, in]
    fraction : float
        In (0, 1].

    Returns
    -------
    dict of str to bool array [out, in]

    Raises
    ------
    InputError
        If the fraction is out of range, there are no scores, or one is not a number.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"a mask fraction must be above 0 and at most 1, not {fraction}")
    if not scores:
        raise InputError("there is no layer to mask")
    flat = np.concatenate([s.ravel() for s in scores.values()])
    if np.isnan(flat).any():
        raise InputError("a saliency score is not a number", why="the model's loss or gradient overflowed")
    chosen = np.zeros(len(flat), np.bool_)
    chosen[np.argsort(-flat, kind="stable")[: max(1, round(fraction * len(flat)))]] = True
    masks, start = {}, 0
    for name, score in scores.items():
        masks[name] = chosen[start : start + score.size].reshape(score.shape)
        start += score.size
    return masks

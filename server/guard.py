"""Guards: the directions in a layer's input through which the forget set acts, and which a repair must not use."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zkapex.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: Singular values below this share of the largest carry no direction, only rounding noise.
_RANK_TOLERANCE = 1e-9


def guard_blocks(gradient: FloatArray, block_width: int, rank: int, guard_bits: int) -> tuple[IntArray, ...]:
    """Per column block, the top right-singular vectors of the mean forget gradient restricted to the block.

    A change d of a row changes the forget loss by ``g_row . d`` to first order; the rows of the gradient live, up to
    the singular values left out, in the span of these vectors, so ``V^T d = 0`` leaves the loss alone.

    Parameters
    ----------
    gradient : float64 array [out, in]
        Mean gradient of the loss on the forget set.
    block_width : int
        B.
    rank : int
        Columns r of each guard. Directions the gradient does not have are zero columns.
    guard_bits : int
        The orthonormal columns are scaled by ``2**guard_bits`` and rounded.

    Returns
    -------
    tuple of int64 arrays [B, r]
        One per column block; rows beyond the layer's last column are zero.

    Raises
    ------
    InputError
        If a size is out of range or the gradient is not finite.
    """
    if gradient.ndim != 2 or not np.isfinite(gradient).all():
        raise InputError("a guard needs a finite gradient matrix")
    if block_width < 1 or not 0 <= rank <= block_width or not 0 <= guard_bits <= 24:
        raise InputError(f"no guard of rank {rank} and {guard_bits} bits fits blocks of {block_width}")
    blocks = []
    for start in range(0, gradient.shape[1], block_width):
        guard = np.zeros((block_width, rank))
        part = gradient[:, start : start + block_width]
        _, values, vt = np.linalg.svd(part, full_matrices=False)
        found = min(rank, int((values > _RANK_TOLERANCE * max(values[0], np.finfo(np.float64).tiny)).sum()))
        vectors = vt[:found].T
        # Singular vectors have no sign of their own: make the largest entry positive, so that guards are reproducible.
        signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(found)])
        guard[: part.shape[1], :found] = vectors * signs
        blocks.append(np.rint(guard * 2.0**guard_bits).astype(np.int64))
    return tuple(blocks)

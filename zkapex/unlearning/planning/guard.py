"""Guards: the directions in a layer's input through which the forget set acts, and which a repair must not use.

A change d of a row changes the forget loss by ``g_row . d`` to first order. The rows of the mean forget gradient of a
column block live, up to the singular values left out, in the span of its top right-singular vectors V, so requiring
``V^T d = 0`` of the repair leaves the loss to what zeroing the masked weights made of it. As weights are zeroed the
gradient turns; a guard can therefore be built from several gradients, through the sum of their Gram matrices.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zkapex.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: Eigenvalues below this share of the largest carry no direction, only rounding noise.
_RANK_TOLERANCE = 1e-12


def gradient_gram(gradient: FloatArray, block_width: int) -> FloatArray:
    """``G^T G / |G|^2`` of every column block G of a mean forget gradient, ``|G|`` being the whole layer's norm.

    Normalised, so that gradients taken at different models weigh the same in a sum.

    Parameters
    ----------
    gradient : float64 array [out, in]
    block_width : int
        B. The last block is padded with zeros.

    Returns
    -------
    float64 array [blocks, B, B]

    Raises
    ------
    InputError
        If the gradient is not a finite matrix.
    """
    if gradient.ndim != 2 or not np.isfinite(gradient).all() or block_width < 1:
        raise InputError("a guard needs a finite gradient matrix and a positive block width")
    blocks = -(-gradient.shape[1] // block_width)
    padded = np.pad(gradient, ((0, 0), (0, blocks * block_width - gradient.shape[1])))
    columns = padded.reshape(-1, blocks, block_width).transpose(1, 2, 0)
    total = max(float(np.square(gradient).sum()), np.finfo(np.float64).tiny)
    gram: FloatArray = columns @ columns.transpose(0, 2, 1) / total
    return gram


def guard_blocks(gram: FloatArray, rank: int, guard_bits: int) -> tuple[IntArray, ...]:
    """Encode the top eigenvectors of each block's Gram matrix: the gradients' top right-singular vectors.

    Parameters
    ----------
    gram : float64 array [blocks, B, B]
        A `gradient_gram` or a sum of them.
    rank : int
        Columns r of each guard. Directions the gradients do not have are zero columns.
    guard_bits : int
        The orthonormal columns are scaled by ``2**guard_bits`` and rounded.

    Returns
    -------
    tuple of int64 arrays [B, r]
        One per column block.

    Raises
    ------
    InputError
        If a size is out of range.
    """
    width = gram.shape[-1]
    if gram.ndim != 3 or not 0 <= rank <= width or not 0 <= guard_bits <= 24:
        raise InputError(f"no guard of rank {rank} and {guard_bits} bits fits blocks of {width}")
    blocks = []
    for block in gram:
        values, vectors = np.linalg.eigh(block)
        guard = vectors[:, ::-1][:, :rank].copy()
        strength = values[::-1][:rank]
        guard[:, strength <= _RANK_TOLERANCE * max(float(values[-1]), np.finfo(np.float64).tiny)] = 0.0
        # Eigenvectors have no sign of their own: make the largest entry positive, so that guards are reproducible.
        guard *= np.sign(guard[np.abs(guard).argmax(0), np.arange(rank)])
        blocks.append(np.rint(guard * 2.0**guard_bits).astype(np.int64))
    return tuple(blocks)

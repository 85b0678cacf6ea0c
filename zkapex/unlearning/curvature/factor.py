"""Curvature in fixed point: ``H = F^T F + ridge I`` with an integer factor F, positive definite whatever F is.

The exact curvature is a second moment M of one column block (`zkapex.unlearning.curvature.moments`), damped: ``M /
mean(diag) + damping I``. Stationarity is homogeneous in it, so its scale s is free. F holds the leading q eigenvectors
of M, each times ``sqrt(s * eigenvalue)``, rounded; ridge is a constant of the statement, so s decides the relative
damping ``ridge / s``. It is the largest s for which

* the damping is at least the one asked for, and at least the mean of the eigenvalues that F leaves out;
* the Frobenius norm of H is at most ``2**kappa``, from which the tolerance of the proof follows
  (`zkapex.unlearning.operators.group_obs.tolerances`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.circuits.statement import StatementSpec
from zkapex.errors import InputError
from zkapex.unlearning.curvature.moments import fisher_moments, weighted_moments

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: Relative damping asked for. On the digits 0.01 to 0.1 repair personal accuracy alike and 0.3 visibly less.
DAMPING = 0.03
#: log2 of the largest Frobenius norm of an encoded curvature matrix.
KAPPA = 15
_SHRINK = 0.99


class CurvatureError(InputError):
    """A curvature matrix cannot be encoded: not symmetric, not finite, or no room for it above the ridge."""


@dataclass(frozen=True)
class CurvatureEncoding:
    """How curvature is encoded.

    Attributes
    ----------
    kind : str
        ``kfac`` or ``block-fisher``.
    block_width, rank, ridge : int
        B, q and ridge of the statement.
    kappa : int
        log2 of the largest Frobenius norm of H.
    damping : float
        Relative damping asked for.
    """

    kind: str
    block_width: int
    rank: int
    ridge: int
    kappa: int = KAPPA
    damping: float = DAMPING

    @classmethod
    def of(cls, statement: StatementSpec, kappa: int = KAPPA) -> CurvatureEncoding:
        """The encoding a statement wants."""
        return cls(statement.curvature, statement.block_width, statement.curvature_rank, statement.ridge, kappa)


@dataclass(frozen=True)
class EncodedCurvature:
    """Curvature of one column block as the circuit sees it.

    Attributes
    ----------
    factor : int64 array [q, B], or [rows, q, B] with one per row
    ridge : int
    damping : float
        Relative damping that resulted, the largest over rows.
    """

    factor: IntArray
    ridge: int
    damping: float

    @property
    def matrix(self) -> IntArray:
        """``F^T F + ridge I``, int64 [B, B] or [rows, B, B]: exactly symmetric, no eigenvalue below the ridge."""
        identity = np.eye(self.factor.shape[-1], dtype=np.int64)
        product: IntArray = np.swapaxes(self.factor, -1, -2) @ self.factor + self.ridge * identity
        return product


def curvature_of(
    model: nn.Module, names: Sequence[str], inputs: torch.Tensor, encoding: CurvatureEncoding
) -> dict[str, tuple[EncodedCurvature, ...]]:
    """Encoded curvature of every column block of the named layers, from the model's inputs ``[n, ...]``.

    Raises
    ------
    InputError, CurvatureError
        As `zkapex.unlearning.curvature.moments.weighted_moments` and `encode`.
    """
    find = weighted_moments if encoding.kind == "kfac" else fisher_moments
    width = encoding.block_width
    result = {}
    for name, blocks in find(model, names, inputs, width).items():
        total = int(model.get_parameter(f"{name}.weight").shape[1])
        result[name] = tuple(encode(m, min(width, total - i * width), encoding) for i, m in enumerate(blocks))
    return result


def encode(moments: FloatArray, columns: int, encoding: CurvatureEncoding) -> EncodedCurvature:
    """The integer factor of one column block's second moments.

    Parameters
    ----------
    moments : float64 array [B, B], or [rows, B, B] with one per row
        Positive semidefinite.
    columns : int
        Columns that are not padding; only they count for means, and padded ones get the ridge alone. A block without
        any signal gets the ridge alone as well.

    Raises
    ------
    CurvatureError
        If the moments are not finite and symmetric, damping is not positive, or the ridge leaves no room below kappa.
    """
    width, ridge = encoding.block_width, encoding.ridge
    stack = np.atleast_3d(moments.T).T if moments.ndim == 2 else moments
    if stack.shape[1:] != (width, width) or not np.isfinite(stack).all() or not 0 < columns <= width:
        raise CurvatureError(f"not finite square matrices over {columns} columns: shape {moments.shape}")
    if not np.allclose(stack, np.swapaxes(stack, 1, 2), rtol=1e-9, atol=0):
        raise CurvatureError("second moments must be symmetric")
    if not encoding.damping > 0:
        raise CurvatureError(f"damping must be positive, not {encoding.damping}")
    if width * ridge**2 >= 4**encoding.kappa:
        raise CurvatureError(f"a ridge of {ridge} on {width} columns leaves no room below 2^{encoding.kappa}")
    real = np.zeros((len(stack), width, width))
    real[:, :columns, :columns] = stack[:, :columns, :columns]
    mean = np.trace(real, axis1=1, axis2=2) / columns
    values, vectors = np.linalg.eigh(real / np.where(mean > 0, mean, 1.0)[:, None, None])
    order = slice(None, -1 - min(encoding.rank, width), -1)
    kept, vectors = np.maximum(values[:, order], 0.0), vectors[:, :, order]
    left_out = np.maximum(values[:, : width - kept.shape[1]], 0.0).sum(1) / max(columns - encoding.rank, 1)
    scale = np.minimum(ridge / np.maximum(encoding.damping, left_out), _largest_scale(kept, encoding))
    factor = np.zeros((len(stack), encoding.rank, width), np.int64)
    todo = np.arange(len(stack))
    while todo.size:
        roots = np.sqrt(scale[todo, None] * kept[todo])
        factor[todo, : kept.shape[1]] = np.rint(roots[:, :, None] * np.swapaxes(vectors[todo], 1, 2)).astype(np.int64)
        encoded = EncodedCurvature(factor[todo], ridge, 0.0).matrix.astype(np.float64)
        todo = todo[np.linalg.norm(encoded, axis=(1, 2)) > 2.0**encoding.kappa]
        scale[todo] *= _SHRINK
    damping = float((ridge / scale).max())
    return EncodedCurvature(factor[0] if moments.ndim == 2 else factor, ridge, damping)


def _largest_scale(values: FloatArray, encoding: CurvatureEncoding) -> FloatArray:
    """The s [n] at which ``|s M_q + ridge I|_F = 2**kappa``, for eigenvalues [n, q] of M_q: a quadratic equation."""
    a, b = (values**2).sum(1), encoding.ridge * values.sum(1)
    c = 4.0**encoding.kappa - encoding.block_width * float(encoding.ridge) ** 2
    # In the form that does not cancel; where a and b vanish, any scale will do.
    root = b + np.sqrt(b**2 + a * c)
    return np.where(root > 0, c / np.where(root > 0, root, 1.0), np.inf)

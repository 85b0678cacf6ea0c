"""How the integers of a layer are laid out in rows, and what a state of a layer is."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from zkapex.circuits.transparent.code import code_of
from zkapex.circuits.transparent.field import Array, Integers, prod
from zkapex.circuits.transparent.iop import Commitment, padded
from zkapex.circuits.transparent.merkle import DIGEST, Tree
from zkapex.circuits.transparent.params import MAX_LOG2_K, Parameters
from zkapex.circuits.transparent.transcript import Secret

if TYPE_CHECKING:
    from zkapex.circuits.statement import StatementSpec

STATE = "state"
S = TypeVar("S", bound=np.generic)
KAPPA, GUARD_BITS = 15, 13
"""log2 of the largest Frobenius norm of an encoded curvature, and of the norm of the encoded guard's columns."""
MAX_WEIGHTS = 1 << 28
"""Of one layer; a verifier allocates for no larger one."""


@dataclass(frozen=True)
class Layout:
    """A layer's shape and how it is cut.

    The matrix is cut into column blocks of ``width`` and bands of ``height`` weight rows; a row of the code holds one
    band of one block. Multipliers and guard residuals are r integers for each pair of block and weight row.

    Parameters
    ----------
    rows, cols : int
        Shape of the layer.
    parameters : Parameters
    width : int
        Columns of a block.
    rank : int
        Columns of the guard.
    factor_rank, ridge : int
        Of the curvature ``H = F^T F + ridge I`` of a block; 0 for statements without one.
    limit : int
        Largest absolute value of an honest weight or multiplier.
    """

    rows: int
    cols: int
    parameters: Parameters
    width: int
    rank: int = 0
    factor_rank: int = 0
    ridge: int = 0
    limit: int = 16320
    kappa: int = field(default=KAPPA)
    guard_bits: int = field(default=GUARD_BITS)

    def __post_init__(self) -> None:
        if min(self.rows, self.cols, self.width, self.limit) < 1 or self.rows * self.blocks * self.width > MAX_WEIGHTS:
            raise ValueError(f"no layer of {self.rows} x {self.cols} weights in blocks of {self.width}")
        if self.width > self.parameters.slots or self.rank > self.width or not 0 <= self.rank <= 64:
            raise ValueError(f"rows of {self.parameters.slots} slots hold no {self.width} columns of rank {self.rank}")
        if (self.factor_rank > 0) != (self.ridge > 0) or self.factor_rank > 1024 or self.ridge >= 1 << self.kappa:
            raise ValueError("a curvature has a factor and a ridge, or neither")

    @cached_property
    def blocks(self) -> int:
        """Column blocks; the last may reach beyond the layer."""
        return -(-self.cols // self.width)

    @cached_property
    def bands(self) -> int:
        """Bands of weight rows."""
        return -(-self.rows // (self.parameters.slots // self.width))

    @cached_property
    def height(self) -> int:
        """Weight rows of a band; the last may reach beyond the layer."""
        return -(-self.rows // self.bands)

    @cached_property
    def pairs_per_row(self) -> int:
        """Pairs of block and weight row, r integers each, that a row of the code holds."""
        pairs = self.blocks * self.rows
        return -(-pairs // -(-pairs // (self.parameters.slots // self.rank))) if self.rank else 1

    def rows_for(self, count: int) -> int:
        """Rows of the code that this many integers fill."""
        return -(-count // self.parameters.slots)

    @cached_property
    def theta_rows(self) -> int:
        """Rows of the code for the layer's weights."""
        return self.blocks * self.bands

    @cached_property
    def pair_rows(self) -> int:
        """Rows of the code for multipliers, or for guard residuals."""
        return -(-self.blocks * self.rows // self.pairs_per_row) if self.rank else 0

    @cached_property
    def curvature_rows(self) -> int:
        """Rows of the code for all H."""
        return self.rows_for(self.blocks * self.width**2) if self.factor_rank else 0

    @property
    def state_sizes(self) -> dict[str, int]:
        """Rows of a state by name."""
        return {"theta": self.theta_rows} | ({"H": self.curvature_rows} if self.factor_rank else {})

    @property
    def vector_rows(self) -> int:
        """Rows for a vector over K with an entry for every column of the layer."""
        return 3 * self.rows_for(self.blocks * self.width)

    def pack(self, matrix: npt.NDArray[S]) -> npt.NDArray[S]:
        """``[rows, cols]`` to rows of the code ``[theta_rows, height * width]``, zero beyond the layer."""
        out = np.zeros((self.blocks, self.bands * self.height, self.width), matrix.dtype)
        for block in range(self.blocks):
            piece = matrix[:, block * self.width : (block + 1) * self.width]
            out[block, : self.rows, : piece.shape[1]] = piece
        return out.reshape(self.theta_rows, -1)

    @property
    def beyond(self) -> npt.NDArray[np.bool_]:
        """Slots of `pack` that are no weight of the layer."""
        outside: npt.NDArray[np.bool_] = ~self.pack(np.ones((self.rows, self.cols), np.bool_)).astype(np.bool_)
        return outside

    def pack_pairs(self, values: Integers) -> Integers:
        """``[blocks, rows, rank]`` to rows of the code ``[pair_rows, pairs_per_row * rank]``."""
        if not self.rank:
            return np.zeros((0, self.parameters.slots), np.int64)
        flat = np.zeros((self.pair_rows * self.pairs_per_row, self.rank), np.int64)
        flat[: self.blocks * self.rows] = values.reshape(-1, self.rank)
        return flat.reshape(self.pair_rows, self.pairs_per_row * self.rank)

    def on_pairs(self, by_block: Array, by_row: Array, tail: Array) -> Array:
        """Coefficients ``by_block[b] by_row[i] tail[b, k]`` in K, slot by slot: ``[pair_rows * slots, 3]``."""
        product = prod(prod(by_block[:, None, None], by_row[None, :, None]), tail[:, None, :])
        flat = np.zeros((self.pair_rows * self.pairs_per_row, self.rank, 3), np.uint64)
        flat[: self.blocks * self.rows] = product.reshape(-1, self.rank, 3)
        full = np.zeros((self.pair_rows, self.parameters.slots, 3), np.uint64)
        full[:, : self.pairs_per_row * self.rank] = flat.reshape(self.pair_rows, -1, 3)
        return full.reshape(-1, 3)

    def flat(self, values: npt.NDArray[S]) -> npt.NDArray[S]:
        """Integers one after the other, as rows of slots."""
        out = np.zeros(self.rows_for(values.size) * self.parameters.slots, values.dtype)
        out[: values.size] = values.reshape(-1)
        return out.reshape(-1, self.parameters.slots)

    def vector(self, values: Array) -> Array:
        """A vector over K ``[n, 3]`` as three rows for each ``slots`` entries."""
        slots, parts = self.parameters.slots, self.rows_for(len(values))
        full = np.zeros((parts * slots, 3), np.uint64)
        full[: len(values)] = values
        return np.ascontiguousarray(full.reshape(parts, slots, 3).transpose(0, 2, 1).reshape(3 * parts, slots))

    def state(self, root: bytes) -> Commitment:
        """What a verifier holds of a state with this root."""
        return Commitment(STATE, tuple(self.state_sizes.items()), root)

    def digest_parts(self) -> bytes:
        """All that determines the layout."""
        return repr(self).encode()


def curvature_norm(y: Layout) -> float:
    """The largest honest 2-norm of all H of a layer together."""
    return float(2.0**y.kappa * math.sqrt(y.blocks))


def weight_norm(y: Layout) -> float:
    """The largest honest 2-norm of a layer's weights and multipliers together."""
    return y.limit * math.sqrt(y.rows * y.blocks * (y.width + y.rank))


def layout_of(spec: StatementSpec, rows: int, cols: int, kappa: int = KAPPA) -> Layout:
    """The layout of a layer under a statement, with the code that makes its proofs shortest.

    Columns cost ``8 t`` bytes for each row, of which there are about ``5.2 weights / slots``; polynomials cost 120 k.
    """
    width, best = spec.block_width, None
    for k in (1 << i for i in range(10, MAX_LOG2_K + 1)):
        parameters = Parameters(k)
        if parameters.slots < width:
            continue
        blocks = -(-cols // width)
        bands = -(-rows // (parameters.slots // width))
        size = 8 * parameters.queries * (3.3 * blocks * bands + 2.0**15 / parameters.slots) + 120 * k
        if best is None or size < best[0]:
            best = (size, parameters)
    assert best is not None
    return Layout(
        rows,
        cols,
        best[1],
        width,
        spec.guard_rank,
        spec.curvature_rank,
        spec.ridge,
        spec.weight_limit,
        kappa,
    )


def commit(layout: Layout, theta: Integers, curvature: Integers | None, seed: bytes) -> Tree:
    """Commit to a state of a layer.

    Parameters
    ----------
    theta : int64 [rows, cols]
    curvature : int64 [blocks, width, width], optional
        H, if the layout has one.
    seed : bytes
        Secret of the device; another state under the same seed gets padding of its own.
    """
    rows = {"theta": layout.pack(theta)}
    if layout.factor_rank:
        assert curvature is not None
        rows["H"] = layout.flat(curvature)
    private = digest(theta) if curvature is None else digest(theta, curvature)
    secret = Secret(b"state", seed, layout.digest_parts(), private)
    code = code_of(layout.parameters.k)
    return Tree(code, STATE, padded(code, layout.parameters, rows, secret), secret(DIGEST))


def digest(*arrays: npt.NDArray[np.generic]) -> bytes:
    """SHA-512 of arrays of integers with their shapes."""
    whole = hashlib.sha512()
    for array in arrays:
        whole.update(repr(array.shape).encode())
        for row in array.reshape(len(array), -1) if array.size else ():
            whole.update(np.ascontiguousarray(row, "<i8").data)
    return whole.digest()

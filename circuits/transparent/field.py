"""The field F_p with p = 2^64 - 2^32 + 1, its cubic extension K = F_p[w] / (w^3 - w - 1), and vectors over both.

Elements of F_p are canonical uint64, below p. Elements of K are arrays ``[..., 3]`` of coefficients of 1, w, w^2; K
has about 2^192 elements, so that an algebraic check at one random point of it needs no repetition. w^3 - w - 1 has no
root in F_p, hence is irreducible (tested). Since 2^64 = 2^32 - 1 and 2^96 = -1 modulo p, a product of 128 bits is
reduced with shifts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from zkapex.circuits.transparent.compiled import inlined, kernel

Array = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]

P = (1 << 64) - (1 << 32) + 1
GENERATOR = 7
"""Of the multiplicative group of F_p, which has 2^32 as the largest power of two in its order."""
BASIS: Array = np.eye(3, dtype=np.uint64)
"""1, w and w^2."""

_P, _LOW, _32 = np.uint64(P), np.uint64(0xFFFFFFFF), np.uint64(32)


@cast(Callable[..., Any], intrinsic)
def _wide(typing: Any, a: Any, b: Any) -> Any:
    """The two halves, high and low, of the 128 bits of a product."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        high = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))
        return context.make_tuple(builder, signature.return_type, (high, builder.trunc(product, ir.IntType(64))))

    pair: Any = types
    return pair.UniTuple(types.uint64, 2)(types.uint64, types.uint64), code


@inlined
def mul(a: Any, b: Any) -> Any:
    """Product in F_p: with high = 2^32 top + mid, a b = low - top + mid (2^32 - 1)."""
    high, low = _wide(a, b)
    top, mid = high >> _32, high & _LOW
    r = low - top
    r = r - _LOW if low < top else r
    t = mid * _LOW
    s = r + t
    s = s + _LOW if s < t else s
    return s - _P if s >= _P else s


@inlined
def add(a: Any, b: Any) -> Any:
    """Sum in F_p, as a - (p - b), which cannot overflow unseen."""
    c = _P - b
    return a - c if a >= c else a + b


@inlined
def sub(a: Any, b: Any) -> Any:
    """Difference in F_p."""
    return a - b if a >= b else a + (_P - b)


@kernel
def _k_mul(a: Array, b: Array, out: Array) -> None:
    for i in range(a.shape[0]):
        a0, a1, a2, b0, b1, b2 = a[i, 0], a[i, 1], a[i, 2], b[i, 0], b[i, 1], b[i, 2]
        c3, c4 = add(mul(a1, b2), mul(a2, b1)), mul(a2, b2)  # w^3 = w + 1, w^4 = w^2 + w
        out[i, 0] = add(mul(a0, b0), c3)
        out[i, 1] = add(add(mul(a0, b1), mul(a1, b0)), add(c3, c4))
        out[i, 2] = add(add(add(mul(a0, b2), mul(a2, b0)), mul(a1, b1)), c4)


@kernel
def _k_outer(a: Array, b: Array, out: Array) -> None:
    for i in range(a.shape[0]):
        a0, a1, a2, at = a[i, 0], a[i, 1], a[i, 2], i * b.shape[0]
        for j in range(b.shape[0]):
            b0, b1, b2 = b[j, 0], b[j, 1], b[j, 2]
            c3, c4 = add(mul(a1, b2), mul(a2, b1)), mul(a2, b2)
            out[at + j, 0] = add(mul(a0, b0), c3)
            out[at + j, 1] = add(add(mul(a0, b1), mul(a1, b0)), add(c3, c4))
            out[at + j, 2] = add(add(add(mul(a0, b2), mul(a2, b0)), mul(a1, b1)), c4)


@kernel
def _f_mul(a: Array, b: Array, out: Array) -> None:
    for i in range(a.size):
        out[i] = mul(a[i], b[i])


@kernel
def _f_add(a: Array, b: Array, out: Array) -> None:
    for i in range(a.size):
        out[i] = add(a[i], b[i])


@kernel
def _f_sub(a: Array, b: Array, out: Array) -> None:
    for i in range(a.size):
        out[i] = sub(a[i], b[i])


@kernel
def _sum(a: Array) -> Any:
    t = np.zeros(3, np.uint64)
    for i in range(a.shape[0]):
        for c in range(3):
            t[c] = add(t[c], a[i, c])
    return t


@kernel
def _k_times_matrix(a: Array, m: Array, out: Array) -> None:
    for i in range(m.shape[0]):
        for j in range(m.shape[1]):
            for c in range(3):
                out[j, c] = add(out[j, c], mul(a[i, c], m[i, j]))


def _alike(a: Array, b: Array) -> tuple[Array, Array]:
    """Both with the shape that they broadcast to; writable and contiguous, for which kernels are compiled."""
    shape = np.broadcast_shapes(a.shape, b.shape)
    x, y = (one if one.shape == shape else np.broadcast_to(one, shape).copy() for one in (a, b))
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def _flat(call: Callable[..., None], a: Any, b: Any) -> Array:
    x, y = _alike(np.asarray(a, np.uint64), np.asarray(b, np.uint64))
    out = np.empty(x.shape, np.uint64)
    call(x.reshape(-1), y.reshape(-1), out.reshape(-1))
    return out


def plus(a: Any, b: Any) -> Array:
    """Elementwise sum in F_p (hence of coefficients of elements of K), broadcast."""
    return _flat(_f_add, a, b)


def minus(a: Any, b: Any) -> Array:
    """Elementwise difference in F_p, broadcast."""
    return _flat(_f_sub, a, b)


def negative(x: Array) -> Array:
    """Elementwise negative in F_p."""
    return minus(np.zeros_like(x), x)


def times(a: Any, b: Any) -> Array:
    """Elementwise product in F_p, broadcast; times an array of F_p with a last axis of 1, elements of K are scaled."""
    return _flat(_f_mul, a, b)


def prod(a: Array, b: Array) -> Array:
    """Elementwise product in K of arrays ``[..., 3]``, broadcast."""
    x, y = _alike(a, b)
    out = np.empty(x.shape, np.uint64)
    _k_mul(x.reshape(-1, 3), y.reshape(-1, 3), out.reshape(-1, 3))
    return out


def outer(a: Array, b: Array) -> Array:
    """All products ``a_i b_j`` in K, b's index running faster: ``[n, 3]`` and ``[m, 3]`` to ``[n m, 3]``."""
    out = np.empty((len(a) * len(b), 3), np.uint64)
    _k_outer(np.ascontiguousarray(a), np.ascontiguousarray(b), out)
    return out


def total(x: Array) -> Array:
    """Sum in K of ``[n, 3]``."""
    result: Array = _sum(np.ascontiguousarray(x))
    return result


def through(a: Array, m: Array) -> Array:
    """The vector-matrix product ``sum_i a_i m_ij``, a ``[n, 3]`` in K and m ``[n, w]`` in F_p: ``[w, 3]``."""
    out = np.zeros((m.shape[1], 3), np.uint64)
    _k_times_matrix(np.ascontiguousarray(a), np.ascontiguousarray(m), out)
    return out


@kernel
def _residues(x: Integers, out: Array) -> None:
    for i in range(x.size):
        v = np.uint64(x[i])
        out[i] = v + _P if x[i] < 0 else v  # two's complement: 2^64 - |x| + p wraps to p - |x|


def residues(x: Any) -> Array:
    """Integers (int64, of any sign) as elements of F_p."""
    whole = np.ascontiguousarray(x, np.int64)
    out = np.empty(whole.shape, np.uint64)
    _residues(whole.reshape(-1), out.reshape(-1))
    return out


def lift(x: Any) -> Array:
    """Elements of F_p ``[...]`` as elements of K ``[..., 3]``."""
    x = np.asarray(x, np.uint64)
    return np.stack([x, np.zeros_like(x), np.zeros_like(x)], -1)


def integers_in_k(x: Any) -> Array:
    """Integers ``[...]`` (int64) as elements of K ``[..., 3]``."""
    return lift(residues(x))


def powers(base: int, count: int) -> Array:
    """1, base, base^2, ... in F_p."""
    out, t = np.empty(count, np.uint64), 1
    for i in range(count):
        out[i], t = t, t * base % P
    return out


def uniform(shape: tuple[int, ...], source: Callable[[int], bytes]) -> Array:
    """Uniform elements of F_p from ``source(number of bytes)``, by rejection, so exactly uniform."""
    x = np.frombuffer(source(8 * int(np.prod(shape))), "<u8").astype(np.uint64)
    while True:
        bad = np.flatnonzero(x >= _P)  # each with probability 2^-32
        if not bad.size:
            return x.reshape(shape)
        x[bad] = np.frombuffer(source(8 * bad.size), "<u8")

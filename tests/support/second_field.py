"""Arithmetic of the second verifier: F_p as uint64, K as ``[..., 3]``, in NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np

A = np.ndarray
P = 2**64 - 2**32 + 1
LOW = np.uint64(0xFFFFFFFF)
HALF_WORD = np.uint64(32)


class Refused(Exception):
    """The proof shows nothing."""


def need(condition: Any, why: str) -> None:
    if not condition:
        raise Refused(why)


def reduced(x: A) -> A:
    return x - np.where(x >= P, np.uint64(P), np.uint64(0))


def add(a: A, b: A) -> A:
    missing = np.uint64(P) - b
    fits = a < missing
    return a + np.where(fits, b, np.uint64(0)) - np.where(fits, np.uint64(0), missing)


def neg(a: A) -> A:
    return np.where(a == 0, a, np.uint64(P) - a)


def mul(a: A, b: A) -> A:
    """Schoolbook on halves of 32 bits, then 2^64 = 2^32 - 1 and 2^96 = -1."""
    a0, a1, b0, b1 = a & LOW, a >> HALF_WORD, b & LOW, b >> HALF_WORD
    first = a0 * b0
    cross = a0 * b1 + (first >> HALF_WORD)
    other = a1 * b0 + (cross & LOW)
    high = a1 * b1 + (cross >> HALF_WORD) + (other >> HALF_WORD)
    low = (other << HALF_WORD) | (first & LOW)
    return add(add(reduced(low), neg(high >> HALF_WORD)), reduced((high & LOW) * LOW))


def total(x: A, axis: int = 0) -> A:
    """Sums along an axis, by halves of words so that nothing overflows."""
    low, high = (x & LOW).sum(axis, dtype=np.uint64), (x >> HALF_WORD).sum(axis, dtype=np.uint64)
    return add(reduced(low), mul(reduced(high), np.uint64(1 << 32)))


def felt(x: Any) -> A:
    """Integers as elements of F_p."""
    return np.array([int(v) % P for v in np.asarray(x, object).reshape(-1)], np.uint64).reshape(np.shape(x))


def up(x: Any) -> A:
    """Integers as elements of K."""
    one = felt(x)
    return np.stack([one, np.zeros_like(one), np.zeros_like(one)], -1)


W = np.eye(3, dtype=np.uint64)


def kmul(a: A, b: A) -> A:
    """w^3 = w + 1 and w^4 = w^2 + w."""
    c = [[mul(a[..., i], b[..., j]) for j in range(3)] for i in range(3)]
    third, fourth = add(c[1][2], c[2][1]), c[2][2]
    zero = add(c[0][0], third)
    one = add(add(c[0][1], c[1][0]), add(third, fourth))
    two = add(add(c[0][2], c[2][0]), add(c[1][1], fourth))
    return np.stack([zero, one, two], -1)


def outer(a: A, b: A) -> A:
    return kmul(a[:, None], b[None]).reshape(-1, 3)


def times(a: A, m: A) -> A:
    """``sum_i a_i m_ij`` of K [n, 3] and F_p [n, w]."""
    return total(mul(a[:, None, :], m[:, :, None])) if len(a) else np.zeros((m.shape[1], 3), np.uint64)


def interpolated(x: A, basis: A) -> A:
    """Values over slots ``[..., slots]`` to values at the opened points ``[..., t]``."""
    flat = x.reshape(-1, x.shape[-1])
    rows = [total(mul(row[:, None], basis[: len(row)])) for row in flat]
    return np.array(rows, np.uint64).reshape(*x.shape[:-1], basis.shape[1])


def evaluated(poly: A, x: A) -> A:
    """Horner: coefficients ``[r, d]`` at points ``[t]``."""
    out = np.zeros((len(poly), len(x)), np.uint64)
    for i in range(poly.shape[1] - 1, -1, -1):
        out = add(mul(out, x[None]), poly[:, i, None])
    return out

"""The Reed-Solomon code: messages at a subgroup, words on four cosets that miss it, rows kept as coefficients.

A row of a commitment is a polynomial of degree below k. Its *message* are its values at the k-th roots of unity, its
word the values at n = 4k points, none of which is a root of unity: no symbol of a word is a symbol of the message.
Rows are kept as coefficients, from which any coset is one transform away; words are 4 times as large and never kept
as a whole.

Positions of messages are in bit-reversed order, which spares the transforms their permutations. Transforms are of eight
rows at a time, which lie side by side: the same step is then one of the processor's vectors.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from zkapex.circuits.transparent.compiled import inlined, kernel
from zkapex.circuits.transparent.field import GENERATOR, Array, P, add, mul, powers, sub, times
from zkapex.circuits.transparent.lanes import LANES, by_root, load, spread, store, turn
from zkapex.circuits.transparent.lanes import add as vadd
from zkapex.circuits.transparent.lanes import mul as vmul
from zkapex.circuits.transparent.lanes import sub as vsub

BLOWUP = 4
"""n / k. The rate is 1/4."""
_CACHED = 256
Columns = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]


@inlined
def _quarter(x: Array, w: Array, w3: Array, at: int, h: int) -> None:
    """Two stages of decimation in frequency, with halves 2h and h, on 4h values from ``at`` on."""
    for j in range(h):
        i0, i1 = LANES * (at + j), LANES * (at + j + h)
        i2, i3 = i1 + LANES * h, i1 + LANES * 2 * h
        p, q, r, t = load(x, i0), load(x, i1), load(x, i2), load(x, i3)
        a, b, c, d = vadd(p, r), vadd(q, t), vsub(p, r), by_root(vsub(q, t))
        store(x, i0, vadd(a, b))
        store(x, i1, vmul(vsub(a, b), spread(w[h + j])))
        store(x, i2, vmul(vadd(c, d), spread(w[2 * h + j])))
        store(x, i3, vmul(vsub(c, d), spread(w3[h + j])))


@inlined
def _quarter_back(x: Array, w: Array, w3: Array, at: int, h: int) -> None:
    """Two stages of decimation in time, with halves h and 2h, on 4h values from ``at`` on."""
    for j in range(h):
        i0, i1 = LANES * (at + j), LANES * (at + j + h)
        i2, i3 = i1 + LANES * h, i1 + LANES * 2 * h
        p, q = load(x, i0), vmul(load(x, i1), spread(w[h + j]))
        r, t = vmul(load(x, i2), spread(w[2 * h + j])), vmul(load(x, i3), spread(w3[h + j]))
        a, b, c, d = vadd(p, q), vsub(p, q), vadd(r, t), by_root(vsub(r, t))
        store(x, i0, vadd(a, c))
        store(x, i2, vsub(a, c))
        store(x, i1, vsub(b, d))  # the inverse of 2^48 is -2^48
        store(x, i3, vadd(b, d))


@inlined
def _half(x: Array, w: Array, half: int) -> None:
    """One stage of decimation in frequency, on all 2 half values."""
    for j in range(half):
        i0, i1 = LANES * j, LANES * (j + half)
        u, v = load(x, i0), load(x, i1)
        store(x, i0, vadd(u, v))
        store(x, i1, vmul(vsub(u, v), spread(w[half + j])))


@inlined
def _half_back(x: Array, w: Array, half: int) -> None:
    """One stage of decimation in time, on all 2 half values."""
    for j in range(half):
        i0, i1 = LANES * j, LANES * (j + half)
        u, v = load(x, i0), vmul(load(x, i1), spread(w[half + j]))
        store(x, i0, vadd(u, v))
        store(x, i1, vsub(u, v))


@inlined
def _forward(x: Array, w: Array, w3: Array, n: int) -> None:
    """Coefficients to values, bit-reversed, in place, of eight rows; ``w[h + j]`` is the power j of a root of order 2h.

    Two stages at a time, whose root of order 4 is 2^48, and from a size that the processor's first cache holds, one
    piece after the other.
    """
    size = n
    if (n & 0x5555555555555555) == 0:  # an odd number of stages
        size = n >> 1
        _half(x, w, size)
    while size > _CACHED:
        h = size >> 2
        for s in range(0, n, size):
            _quarter(x, w, w3, s, h)
        size = h
    for s in range(0, n, size):
        part = size
        while part >= 4:
            h = part >> 2
            for at in range(s, s + size, part):
                _quarter(x, w, w3, at, h)
            part = h


@inlined
def _wanted(x: Array, w: Array, w3: Array, n: int, before: Counts) -> None:
    """As `_forward`, leaving out what no wanted value depends on; ``before[i]`` is the number of those below i."""
    size = n
    if (n & 0x5555555555555555) == 0:
        size = n >> 1
        _half(x, w, size)
    while size >= 4:
        h = size >> 2
        for s in range(0, n, size):
            if before[s + size] != before[s]:
                _quarter(x, w, w3, s, h)
        size = h


@inlined
def _backward(x: Array, w: Array, w3: Array, n: int) -> None:
    """Values, bit-reversed, to n times the coefficients, in place, of eight rows; ``w`` as above of inverse roots."""
    odd = (n & 0x5555555555555555) == 0
    whole = n >> 1 if odd else n
    size = whole
    while size > _CACHED:
        size >>= 2
    for s in range(0, n, size):
        part = 4
        while part <= size:
            h = part >> 2
            for at in range(s, s + size, part):
                _quarter_back(x, w, w3, at, h)
            part <<= 2
    while size < whole:
        for s in range(0, n, 4 * size):
            _quarter_back(x, w, w3, s, size)
        size <<= 2
    if odd:
        _half_back(x, w, whole)


@inlined
def _gather(rows: Array, first: int, x: Array) -> None:
    """Eight rows, or those that are left and zeros, side by side."""
    n, count = rows.shape[1], min(LANES, rows.shape[0] - first)
    if count == LANES and n >= LANES:
        for j in range(0, n, LANES):
            turn(rows, first * n + j, n, x, LANES * j, LANES)
        return
    x[:] = 0
    for lane in range(count):
        for j in range(n):
            x[LANES * j + lane] = rows[first + lane, j]


@inlined
def _scatter(x: Array, rows: Array, first: int) -> None:
    """The inverse of `_gather`; rows may be part of wider ones."""
    n, count, apart = rows.shape[1], min(LANES, rows.shape[0] - first), rows.strides[0] // 8
    if count == LANES and n >= LANES:
        for j in range(0, n, LANES):
            turn(x, LANES * j, LANES, rows, first * apart + j, apart)
        return
    for lane in range(count):
        for j in range(n):
            rows[first + lane, j] = x[LANES * j + lane]


@inlined
def _scale(x: Array, factors: Array) -> None:
    """Each place of eight rows times its factor."""
    for j in range(factors.shape[0]):
        store(x, LANES * j, vmul(load(x, LANES * j), spread(factors[j])))


@kernel
def _encode_at(
    coefficients: Array, shift: Array, w: Array, w3: Array, inside: Columns, before: Counts, x: Array, out: Array
) -> None:
    """Each row's values at some places of the coset ``shift H``: what no such place depends on is left out."""
    n = coefficients.shape[1]
    for r in range(0, coefficients.shape[0], LANES):
        _gather(coefficients, r, x)
        _scale(x, shift)
        _wanted(x, w, w3, n, before)
        for lane in range(min(LANES, coefficients.shape[0] - r)):
            for j in range(inside.shape[0]):
                out[r + lane, j] = x[LANES * inside[j] + lane]


@kernel
def _inverse_rows(rows: Array, w: Array, w3: Array, scale: Array, x: Array) -> None:
    """Values, bit-reversed, to coefficients, in place; scale is 1/n, n times."""
    n = rows.shape[1]
    for r in range(0, rows.shape[0], LANES):
        _gather(rows, r, x)
        _backward(x, w, w3, n)
        _scale(x, scale)
        _scatter(x, rows, r)


@kernel
def _encode(coefficients: Array, shift: Array, w: Array, w3: Array, x: Array, out: Array) -> None:
    """Each row's values on the coset ``shift H``, with shift's powers given; x is room for eight rows."""
    n = coefficients.shape[1]
    for r in range(0, coefficients.shape[0], LANES):
        _gather(coefficients, r, x)
        _scale(x, shift)
        _forward(x, w, w3, n)
        _scatter(x, out, r)


@kernel
def _power(a: np.uint64, e: np.uint64) -> np.uint64:
    r = np.uint64(1)
    while e:
        if e & np.uint64(1):
            r = mul(r, a)
        a = mul(a, a)
        e >>= np.uint64(1)
    return r


@kernel
def _lagrange(positions: Array, points: Array, vanish: Array, scale: np.uint64, out: Array) -> None:
    """``L_i(x) = (x^k - 1) / k * h_i / (x - h_i)``, all inverses of one x from one."""
    k = positions.shape[0]
    prefix = np.empty(k, np.uint64)
    for j in range(points.shape[0]):
        x, t = points[j], np.uint64(1)
        for i in range(k):
            prefix[i] = t
            t = mul(t, sub(x, positions[i]))
        t = _power(t, np.uint64(P - 2))
        for i in range(k - 1, -1, -1):
            inverse = mul(t, prefix[i])
            t = mul(t, sub(x, positions[i]))
            out[i, j] = mul(mul(mul(vanish[j], scale), positions[i]), inverse)


def _staged(roots: Array) -> tuple[Array, Array]:
    """Roots of all stages of a transform, those with halves of h at ``[h, 2h)``, and third powers of those of 2h."""
    k = len(roots)
    w, w3 = np.zeros(k, np.uint64), np.zeros(k, np.uint64)
    for h in (1 << i for i in range(k.bit_length() - 1)):
        w[h : 2 * h] = roots[:: k // (2 * h)][:h]
    for h in (1 << i for i in range(k.bit_length() - 2)):
        w3[h : 2 * h] = times(w[h : 2 * h], w[2 * h : 3 * h])
    return w, w3


class Code:
    """RS[n, k] over F_p, with n = 4k.

    Parameters
    ----------
    k : int
        Length of a message, a power of two up to 2^28.

    Attributes
    ----------
    positions : uint64 [k]
        Where polynomials take the values of their messages.
    points : uint64 [n]
        Where words take theirs: coset c at ``[c k, (c + 1) k)``.
    x_to_k : uint64 [n]
        The k-th power of every point, one value to a coset.
    """

    def __init__(self, k: int) -> None:
        if k < 2 or k & (k - 1) or k > 1 << 28:
            raise ValueError(f"no code of dimension {k}")
        self.k, self.n = k, BLOWUP * k
        root, fine = pow(GENERATOR, (P - 1) // k, P), pow(GENERATOR, (P - 1) // self.n, P)
        roots = powers(root, k)
        self._w, self._w_inverse = _staged(roots), _staged(powers(pow(root, -1, P), k))
        self._scale = np.full(k, pow(k, -1, P), np.uint64)
        cosets = [GENERATOR * pow(fine, c, P) % P for c in range(BLOWUP)]
        self._shifts = [powers(g, k) for g in cosets]
        self._ones = np.ones(k, np.uint64)
        self._room = np.empty(LANES * k, np.uint64)  # for kernels, which no other thread interrupts
        bits = k.bit_length() - 1
        self.positions: Array = roots[[int(format(i, f"0{bits}b")[::-1], 2) for i in range(k)]]
        self.points: Array = np.array([int(h) * g % P for g in cosets for h in self.positions], np.uint64)
        self.x_to_k: Array = np.repeat(np.array([pow(g, k, P) for g in cosets], np.uint64), k)
        self._coset_to_k = [pow(g, k, P) for g in cosets]
        self._cosets = cosets

    def coefficients(self, messages: Array) -> Array:
        """Turn messages ``[r, k]`` into coefficients, in place; returns them."""
        _inverse_rows(messages, *self._w_inverse, self._scale, self._room)
        return messages

    def messages(self, coefficients: Array) -> Array:
        """Values ``[r, k]`` at the positions."""
        out = np.empty(coefficients.shape, np.uint64)
        _encode(np.ascontiguousarray(coefficients), self._ones, *self._w, self._room, out)
        return out

    def coset(self, coefficients: Array, number: int, out: Array | None = None) -> Array:
        """Values ``[r, k]`` on one coset, into ``out`` if that is given."""
        values = np.empty(coefficients.shape, np.uint64) if out is None else out
        _encode(np.ascontiguousarray(coefficients), self._shifts[number], *self._w, self._room, values)
        return values

    def half(self, coefficients: Array) -> Array:
        """Values ``[r, 2k]`` on the first two cosets, which determine a polynomial of degree below 2k."""
        out, rows = np.empty((len(coefficients), 2 * self.k), np.uint64), np.ascontiguousarray(coefficients)
        for c in range(2):
            _encode(rows, self._shifts[c], *self._w, self._room, out[:, c * self.k : (c + 1) * self.k])
        return out

    def at(self, coefficients: Array, columns: npt.NDArray[np.int64]) -> Array:
        """Values ``[r, columns]`` at some points, given by their numbers in ascending order."""
        out = np.empty((len(coefficients), len(columns)), np.uint64)
        rows = np.ascontiguousarray(coefficients)
        for c in range(BLOWUP):
            here = np.flatnonzero(columns // self.k == c)
            if here.size:
                inside = columns[here] - c * self.k
                before = np.searchsorted(inside, np.arange(self.k + 1))
                piece = np.empty((len(rows), here.size), np.uint64)
                _encode_at(rows, self._shifts[c], *self._w, inside, before, self._room, piece)
                out[:, here] = piece
        return out

    def from_half(self, values: Array) -> Array:
        """The 2k coefficients ``[r, 2k]`` of polynomials of degree below 2k, from their values on the first two cosets.

        With f = low + x^k high, f on a coset is low + g^k high there: two equations for the two halves.
        """
        k, parts = self.k, []
        for c in range(2):
            part = self.coefficients(values[:, c * k : (c + 1) * k].copy())
            _scale_rows(part, powers(pow(self._cosets[c], -1, P), k))
            parts.append(part)
        g = self._coset_to_k
        out = np.empty((len(values), 2 * k), np.uint64)
        _solve_halves(parts[0], parts[1], np.uint64(g[0]), np.uint64(pow(g[1] - g[0], -1, P)), out)
        return out

    def lagrange(self, columns: npt.NDArray[np.int64]) -> Array:
        """Values at some points of the polynomials that are 1 at one position and 0 at the others: ``[k, columns]``."""
        out = np.empty((self.k, len(columns)), np.uint64)
        one = np.uint64(1)
        vanish = np.array([int(x) - 1 for x in self.x_to_k[columns]], np.uint64)  # x^k = 1 at no point
        assert (self.x_to_k[columns] != one).all()
        _lagrange(self.positions, self.points[columns], vanish, self._scale[0], out)
        return out


@kernel
def _scale_rows(rows: Array, factors: Array) -> None:
    for r in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            rows[r, i] = mul(rows[r, i], factors[i])


@kernel
def _solve_halves(first: Array, second: Array, g: np.uint64, inverse: np.uint64, out: Array) -> None:
    k = first.shape[1]
    for r in range(first.shape[0]):
        for i in range(k):
            high = mul(sub(second[r, i], first[r, i]), inverse)
            out[r, i] = sub(first[r, i], mul(g, high))
            out[r, k + i] = high


@lru_cache(maxsize=4)
def code_of(k: int) -> Code:
    """The code of dimension k, made once."""
    return Code(k)


@kernel
def _sparse_times(vectors: Array, lagrange: Array, out: Array) -> None:
    for g in range(vectors.shape[0]):
        for i in range(vectors.shape[1]):
            c = vectors[g, i]
            if c == 1:
                for j in range(out.shape[1]):
                    out[g, j] = add(out[g, j], lagrange[i, j])
            elif c:
                for j in range(out.shape[1]):
                    out[g, j] = add(out[g, j], mul(c, lagrange[i, j]))


def sparse_times(vectors: Array, lagrange: Array) -> Array:
    """What `Code.lagrange` makes of public vectors that are mostly zero: ``[r, slots]`` to ``[r, columns]``."""
    out = np.zeros((len(vectors), lagrange.shape[1]), np.uint64)
    _sparse_times(np.ascontiguousarray(vectors), lagrange, out)
    return out

"""The Reed-Solomon code: messages at a subgroup, words on four cosets that miss it, rows kept as coefficients.

A row of a commitment is a polynomial of degree below k. Its *message* are its values at the k-th roots of unity, its
word the values at n = 4k points, none of which is a root of unity: no symbol of a word is a symbol of the message.
Rows are kept as coefficients, from which any coset is one transform away; words are 4 times as large and never kept
as a whole.

Positions of messages are in bit-reversed order, which spares the transforms their permutations.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from zkapex.circuits.transparent.compiled import inlined, kernel
from zkapex.circuits.transparent.field import GENERATOR, Array, P, add, mul, powers, sub

BLOWUP = 4
"""n / k. The rate is 1/4."""
_CACHED = 4096
Columns = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]


@inlined
def _quarter(x: Array, far: Array, near: Array, odd: Array, h: int) -> None:
    """Two stages of decimation in frequency, with halves 2h and h, on 4h values."""
    p, q, r, t = x[:h], x[h : 2 * h], x[2 * h : 3 * h], x[3 * h :]
    for j in range(h):
        a, b = add(p[j], r[j]), add(q[j], t[j])
        c, d = mul(sub(p[j], r[j]), far[j]), mul(sub(q[j], t[j]), odd[j])
        p[j], q[j] = add(a, b), mul(sub(a, b), near[j])
        r[j], t[j] = add(c, d), mul(sub(c, d), near[j])


@inlined
def _quarter_pass(x: Array, w: Array, h: int) -> None:
    """`_quarter` of every 4h values."""
    far, near, odd = w[2 * h : 3 * h], w[h : 2 * h], w[3 * h : 4 * h]
    for s in range(0, x.shape[0], 4 * h):
        _quarter(x[s : s + 4 * h], far, near, odd, h)


@inlined
def _quarter_pass_back(x: Array, w: Array, h: int) -> None:
    """Two stages of decimation in time, with halves h and 2h, on every 4h values."""
    far, near, odd = w[2 * h : 3 * h], w[h : 2 * h], w[3 * h : 4 * h]
    for s in range(0, x.shape[0], 4 * h):
        p, q, r, t = x[s : s + h], x[s + h : s + 2 * h], x[s + 2 * h : s + 3 * h], x[s + 3 * h : s + 4 * h]
        for j in range(h):
            b, d = mul(q[j], near[j]), mul(t[j], near[j])
            a, b, c, d = add(p[j], b), sub(p[j], b), add(r[j], d), sub(r[j], d)
            c, d = mul(c, far[j]), mul(d, odd[j])
            p[j], r[j], q[j], t[j] = add(a, c), sub(a, c), add(b, d), sub(b, d)


@kernel
def _forward(x: Array, w: Array) -> None:
    """Coefficients to values, bit-reversed, in place; ``w[h + j]`` is the j-th power of a root of order 2h.

    Two stages at a time, and from a size that the processor's first cache holds, one piece after the other.
    """
    n = x.shape[0]
    size = n
    if (n & 0x5555555555555555) == 0:  # an odd number of stages
        half = n >> 1
        a, b, t = x[:half], x[half:], w[half:n]
        for j in range(half):
            u, v = a[j], b[j]
            a[j], b[j] = add(u, v), mul(sub(u, v), t[j])
        size = half
    while size > _CACHED:
        _quarter_pass(x, w, size >> 2)
        size >>= 2
    for s in range(0, n, size):
        piece, h = x[s : s + size], size >> 2
        while h > 1:
            _quarter_pass(piece, w, h)
            h >>= 2
        i = w[3]
        for j in range(0, size if h else 0, 4):
            a, b, c, d = (
                add(piece[j], piece[j + 2]),
                add(piece[j + 1], piece[j + 3]),
                sub(piece[j], piece[j + 2]),
                mul(sub(piece[j + 1], piece[j + 3]), i),
            )
            piece[j], piece[j + 1], piece[j + 2], piece[j + 3] = add(a, b), sub(a, b), add(c, d), sub(c, d)


@inlined
def _wanted_pass(x: Array, w: Array, h: int, before: Counts) -> None:
    """As `_quarter_pass`, of the pieces of 4h values among which there is one that is wanted."""
    far, near, odd = w[2 * h : 3 * h], w[h : 2 * h], w[3 * h : 4 * h]
    for s in range(0, x.shape[0], 4 * h):
        if before[s + 4 * h] == before[s]:
            continue
        _quarter(x[s : s + 4 * h], far, near, odd, h)


@kernel
def _encode_at(coefficients: Array, shift: Array, w: Array, inside: Columns, before: Counts, out: Array) -> None:
    """Each row's values at some places of the coset ``shift H``: what no such place depends on is left out.

    ``before[i]`` is the number of places below i.
    """
    n = coefficients.shape[1]
    x = np.empty(n, np.uint64)
    for r in range(coefficients.shape[0]):
        for i in range(n):
            x[i] = mul(coefficients[r, i], shift[i])
        h = n >> 2
        if (n & 0x5555555555555555) == 0:  # an odd number of stages
            half = n >> 1
            a, b, t = x[:half], x[half:], w[half:n]
            for j in range(half):
                u, v = a[j], b[j]
                a[j], b[j] = add(u, v), mul(sub(u, v), t[j])
            h >>= 1
        while h:
            _wanted_pass(x, w, h, before)
            h >>= 2
        for j in range(inside.shape[0]):
            out[r, j] = x[inside[j]]


@kernel
def _inverse(x: Array, w: Array, scale: np.uint64) -> None:
    """Values, bit-reversed, to coefficients, in place; ``w`` as above of inverse roots, scale = 1/n."""
    n = x.shape[0]
    odd = (n & 0x5555555555555555) == 0
    whole = n >> 1 if odd else n
    size = whole
    while size > _CACHED:
        size >>= 2
    i = w[3]
    for s in range(0, n, size):
        piece, h = x[s : s + size], 4
        for j in range(0, size if size >= 4 else 0, 4):
            a, b, c, d = (
                add(piece[j], piece[j + 1]),
                sub(piece[j], piece[j + 1]),
                add(piece[j + 2], piece[j + 3]),
                mul(sub(piece[j + 2], piece[j + 3]), i),
            )
            piece[j], piece[j + 2], piece[j + 1], piece[j + 3] = add(a, c), sub(a, c), add(b, d), sub(b, d)
        while 4 * h <= size:
            _quarter_pass_back(piece, w, h)
            h <<= 2
    while size < whole:
        _quarter_pass_back(x, w, size)
        size <<= 2
    if odd:
        half = n >> 1
        a_, b_, t = x[:half], x[half:], w[half:n]
        for j in range(half):
            u, v = a_[j], mul(b_[j], t[j])
            a_[j], b_[j] = add(u, v), sub(u, v)
    for j in range(n):
        x[j] = mul(x[j], scale)


@kernel
def _inverse_rows(rows: Array, w: Array, scale: np.uint64) -> None:
    for r in range(rows.shape[0]):
        _inverse(rows[r], w, scale)


@kernel
def _encode(coefficients: Array, shift: Array, w: Array, out: Array) -> None:
    """Each row's values on the coset ``shift H``, with shift's powers given."""
    for r in range(coefficients.shape[0]):
        c, y = coefficients[r], out[r]
        for i in range(c.shape[0]):
            y[i] = mul(c[i], shift[i])
        _forward(y, w)


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


def _staged(roots: Array) -> Array:
    """Roots of all stages of a transform, those of the stage with halves of h at ``[h, 2h)``."""
    k, out = len(roots), np.zeros(len(roots), np.uint64)
    for h in (1 << i for i in range(k.bit_length() - 1)):
        out[h : 2 * h] = roots[:: k // (2 * h)][:h]
    return out


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
        self._scale = np.uint64(pow(k, -1, P))
        cosets = [GENERATOR * pow(fine, c, P) % P for c in range(BLOWUP)]
        self._shifts = [powers(g, k) for g in cosets]
        self._ones = np.ones(k, np.uint64)
        bits = k.bit_length() - 1
        self.positions: Array = roots[[int(format(i, f"0{bits}b")[::-1], 2) for i in range(k)]]
        self.points: Array = np.array([int(h) * g % P for g in cosets for h in self.positions], np.uint64)
        self.x_to_k: Array = np.repeat(np.array([pow(g, k, P) for g in cosets], np.uint64), k)
        self._coset_to_k = [pow(g, k, P) for g in cosets]
        self._cosets = cosets

    def coefficients(self, messages: Array) -> Array:
        """Turn messages ``[r, k]`` into coefficients, in place; returns them."""
        _inverse_rows(messages, self._w_inverse, self._scale)
        return messages

    def messages(self, coefficients: Array) -> Array:
        """Values ``[r, k]`` at the positions."""
        out = np.empty(coefficients.shape, np.uint64)
        _encode(np.ascontiguousarray(coefficients), self._ones, self._w, out)
        return out

    def coset(self, coefficients: Array, number: int) -> Array:
        """Values ``[r, k]`` on one coset."""
        out = np.empty(coefficients.shape, np.uint64)
        _encode(np.ascontiguousarray(coefficients), self._shifts[number], self._w, out)
        return out

    def half(self, coefficients: Array) -> Array:
        """Values ``[r, 2k]`` on the first two cosets, which determine a polynomial of degree below 2k."""
        out = np.empty((len(coefficients), 2 * self.k), np.uint64)
        for c in range(2):
            _encode(np.ascontiguousarray(coefficients), self._shifts[c], self._w, out[:, c * self.k : (c + 1) * self.k])
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
                _encode_at(rows, self._shifts[c], self._w, inside, before, piece)
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
        _lagrange(self.positions, self.points[columns], vanish, self._scale, out)
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

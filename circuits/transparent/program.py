"""What a statement says of rows, as two polynomials: one is summed over slots, one vanishes at every slot.

    sum over slots of  S = linear terms, squares, and products of vectors over K  ==  constant      (in K)
    at every slot      V = linear terms, rows times public values, b^2 - b        ==  0             (in K)

Random multipliers are in the coefficients already. Rows have degree below k and so have public vectors, interpolated
over the positions: S and V have degree below 2k.

**A rule.** `Program.product` sums over *all* slots of its vectors. Whoever uses it has to say what every slot of at
least one of them is, those without a meaning too (zero): what a prover may choose there would make up for anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from zkapex.circuits.transparent.compiled import kernel
from zkapex.circuits.transparent.field import BASIS, Array, add, mul, plus, prod, sub, total
from zkapex.circuits.transparent.lanes import LANES, load, spread, store
from zkapex.circuits.transparent.lanes import add as vadd
from zkapex.circuits.transparent.lanes import mul as vmul
from zkapex.circuits.transparent.lanes import sub as vsub

Symbols = Callable[[str, int, int], Array]
"""(name, start, stop) to the symbols ``[stop - start, points]`` of these rows."""
Spread = Callable[[Array], Array]
"""Public vectors ``[r, slots]`` to their symbols ``[r, points]``."""
_CHUNK, _PIECE = 8, 1024
_ZERO, _ONE = np.uint64(0), np.uint64(1)


@kernel
def accumulate(acc: Array, coefficients: Array, rows: Array) -> None:
    """``acc[:, j] += sum_g coefficients[g] rows[g, j]``; acc is ``[3, points]``."""
    points = acc.shape[1]
    whole = points - points % LANES
    for t in range(0, whole, _PIECE):
        for g in range(rows.shape[0]):
            row = rows[g]
            for c in range(3):
                a, x = acc[c], spread(coefficients[g, c])
                for j in range(t, min(whole, t + _PIECE), LANES):
                    store(a, j, vadd(load(a, j), vmul(x, load(row, j))))
    for g in range(rows.shape[0]):
        for c in range(3):
            for j in range(whole, points):
                acc[c, j] = add(acc[c, j], mul(coefficients[g, c], rows[g, j]))


@kernel
def _accumulate_products(acc: Array, coefficients: Array, left: Array, right: Array, less: np.uint64) -> None:
    """``acc[:, j] += sum_g coefficients[g] left[g, j] (right[g, j] - less)``."""
    points = acc.shape[1]
    whole, minus = points - points % LANES, spread(less)
    for t in range(0, whole, _PIECE):
        for g in range(left.shape[0]):
            x, y, a0, a1, a2 = left[g], right[g], acc[0], acc[1], acc[2]
            c0, c1, c2 = spread(coefficients[g, 0]), spread(coefficients[g, 1]), spread(coefficients[g, 2])
            for j in range(t, min(whole, t + _PIECE), LANES):
                u = vmul(load(x, j), vsub(load(y, j), minus))
                store(a0, j, vadd(load(a0, j), vmul(c0, u)))
                store(a1, j, vadd(load(a1, j), vmul(c1, u)))
                store(a2, j, vadd(load(a2, j), vmul(c2, u)))
    for g in range(left.shape[0]):
        for j in range(whole, points):
            u = mul(left[g, j], sub(right[g, j], less))
            for c in range(3):
                acc[c, j] = add(acc[c, j], mul(coefficients[g, c], u))


@kernel
def _accumulate_entries(acc: Array, coefficients: Array, rows: Array) -> None:
    """``acc[c, j] += sum_g coefficients[g, c, j] rows[g, j]``: a coefficient for every entry."""
    for g in range(rows.shape[0]):
        row = rows[g]
        for c in range(3):
            a, x = acc[c], coefficients[g, c]
            for j in range(acc.shape[1]):
                a[j] = add(a[j], mul(x[j], row[j]))


@dataclass
class _Terms:
    """Those about the rows of one name."""

    outer: list[tuple[Array, Array]] = field(default_factory=list)  # S: coefficients by row [r, 3] and by slot [s, 3]
    squares: list[Array] = field(default_factory=list)  # S: [r, 3]
    entries: Array | None = None  # S: [r, 3, slots]
    linear: list[Array] = field(default_factory=list)  # V: [r, 3]
    public: list[tuple[str, Array]] = field(default_factory=list)  # V: table of public values, [r, 3]
    booleans: list[Array] = field(default_factory=list)  # V: [r, 3]


@dataclass
class Program:
    """Terms by the names of the rows they are about.

    Parameters
    ----------
    slots : int
        Values in a row.
    counts : mapping of str to int
        Rows by name.
    """

    slots: int
    counts: dict[str, int]
    constant: Array = field(default_factory=lambda: np.zeros(3, np.uint64))
    _terms: dict[str, _Terms] = field(default_factory=dict)
    _products: list[tuple[str, str, Array]] = field(default_factory=list)
    _tables: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)

    def _of(self, rows: str) -> _Terms:
        return self._terms.setdefault(rows, _Terms())

    def _by_row(self, rows: str, coefficients: Array) -> Array:
        assert coefficients.shape == (self.counts[rows], 3), (rows, coefficients.shape)
        return np.ascontiguousarray(coefficients)

    def outer(self, rows: str, by_row: Array, by_slot: Array) -> None:
        """S gains ``sum_g by_row[g] sum_i by_slot[i] rows[g, i]``."""
        self._of(rows).outer.append((self._by_row(rows, by_row), by_slot))

    def entries(self, rows: str, coefficients: Array) -> None:
        """S gains ``sum_i coefficients[i] x_i``, x being the rows read one after the other, slot by slot."""
        count = self.counts[rows]
        full = np.zeros((count * self.slots, 3), np.uint64)
        full[: len(coefficients)] = coefficients
        self._add(rows, full.reshape(count, self.slots, 3).transpose(0, 2, 1))

    def vector(self, rows: str, coefficients: Array) -> None:
        """S gains ``sum_i coefficients[i] x_i`` for a vector x over K, three rows for each ``slots`` entries."""
        parts = self.counts[rows] // 3
        full = np.zeros((parts * self.slots, 3), np.uint64)
        full[: len(coefficients)] = coefficients
        scaled = np.stack([prod(full, w[None]) for w in BASIS]).reshape(3, parts, self.slots, 3)
        self._add(rows, scaled.transpose(1, 0, 3, 2).reshape(3 * parts, 3, self.slots))

    def _add(self, rows: str, coefficients: Array) -> None:
        before = self._of(rows).entries
        new = np.ascontiguousarray(coefficients)
        self._of(rows).entries = new if before is None else plus(before, new)

    def squares(self, rows: str, coefficients: Array) -> None:
        """S gains ``sum_g coefficients[g] sum_i rows[g, i]^2``."""
        self._of(rows).squares.append(self._by_row(rows, coefficients))

    def product(self, left: str, right: str, coefficient: Array) -> None:
        """S gains ``coefficient sum_i x_i y_i`` of two vectors over K of one length. See the rule above."""
        assert self.counts[left] == self.counts[right]
        self._products.append((left, right, coefficient))

    def equals(self, value: Array) -> None:
        """What S sums to gains a public value."""
        self.constant = plus(self.constant, value)

    def vanishes(self, rows: str, coefficients: Array, table: str | None = None) -> None:
        """V gains ``sum_g coefficients[g] rows[g]``, each slot times the public value in a table if one is named."""
        checked = self._by_row(rows, coefficients)
        if table is None:
            self._of(rows).linear.append(checked)
        else:
            assert len(self._tables[table]) == self.counts[rows]
            self._of(rows).public.append((table, checked))

    def booleans(self, rows: str, coefficients: Array) -> None:
        """V gains ``sum_g coefficients[g] (rows[g]^2 - rows[g])``."""
        self._of(rows).booleans.append(self._by_row(rows, coefficients))

    def table(self, name: str, values: npt.NDArray[np.generic]) -> None:
        """Name public values ``[rows, slots or fewer]``, zero beyond; of any type that is small."""
        self._tables[name] = values

    def evaluate(self, symbols: Symbols, points: int, spread: Spread) -> tuple[Array, Array]:
        """S and V at some points, ``[3, points]`` each, without their masks."""
        s, v = np.zeros((3, points), np.uint64), np.zeros((3, points), np.uint64)
        tabled = [name for name, terms in self._terms.items() if terms.public]
        tables: dict[str, list[str]] = {}
        for name in tabled:
            tables.setdefault(self._terms[name].public[0][0], []).append(name)
        sums: dict[tuple[str, int], Array] = {}
        for names in [*tables.values(), *([n] for n in self._terms if n not in tabled)]:
            count = max(self.counts[n] if n else len(self._tables[self._terms[n].public[0][0]]) for n in names)
            for start in range(0, count, _CHUNK):
                stop = min(count, start + _CHUNK)
                public: dict[str, Array] = {}
                for name in names:
                    self._apply(name, start, stop, symbols, spread, public, sums, (s, v))
        for (name, number), acc in sums.items():
            by_slot = spread(np.ascontiguousarray(self._terms[name].outer[number][1].T))
            s = plus(s, prod(acc.T, by_slot.T).T)
        for left, right, coefficient in self._products:
            for part in range(0, self.counts[left], 3):
                x, y = (np.ascontiguousarray(symbols(name, part, part + 3).T) for name in (left, right))
                s = plus(s, prod(prod(x, y), coefficient[None]).T)
        return s, v

    def _apply(
        self,
        name: str,
        start: int,
        stop: int,
        symbols: Symbols,
        spread: Spread,
        public: dict[str, Array],
        sums: dict[tuple[str, int], Array],
        result: tuple[Array, Array],
    ) -> None:
        """All terms of rows start to stop of one name, into the results."""
        terms, (s, v) = self._terms[name], result
        points = s.shape[1]
        rows = symbols(name, start, stop) if name else np.ones((stop - start, points), np.uint64)
        for number, (by_row, _) in enumerate(terms.outer):
            if (name, number) not in sums:
                sums[name, number] = np.zeros((3, points), np.uint64)
            accumulate(sums[name, number], by_row[start:stop], rows)
        for by_row in terms.squares:
            _accumulate_products(s, by_row[start:stop], rows, rows, _ZERO)
        if terms.entries is not None:
            piece = terms.entries[start:stop]
            spread_out = spread(piece.reshape(-1, self.slots)).reshape(len(piece), 3, points)
            _accumulate_entries(s, spread_out, rows)
        for by_row in terms.linear:
            accumulate(v, by_row[start:stop], rows)
        for by_row in terms.booleans:
            _accumulate_products(v, by_row[start:stop], rows, rows, _ONE)
        for table, by_row in terms.public:
            values = self._tables[table]
            used = np.flatnonzero(values[start:stop].any(1))
            if not used.size:
                continue
            if table not in public:
                public[table] = spread(values[start:stop][used].astype(np.uint64))
            picked = rows if len(used) == stop - start else np.ascontiguousarray(rows[used])
            _accumulate_products(v, np.ascontiguousarray(by_row[start:stop][used]), public[table], picked, _ZERO)


def sum_over_slots(values: Array, slots: int) -> Array:
    """Sum in K over the slots of ``[3, k]``."""
    return total(np.ascontiguousarray(values[:, :slots].T))

"""That committed integers are small: two random projections, the second of which is shown bit by bit.

For groups of rows M the prover commits to ``v = M Pi_1`` (256 integers a row), then to the bits of ``z = Pi_2^T v``
(256 integers a group), with Pi_1 and Pi_2 ternary and drawn after what they project. The first keeps what the
verifier has to draw small, it is the same for all rows. With T = 2^(bits - 1) and z in [-T, T), but for
`params.LOG2_NORM_ERROR` and 2^-255:

    |v| < 2T and |M| < 4T entry by entry modulo p     (no sum can wrap around p then: checked in `Norms.bound`)
    |row of M| <= 16 T / 26                           (both lemmas on integers: docs/transparent.md, "Small integers")
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from zkapex.circuits.transparent.compiled import kernel
from zkapex.circuits.transparent.field import (
    Array,
    Integers,
    P,
    add,
    integers_in_k,
    lift,
    negative,
    outer,
    prod,
    sub,
    total,
)
from zkapex.circuits.transparent.iop import Side
from zkapex.circuits.transparent.params import NORM_SQUARE, PROJECTIONS
from zkapex.circuits.transparent.program import Program
from zkapex.circuits.transparent.transcript import Transcript
from zkapex.errors import ProverError

_BYTES = 2 * PROJECTIONS // 8
"""Of randomness per row of a projection: an entry is the difference of two bits."""
_AT_ONCE = 512
"""Rows of a projection that are written out at a time."""
_HONEST_TAIL, _HONEST_STRETCH = 6.5, 240.0
"""An entry of z beyond 6.5 |v| has probability 2^-60 (entries of Pi are sub-Gaussian with variance 1/2), and |v|^2
beyond 240 |M|^2 less than 2^-40. Completeness only: an honest prover that meets one says so, and proves under
another nonce."""

Bytes = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]


@kernel
def _tables(kappa: Array, out: Array) -> None:
    half = out.shape[0] // 2
    for b in range(half):
        for x in range(256):
            for bit in range(8):
                if (x >> (7 - bit)) & 1:
                    for c in range(3):
                        out[b, x, c] = add(out[b, x, c], kappa[8 * b + bit, c])
            for c in range(3):
                out[half + b, x, c] = sub(np.uint64(0), out[b, x, c])


@kernel
def _look_up(bits: Bytes, tables: Array, out: Array) -> None:
    for e in range(bits.shape[0]):
        s0, s1, s2 = out[e, 0], out[e, 1], out[e, 2]
        for b in range(bits.shape[1]):
            entry = tables[b, bits[e, b]]
            s0, s1, s2 = add(s0, entry[0]), add(s1, entry[1]), add(s2, entry[2])
        out[e, 0], out[e, 1], out[e, 2] = s0, s1, s2


def combine(bits: Bytes, kappa: Array, out: Array) -> None:
    """``out[e] += sum_s kappa[s] pi[e, s]`` for each row e of a projection, eight columns at a time."""
    tables = np.zeros((_BYTES, 256, 3), np.uint64)
    _tables(kappa, tables)
    _look_up(bits, tables, out)


def draw(transcript: Transcript, label: str, entries: int) -> Bytes:
    """A projection of vectors of this length, as bits."""
    return np.frombuffer(transcript.bytes(label, entries * _BYTES), np.uint8).reshape(entries, _BYTES)


@kernel
def _ternary(bits: Bytes, out: Doubles) -> None:
    half = bits.shape[1] // 2
    for e in range(bits.shape[0]):
        for b in range(half):
            plus, minus = np.int64(bits[e, b]), np.int64(bits[e, half + b])
            for bit in range(8):
                out[e, 8 * b + bit] = ((plus >> (7 - bit)) & 1) - ((minus >> (7 - bit)) & 1)


def ternary(bits: Bytes) -> Doubles:
    """The entries -1, 0, 1 of a projection, ``[entries, 256]``."""
    out = np.empty((len(bits), PROJECTIONS))
    _ternary(bits, out)
    return out


@kernel
def _multiply(left: Doubles, right: Doubles, out: Doubles) -> None:
    """``out += left @ right``, in one thread: those of a BLAS wait for each other where processors are busy."""
    for start in range(0, left.shape[1], 16):  # rows of the right that the processor's first cache holds
        for g in range(left.shape[0]):
            row = out[g]
            for e in range(start, min(left.shape[1], start + 16)):
                x, other = left[g, e], right[e]
                for s in range(row.shape[0]):
                    row[s] += x * other[s]


def project(values: Integers, bits: Bytes) -> Integers:
    """``values @ pi`` exactly, ``[rows, entries]`` to ``[rows, 256]``.

    Raises
    ------
    ProverError
        A sum would leave the integers that float64 holds.
    """
    out = np.zeros((len(values), PROJECTIONS))
    largest = 0.0
    for start in range(0, values.shape[1], _AT_ONCE):
        piece = values[:, start : start + _AT_ONCE].astype(np.float64)
        _multiply(piece, ternary(bits[start : start + _AT_ONCE]), out)
        largest += float(np.abs(piece, out=piece).sum(1).max(initial=0.0))
    if largest >= 2**53:
        raise ProverError("integers are too large to be projected exactly", why=f"their 1-norm reaches {largest:.3g}")
    return out.astype(np.int64)


def check_slack(rows: int, width: int, wide: int) -> None:
    """Raise ValueError if slack of these widths, of all rows and in all, could wrap around the field."""
    if rows * (1 << width) + (1 << wide) >= P // 4:
        raise ValueError("the slack of the layer could wrap around the field")


def powers_of_two(width: int) -> Array:
    """1, 2, 4, ... as elements of K."""
    return lift(np.array([1 << i for i in range(width)], np.uint64))


def width_for(norm: float) -> int:
    """Bits of an entry of z for rows whose honest 2-norm, of all of a group together, is at most this."""
    return math.ceil(math.log2(_HONEST_TAIL * math.sqrt(_HONEST_STRETCH) * max(norm, 1.0))) + 1


def proved_bound(norm: float) -> float:
    """What is proved of the 2-norm of every row of a group whose honest norm is this."""
    return math.sqrt(PROJECTIONS) * 2.0 ** (width_for(norm) - 1) / NORM_SQUARE


class Norms:
    """Bounds on the rows of some groups; make it right after the last of these rows is committed to.

    Parameters
    ----------
    side : Side
    groups : sequence of (names of rows, largest honest 2-norm of all of them together)
    """

    def __init__(self, side: Side, groups: Sequence[tuple[Sequence[str], float]]) -> None:
        self._side, self._slots = side, side.parameters.slots
        self._names = [[n for n in names if side.counts[n]] for names, _ in groups]
        self._counts = [sum(side.counts[n] for n in names) for names in self._names]
        self._norms = [norm for _, norm in groups]
        self.widths = [width_for(norm) for norm in self._norms]
        self.entries = PROJECTIONS * sum(self._counts)
        self._first = draw(side.transcript, "projection 1", self._slots)
        self._v: Integers = np.zeros((0, PROJECTIONS), np.int64)
        for group in range(len(groups)):
            self.bound(group)

    @property
    def rows_of_v(self) -> int:
        """How many rows v fills."""
        return -(-self.entries // self._slots)

    def bound(self, group: int) -> float:
        """What is proved of the 2-norm of every row of a group."""
        largest = 2.0 ** (self.widths[group] - 1)
        if self.entries * 2 * largest >= P / 4 or self._slots * 4 * largest >= P / 4:
            raise ValueError("projections of the layer could wrap around the field")
        return proved_bound(self._norms[group])

    def project(self, integers: Mapping[str, Integers]) -> Integers:
        """The prover's v, ``[rows, 256]``."""
        parts = [project(integers[n], self._first[: integers[n].shape[1]]) for names in self._names for n in names]
        self._v = np.concatenate(parts) if parts else self._v
        return self._v

    def second(self) -> None:
        """Draw what follows the commitment to v."""
        transcript = self._side.transcript
        self._on_rows = transcript.field("projection rows", sum(self._counts))
        self._on_columns = transcript.field("projection columns", PROJECTIONS)
        self._second = draw(transcript, "projection 2", self.entries)

    def bits(self) -> Integers:
        """The prover's bits of ``z + T``, of all groups, one after the other."""
        out, at = [], 0
        for count, width in zip(self._counts, self.widths, strict=True):
            piece = slice(PROJECTIONS * at, PROJECTIONS * (at + count))
            z = project(self._v[at : at + count].reshape(1, -1), self._second[piece])
            out.append(self._side.to_bits(z + (1 << (width - 1)), width).reshape(-1))
            at += count
        return np.concatenate(out)

    @property
    def number_of_bits(self) -> int:
        """How many `bits` returns."""
        return PROJECTIONS * sum(self.widths)

    def constrain(self, program: Program, first: Array, second: Array, v: str) -> Array:
        """Add both equations with multipliers of their own; returns the coefficients of `bits`."""
        by_slot, at = np.zeros((self._slots, 3), np.uint64), 0
        combine(self._first, self._on_columns, by_slot)
        for names in self._names:
            for name in names:
                count = self._side.counts[name]
                program.outer(name, prod(self._on_rows[at : at + count], first[None]), by_slot)
                at += count
        on_v = outer(prod(self._on_rows, negative(first[None])), self._on_columns)
        again = self._side.transcript.field("projections of v", len(self._counts), PROJECTIONS)
        out, at = [], 0
        for kappa, count, width in zip(again, self._counts, self.widths, strict=True):
            piece, scaled = slice(PROJECTIONS * at, PROJECTIONS * (at + count)), prod(kappa, second[None])
            combine(self._second[piece], negative(scaled), on_v[piece])
            out.append(outer(scaled, powers_of_two(width)))
            program.equals(prod(total(scaled), integers_in_k(1 << (width - 1))))
            at += count
        program.entries(v, on_v)
        self._second = np.zeros((0, _BYTES), np.uint8)  # it was as long as v, and nothing asks for it any more
        return np.concatenate(out)

"""What an enrolment can show besides: that the curvature is the second moment of activations, up to a tolerance.

Activations A_b ``[n, width]`` of each block and differences D_b ``[width, width]`` are committed to with the factors,
and

    c_b (H_b - ridge I)  =  A_b^T A_b + D_b,        |D_b|_F^2 + slack_b  =  tau_b,        slack_b >= 0 by its bits.

Scale c_b and tolerance tau_b are public. With the x and y of `zkapex.circuits.transparent.enrol` and points eta over
blocks, all drawn after that,

    sum_b eta_b (c_b x^T (H_b - ridge I) y - x^T D_b y)  =  <left_A, right_A>,
    left_A_(b, i) = eta_b (A_b x)_i,    right_A_(b, i) = (A_b y)_i,

and both vectors are shown to be that in every slot of theirs, zero where there is no activation. What it does not show
is where activations are from. A row of the code holds ``height`` activations of a block; D starts a row for every
block, so that a tolerance is a block's, and is cut into D0, D1, ... of a few blocks each, which are shown to be small
apart from each other: what is proved of a row follows from the norm of all that it is shown with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from zkapex.circuits.transparent.field import (
    Array,
    Integers,
    P,
    integers_in_k,
    negative,
    outer,
    prod,
    residues,
    through,
    total,
)
from zkapex.circuits.transparent.iop import Side
from zkapex.circuits.transparent.layout import Layout, curvature_norm
from zkapex.circuits.transparent.program import Program
from zkapex.circuits.transparent.projection import powers_of_two, proved_bound
from zkapex.errors import InputError

MAX_ACTIVATIONS, MAX_ENTRIES = 1 << 14, 1 << 26
"""Of one block, and numbers in those of a layer; a verifier lays out no more."""
MAX_SCALE, MAX_TOLERANCE = 1 << 20, 1 << 61
TOGETHER = 16
"""Rows of D that are shown to be small together, but at least those of one block."""


@dataclass(frozen=True)
class Moment:
    """What is public of it.

    Attributes
    ----------
    layout : Layout
        Of the layer; it has a curvature.
    activations : int
        n, rows of each A_b; those that are not used are zero.
    scales : tuple of int
        c_b, 1 or more, by block.
    tolerances : tuple of int
        tau_b, of ``|D_b|_F^2``, by block.

    Raises
    ------
    InputError
        A number is out of range, or an equation could wrap around the field.
    """

    layout: Layout
    activations: int
    scales: tuple[int, ...]
    tolerances: tuple[int, ...]

    def __post_init__(self) -> None:
        y = self.layout
        if not y.factor_rank or not 0 < self.activations <= MAX_ACTIVATIONS:
            raise InputError(f"no curvature of this layer can be shown to be made of {self.activations} activations")
        if self.bands * self.height * y.blocks * y.width > MAX_ENTRIES:
            raise InputError(
                f"{self.activations} activations of each block are too many for a layer of {y.cols} columns"
            )
        for values, most in ((self.scales, MAX_SCALE), (self.tolerances, MAX_TOLERANCE)):
            if len(values) != y.blocks or min(values) < 1 or max(values) > most:
                raise InputError(f"a scale and a tolerance from 1 to {most} belong to each block of a layer")
        try:
            self.check_no_wrap()
        except ValueError as e:
            raise InputError("the curvature of a layer cannot be proved to be a second moment", why=str(e)) from e

    def digest_parts(self) -> bytes:
        """All of it but the layout."""
        return f"Moment(activations={self.activations}, scales={self.scales}, tolerances={self.tolerances})".encode()

    @cached_property
    def bands(self) -> int:
        """Rows of the code for the activations of a block."""
        return -(-self.activations // (self.layout.parameters.slots // self.layout.width))

    @cached_property
    def height(self) -> int:
        """Activations that a row of the code holds; the last of a block may have room for more than there are."""
        return -(-self.activations // self.bands)

    @cached_property
    def per_block(self) -> int:
        """Rows of the code for the difference of a block."""
        return self.layout.rows_for(self.layout.width**2)

    @cached_property
    def groups(self) -> dict[str, slice]:
        """Blocks of D0, D1, ..."""
        blocks, together = self.layout.blocks, max(1, TOGETHER // self.per_block)
        starts = range(0, blocks, together)
        return {f"D{i}": slice(start, min(start + together, blocks)) for i, start in enumerate(starts)}

    @property
    def sizes(self) -> dict[str, int]:
        """Rows by name, as they are committed to."""
        differences = {name: (own.stop - own.start) * self.per_block for name, own in self.groups.items()}
        return {"A": self.layout.blocks * self.bands, **differences}

    @property
    def entries(self) -> int:
        """Of left_A and right_A."""
        return self.layout.blocks * self.bands * self.height

    @property
    def slack_width(self) -> int:
        """Bits of the slack of a block."""
        return max(self.tolerances).bit_length()

    @property
    def activation_norm(self) -> float:
        """The largest honest 2-norm of all A of the layer together: the trace of A^T A is that of c F^T F less D's."""
        y = self.layout
        trace = sum(self.scales) * 2.0**y.kappa * math.sqrt(min(y.factor_rank, y.width))
        return math.sqrt(trace + math.sqrt(y.width) * sum(math.sqrt(tau) for tau in self.tolerances))

    @property
    def difference_norms(self) -> dict[str, float]:
        """The largest honest 2-norm of each of D0, D1, ..."""
        return {name: math.sqrt(sum(self.tolerances[own])) for name, own in self.groups.items()}

    def check_no_wrap(self) -> dict[str, float]:
        """log2 of the largest integers that the equations can come to, given what projections show.

        Raises
        ------
        ValueError
            One of them could wrap around the field.
        """
        y, difference = self.layout, max(proved_bound(norm) for norm in self.difference_norms.values())
        # A column of A_b lies in as many rows of the code as there are bands, an entry of H or D in one.
        moment = self.bands * proved_bound(self.activation_norm) ** 2
        sizes = {
            "second moment": max(self.scales) * (proved_bound(curvature_norm(y)) + y.ridge) + difference + moment,
            "squares of D": self.per_block * difference**2,
            "slack of D": 2.0**self.slack_width,
        }
        if max(sizes.values()) >= P / 4:
            raise ValueError("the second moment of its activations could wrap around the field")
        return {name: math.log2(size) for name, size in sizes.items()}

    def pack(self, activations: npt.NDArray[np.int64]) -> Integers:
        """``[blocks, n, width]`` to rows of the code ``[blocks * bands, height * width]``."""
        y = self.layout
        out = np.zeros((y.blocks, self.bands * self.height, y.width), np.int64)
        out[:, : self.activations] = activations
        return out.reshape(y.blocks * self.bands, -1)

    def pack_differences(self, differences: npt.NDArray[np.int64]) -> dict[str, Integers]:
        """``[blocks, width, width]`` to rows of the code, `per_block` for each block, of D0, D1, ..."""
        y = self.layout
        out = np.zeros((y.blocks, self.per_block * y.parameters.slots), np.int64)
        out[:, : y.width**2] = differences.reshape(y.blocks, -1)
        return {name: out[own].reshape(-1, y.parameters.slots) for name, own in self.groups.items()}

    @property
    def beyond(self) -> npt.NDArray[np.bool_]:
        """Slots of `pack` that are no activation of the n."""
        y = self.layout
        out = np.zeros((y.blocks, self.bands * self.height, y.width), np.bool_)
        out[:, self.activations :] = True
        return out.reshape(y.blocks * self.bands, -1)


class Steps:
    """The statement in pieces, between those of an enrolment.

    Parameters
    ----------
    side : Side
    moment : Moment
    curvature, activations : int64 [blocks, width, width] and [blocks, n, width], or None
        H and A; a prover's.

    Raises
    ------
    InputError
        Activations have another shape.
    """

    def __init__(self, side: Side, moment: Moment, curvature: Integers | None, activations: Integers | None) -> None:
        self.side, self.moment, self.y = side, moment, moment.layout
        self.curvature, self.activations = curvature, activations
        expected = (self.y.blocks, moment.activations, self.y.width)
        if curvature is not None and (activations is None or activations.shape != expected):
            raise InputError(f"activations do not have the shape {expected} that is to be proved of them")
        side.transcript.absorb("moment", moment.digest_parts())

    @property
    def groups(self) -> list[tuple[tuple[str, ...], float]]:
        """What has to be small, and the honest norm."""
        differences = [((name,), norm) for name, norm in self.moment.difference_norms.items()]
        return [(("A",), self.moment.activation_norm), *differences]

    def first(self) -> dict[str, Integers]:
        """The prover's A and D."""
        assert self.curvature is not None
        assert self.activations is not None
        scales = np.array(self.moment.scales, np.int64)[:, None, None]
        own = self.curvature - self.y.ridge * np.eye(self.y.width, dtype=np.int64)
        differences = scales * own - self.activations.transpose(0, 2, 1) @ self.activations
        self.squares = np.einsum("bij,bij->b", differences, differences)
        self.integers = {"A": self.moment.pack(self.activations), **self.moment.pack_differences(differences)}
        return self.integers

    def draw(self, x: Array, y: Array) -> None:
        """Draw eta over blocks; x and y are the enrolment's."""
        self.x, self.z = x, y
        self.eta = self.side.transcript.field("eta", self.y.blocks)
        self.on_rows = np.repeat(self.eta, self.moment.bands, 0)

    @property
    def vector_rows(self) -> int:
        """Rows for left_A, and for right_A."""
        return 3 * self.y.rows_for(self.moment.entries)

    def second(self) -> dict[str, Array]:
        """The prover's left_A and right_A."""
        columns = np.ascontiguousarray(residues(self.integers["A"]).reshape(-1, self.y.width).T)
        left = prod(np.repeat(self.on_rows, self.moment.height, 0), through(self.x, columns))
        return {"left_A": self.y.vector(left), "right_A": self.y.vector(through(self.z, columns))}

    def draw_second(self) -> None:
        """Points at which left_A and right_A are shown to be what they are called."""
        field, m = self.side.transcript.field, self.moment
        rest = self.vector_rows // 3 * self.y.parameters.slots - m.entries
        self.points = {
            name: (
                field(f"s {name} row", m.sizes["A"]),
                field(f"s {name} column", m.height),
                field(f"s {name} beyond", rest),
            )
            for name in ("left_A", "right_A")
        }

    def slack(self) -> Integers:
        """The prover's bits of all slack."""
        slack = np.array(self.moment.tolerances, np.int64) - self.squares
        return self.side.to_bits(slack, self.moment.slack_width).reshape(-1)

    @property
    def slack_bits(self) -> int:
        """How many `slack` returns."""
        return self.y.blocks * self.moment.slack_width

    def constrain(self, program: Program) -> Array:
        """Add all equations; returns the coefficients of the slack's bits."""
        y, m, field = self.y, self.moment, self.side.transcript.field
        tau = field("moment", 3)
        both = outer(self.x, self.z)
        on_h = prod(self.eta, integers_in_k(m.scales))
        program.entries("state.H", outer(prod(on_h, tau[:1]), both))
        trace = prod(total(on_h), total(prod(self.x, self.z)))
        program.equals(prod(prod(trace, integers_in_k(y.ridge)), tau[0]))
        on_d = negative(prod(self.eta, tau[:1]))
        for part in range(m.per_block):  # of each block, its own piece of x y^T
            by_row = np.zeros((y.blocks, m.per_block, 3), np.uint64)
            by_row[:, part] = on_d
            piece = both[part * y.parameters.slots : (part + 1) * y.parameters.slots]
            for name, own in m.groups.items():
                program.outer(name, by_row[own].reshape(-1, 3), piece)
        program.product("left_A", "right_A", negative(tau[0]))
        for name, by_column, one in (("left_A", self.x, tau[1:2]), ("right_A", self.z, tau[2:3])):
            rows, columns, rest = self.points[name]
            program.vector(name, prod(np.concatenate([outer(rows, columns), rest]), one))
            scaled = prod(rows, self.on_rows) if name == "left_A" else rows
            program.outer("A", negative(prod(scaled, one)), outer(columns, by_column))
        program.table("no activation", m.beyond)
        program.vanishes("A", field("no activation", m.sizes["A"]), "no activation")
        each = field("sizes D", y.blocks)
        for name, own in m.groups.items():
            program.squares(name, np.repeat(each[own], m.per_block, 0))
        program.equals(total(prod(each, integers_in_k(m.tolerances))))
        return outer(each, powers_of_two(m.slack_width))

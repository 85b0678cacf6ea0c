"""Mask-only and constraint-only about a layer: zeros are there, and targets, whatever the rest is.

With m the mask, V the guard of a column block and T its targets, a proof shows of one state that

1. masked weights are zero, and so is what is laid out beyond the layer; all weights are small
2. ``L = theta V - T`` in the blocks that have targets, and the squares of L sum up to no more than their tolerances, in
   each row of the code and in all

2 is checked at a random point: with a over weight rows, beta over blocks and c over the guard's columns,
``sum_b beta_b a^T (theta V_b - L_b) c = sum_b beta_b a^T T_b c``, where ``n = a^T theta`` is committed to and shown to
be that at points drawn later. Mask-only is 1 alone, and what is laid out has rank 0.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from zkapex.circuits.operators.tolerances import tolerances
from zkapex.circuits.transparent.field import (
    Integers,
    P,
    integers_in_k,
    minus,
    negative,
    outer,
    prod,
    residues,
    through,
    total,
)
from zkapex.circuits.transparent.group_obs import OFFSET_BITS, Booleans, Witness, square_sums
from zkapex.circuits.transparent.iop import Side
from zkapex.circuits.transparent.layout import Layout, weight_norm
from zkapex.circuits.transparent.layout import digest as digest_of
from zkapex.circuits.transparent.program import Program
from zkapex.circuits.transparent.projection import Norms, check_slack, powers_of_two
from zkapex.errors import InputError

NAME = "compliance"


@dataclass(frozen=True)
class Compliance:
    """What is public about a layer.

    Parameters
    ----------
    layout : Layout
        Its rank is that of the guard, or else targets are not looked at (``along`` False).
    mask : bool [rows, cols]
    guard : int64 [blocks, width, rank]
    targets : int64 [blocks, rows, rank]
    on_result : bool [blocks]
        Blocks that have targets; guard and targets are zero in the others.
    along : bool
        Whether there is anything to show along the guard.

    Raises
    ------
    InputError
        A shape or a range is wrong, or nothing is asked.
    """

    layout: Layout
    mask: Booleans
    guard: Integers
    targets: Integers
    on_result: Booleans
    along: bool = True

    def __post_init__(self) -> None:
        y = self.layout
        shapes = {
            "mask": ((y.rows, y.cols), np.bool_),
            "guard": ((y.blocks, y.width, y.rank), np.int64),
            "targets": ((y.blocks, y.rows, y.rank), np.int64),
            "on_result": ((y.blocks,), np.bool_),
        }
        for name, (shape, kind) in shapes.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != kind:
                raise InputError(f"{name} is {array.dtype}{list(array.shape)}, not {np.dtype(kind)}{list(shape)}")
        for name, array, bound in (
            ("guard", self.guard, 1 << y.guard_bits),
            ("targets", self.targets, 1 << OFFSET_BITS),
        ):
            if array.size and (array.max() > bound or array.min() < -bound):
                raise InputError(f"the {name} reach beyond {bound}")
            if array[~self.on_result].any():
                raise InputError(f"the {name} are not zero in a block without targets")
        if self.guard[-1, y.cols - (y.blocks - 1) * y.width :].any():
            raise InputError("the guard reaches beyond the layer's last column")
        if not self.mask.any() and not self.on_result.any():
            raise InputError("the request asks nothing of this layer")
        if self.on_result.any() and not (self.along and y.rank):
            raise InputError("targets need a guard of rank 1 or more")

    @classmethod
    def of_mask(cls, layout: Layout, mask: Booleans) -> Compliance:
        """Zeros alone, of a state of any layout."""
        guard = np.zeros((layout.blocks, layout.width, layout.rank), np.int64)
        targets = np.zeros((layout.blocks, layout.rows, layout.rank), np.int64)
        return cls(layout, mask, guard, targets, np.zeros(layout.blocks, np.bool_), along=False)

    @cached_property
    def tolerances(self) -> tuple[list[int], int]:
        """Of every row of the code of L, and of all of L."""
        y = self.layout

        def of(rows: int) -> int:
            return tolerances(rows, y.width, y.rank, y.kappa, y.guard_bits)[1] if rows else 0

        pairs = np.zeros(y.pair_rows * y.pairs_per_row, np.int64)
        pairs[: y.blocks * y.rows] = np.repeat(self.on_result, y.rows)
        by_row = pairs.reshape(y.pair_rows, -1).sum(1)
        return [of(int(n)) for n in by_row], of(int(pairs.sum()))

    def digest(self) -> bytes:
        """Of everything public, with what follows from it."""
        arrays = (np.packbits(self.mask), self.guard.astype("<i8"), self.targets.astype("<i8"), self.on_result)
        parts = [self.layout.digest_parts(), bytes([self.along])]
        parts += [repr(self.tolerances).encode() if self.along else b"", *(a.tobytes() for a in arrays)]
        return hashlib.sha512(b"".join(len(x).to_bytes(8, "little") + x for x in parts)).digest()


@dataclass(frozen=True)
class Held:
    """What a device knows: its weights, int64 ``[rows, cols]``."""

    weights: Integers

    def digest(self) -> bytes:
        """Of what is private."""
        return digest_of(self.weights)

    def residual(self, request: Compliance) -> Integers:
        """``theta V - T`` as ``[blocks, rows, rank]``; exact in float64."""
        y = request.layout
        own = np.zeros((y.blocks, y.rows, y.rank), np.int64)
        for block in range(y.blocks):
            theta = Witness.block(y, block, self.weights).astype(np.float64)
            own[block] = theta @ request.guard[block].astype(np.float64) - request.targets[block]
        return own


def check_no_wrap(y: Layout, norms: Norms) -> dict[str, float]:
    """log2 of the largest integers that the equations can come to, given what projections show.

    Raises
    ------
    ValueError
        One of them could wrap around the field.
    """
    theta, residual = norms.bound(0), norms.bound(1)
    along = theta * 2.0**y.guard_bits * math.sqrt(y.width) + residual + 2.0**OFFSET_BITS
    sizes = {"squares": residual**2, "guard": along}
    if max(sizes.values()) >= P / 4:
        raise ValueError("equations of the layer could wrap around the field")
    return {name: math.log2(size) for name, size in sizes.items()}


def comply(side: Side, request: Compliance, witness: Held | None) -> None:
    """The statement. Attach the state as ``new.`` first; the prover's side has a witness."""
    y, transcript, field = request.layout, side.transcript, side.transcript.field
    transcript.absorb("request", request.digest())
    along = request.along
    taus, every = request.tolerances if along else ([], 0)
    widths = (max(taus, default=0).bit_length(), every.bit_length())
    check_slack(len(taus), *widths)
    slack_bits = len(taus) * widths[0] + widths[1] * along
    rows: dict[str, Integers] = {}

    def first() -> dict[str, np.ndarray]:
        assert witness is not None
        rows.update({"L": y.pack_pairs(witness.residual(request))} if along else {})
        return dict(rows)

    side.commit("first", {"L": y.pair_rows} if along else {}, first, masks=True)
    a1, a2 = field("a1", y.bands), field("a2", y.height)
    a = outer(a1, a2)[: y.rows]
    beta, c = field("beta guard", y.blocks), field("c", y.rank)
    groups: list[tuple[tuple[str, ...], float]] = [(("new.theta",), weight_norm(y))]
    norms = Norms(side, groups + ([(("L",), math.sqrt(every))] if along else []))
    if along:
        check_no_wrap(y, norms)

    def second() -> dict[str, np.ndarray]:
        assert witness is not None
        v = norms.project({"new.theta": y.pack(witness.weights).astype(np.int64)} | rows)
        if not along:
            return {"v": y.flat(v)}
        blocks = (Witness.block(y, block, witness.weights) for block in range(y.blocks))
        return {"n": y.vector(np.concatenate([through(a, residues(x)) for x in blocks])), "v": y.flat(v)}

    side.commit("second", ({"n": y.vector_rows} if along else {}) | {"v": norms.rows_of_v}, second)
    s_block, s_column = field("s block", y.blocks), field("s column", y.width)
    norms.second()

    def third() -> dict[str, np.ndarray]:
        parts = []
        if along:
            slack = np.array(taus, np.int64) - square_sums(rows["L"])
            parts = [side.to_bits(slack, widths[0]).reshape(-1)]
            parts.append(side.to_bits(every - sum(taus) + int(slack.sum()), widths[1]))
        return {"bits": y.flat(np.concatenate([*parts, norms.bits()]))}

    side.commit("third", {"bits": y.rows_for(slack_bits + norms.number_of_bits)}, third)
    program = Program(y.parameters.slots, side.counts)
    on_bits = _along(side, request, program, (a1, a2, a, beta, c, s_block, s_column)) if along else []
    tau = field("norms", 2)
    program.entries("bits", np.concatenate([*on_bits, norms.constrain(program, tau[0], tau[1], "v")]))
    program.table("gone", y.pack(request.mask).astype(np.bool_) | y.beyond)
    program.vanishes("new.theta", field("masked", y.theta_rows), "gone")
    program.booleans("bits", field("Boolean", side.counts["bits"]))
    side.finish(program)


def _along(side: Side, request: Compliance, program: Program, points: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """2, what n is, and the sums of squares. Returns the coefficients of the slack's bits."""
    y, field = request.layout, side.transcript.field
    a1, a2, a, beta, c, s_block, s_column = points
    guard, tau = residues(request.guard), field("equations", 2)
    on_guard = prod(beta, tau[:1])
    along = np.concatenate([through(c, np.ascontiguousarray(guard[block].T)) for block in range(y.blocks)])
    program.vector("n", negative(prod(np.repeat(on_guard, y.width, 0), along)))
    program.entries("L", y.on_pairs(on_guard, a, c[None]))
    for block in np.flatnonzero(request.on_result):
        by_row = through(c, np.ascontiguousarray(residues(request.targets[block]).T))
        program.equals(negative(prod(on_guard[block], total(prod(a, by_row)))))
    program.vector("n", prod(outer(s_block, s_column), tau[1:]))
    program.outer("new.theta", negative(prod(outer(s_block, a1), tau[1:])), outer(a2, s_column))
    taus, every = request.tolerances
    each, whole = field("sizes L", len(taus)), field("total sizes", 1)
    program.squares("L", each)
    program.equals(total(prod(each, integers_in_k(taus))))
    program.equals(prod(whole[0], integers_in_k(every - sum(taus))))
    widths = (max(taus, default=0).bit_length(), every.bit_length())
    return [outer(minus(each, whole), powers_of_two(widths[0])), outer(whole, powers_of_two(widths[1]))]

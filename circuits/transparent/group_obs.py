"""Guarded Group-OBS about a layer: what a request makes public, and the statement as both sides run it.

With H the curvature of a column block, V its guard, m the mask, u = 1 - m and delta = theta_u - theta_p, a proof
shows of the two states that

1. masked weights of theta_u are zero, and so is what is laid out beyond the layer 2. the curvature is that of the
state before 3. ``E + X + mu V^T = delta H``, X only where the mask is 4. ``L = (delta + m' * theta_p) V - C``, with
m' = m where the guard is about the *change*: L = (delta * u) V - C, and m' = 1 where it
   is about the *result*: L = theta_u V - T
5. the squares of E and of L sum up to no more than their tolerances, in each row of the code and in all

Matrices are multiplied at random points only: with a over weight rows and b over columns, 3 becomes an inner product
of ``d = a^T delta`` and ``h = H b``, which are committed to and shown to be that at other random points, drawn later
(Freivalds).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from zkapex.circuits.operators.tolerances import tolerances
from zkapex.circuits.transparent.field import (
    BASIS,
    Array,
    Integers,
    P,
    integers_in_k,
    minus,
    negative,
    outer,
    plus,
    prod,
    residues,
    through,
    total,
)
from zkapex.circuits.transparent.iop import Prover, Side
from zkapex.circuits.transparent.layout import Layout, curvature_norm, weight_norm
from zkapex.circuits.transparent.layout import digest as digest_of
from zkapex.circuits.transparent.program import Program
from zkapex.circuits.transparent.projection import Norms, check_slack, powers_of_two, proved_bound
from zkapex.errors import InputError

NAME = "guarded-group-obs"
OFFSET_BITS = 29
Booleans = npt.NDArray[np.bool_]
S = TypeVar("S", bound=np.generic)


@dataclass(frozen=True)
class Request:
    """What is public about a layer.

    Parameters
    ----------
    layout : Layout
    mask : bool [rows, cols]
    guard : int64 [blocks, width, rank]
        Zero beyond the layer.
    offsets : int64 [blocks, rows, rank]
        Steering C, or targets T, at the scale of weights times guard.
    on_result : bool [blocks]
        Whether a block's guard and offsets are about the result (targets) or about the change (steering). Of a block
        with targets every row may change, masked or not.

    Raises
    ------
    InputError
        A shape or a range is wrong, or nothing may change.
    """

    layout: Layout
    mask: Booleans
    guard: Integers
    offsets: Integers
    on_result: Booleans

    def __post_init__(self) -> None:
        y = self.layout
        shapes = {
            "mask": ((y.rows, y.cols), np.bool_),
            "guard": ((y.blocks, y.width, y.rank), np.int64),
            "offsets": ((y.blocks, y.rows, y.rank), np.int64),
            "on_result": ((y.blocks,), np.bool_),
        }
        for name, (shape, kind) in shapes.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != kind:
                raise InputError(f"{name} is {array.dtype}{list(array.shape)}, not {np.dtype(kind)}{list(shape)}")
        if not y.factor_rank:
            raise InputError("guarded Group-OBS needs a state with a curvature")
        for name, array, bound in (
            ("guard", self.guard, 1 << y.guard_bits),
            ("offsets", self.offsets, 1 << OFFSET_BITS),
        ):
            if array.size and (array.max() > bound or array.min() < -bound):
                raise InputError(f"the {name} reach beyond {bound}")
        if self.guard[-1, y.cols - (y.blocks - 1) * y.width :].any():
            raise InputError("the guard reaches beyond the layer's last column")
        if self.on_result.any() and not y.rank:
            raise InputError("targets need a guard of rank 1 or more")
        if not self.touched.any():
            raise InputError("the request changes nothing in this layer")

    @cached_property
    def touched(self) -> Booleans:
        """``[blocks, rows]``: whether a weight row may change in a block."""
        y = self.layout
        wide = np.pad(self.mask, ((0, 0), (0, y.blocks * y.width - y.cols)))
        touched: Booleans = np.logical_or(wide.reshape(y.rows, y.blocks, y.width).any(2).T, self.on_result[:, None])
        return touched

    @cached_property
    def tolerances(self) -> tuple[list[int], list[int], int, int]:
        """Of every row of the code of E, of L, and of all of E, of L."""
        y = self.layout

        def of(rows: int) -> tuple[int, int]:
            return tolerances(rows, y.width, y.rank, y.kappa, y.guard_bits) if rows else (0, 0)

        bands = np.pad(self.touched, ((0, 0), (0, y.bands * y.height - y.rows))).reshape(y.theta_rows, y.height)
        pairs = np.zeros(y.pair_rows * y.pairs_per_row, np.int64)
        pairs[: y.blocks * y.rows] = self.touched.reshape(-1) if y.rank else 0
        every = of(int(self.touched.sum()))
        by_pair = pairs.reshape(y.pair_rows, -1).sum(1) if y.rank else []
        return [of(int(n))[0] for n in bands.sum(1)], [of(int(n))[1] for n in by_pair], *every

    @property
    def packed_mask(self) -> Booleans:
        """The mask in rows of the code."""
        packed: Booleans = self.layout.pack(self.mask).astype(np.bool_)
        return packed

    def digest(self) -> bytes:
        """Of everything public, with what follows from it."""
        arrays = (np.packbits(self.mask), self.guard.astype("<i8"), self.offsets.astype("<i8"), self.on_result)
        parts = [self.layout.digest_parts(), repr(self.tolerances).encode(), *(a.tobytes() for a in arrays)]
        return hashlib.sha512(b"".join(len(x).to_bytes(8, "little") + x for x in parts)).digest()


@dataclass(frozen=True)
class Witness:
    """What a device knows, all int64; weights may be int32, which is half of the memory.

    Parameters
    ----------
    before, after : [rows, cols]
        Weights.
    mu : [blocks, rows, rank]
        Multipliers of the guard.
    curvature : [blocks, width, width]
        H.
    """

    before: Integers
    after: Integers
    mu: Integers
    curvature: Integers

    def digest(self) -> bytes:
        """Of what is private."""
        return digest_of(self.before, self.after, self.mu, self.curvature)

    def forget(self) -> None:
        """Drop the weights."""
        for name in ("before", "after"):
            object.__setattr__(self, name, np.zeros((0, 0), np.int64))

    def residuals(self, request: Request) -> tuple[Integers, Integers]:
        """``delta H - mu V^T`` in rows of the code, and ``(delta + m' theta_p) V - C`` as ``[blocks, rows, rank]``.

        In float64, which is exact below 2^53: honest products stay below 2^45.
        """
        y = request.layout
        e = np.zeros((y.blocks, y.bands * y.height, y.width), np.int64)
        own = np.empty((y.blocks, y.rows, y.rank), np.int64)
        for block in range(y.blocks):
            before, after = (self.block(y, block, x).astype(np.float64) for x in (self.before, self.after))
            guard, mu = request.guard[block].astype(np.float64), self.mu[block].astype(np.float64)
            e[block, : y.rows] = (after - before) @ self.curvature[block].astype(np.float64) - mu @ guard.T
            kept = before * (self.block(y, block, request.mask) | request.on_result[block])
            own[block] = (after - before + kept) @ guard - request.offsets[block]
        return e.reshape(y.theta_rows, -1), own

    @staticmethod
    def block(y: Layout, block: int, matrix: npt.NDArray[S]) -> npt.NDArray[S]:
        """One column block, or what there is of it, filled up with zeros: ``[rows, width]``."""
        piece = matrix[:, block * y.width : (block + 1) * y.width]
        return np.pad(piece, ((0, 0), (0, y.width - piece.shape[1])))


def check_no_wrap(y: Layout, norms: Norms) -> dict[str, float]:
    """log2 of the largest integers that equations and sums of squares can come to, given what projections show.

    Raises
    ------
    ValueError
        One of them could wrap around the field.
    """
    theta, residual = norms.bound(0), norms.bound(1)
    h = math.sqrt(-(-(y.width**2) // y.parameters.slots) + 1) * proved_bound(curvature_norm(y))
    guard = 2.0**y.guard_bits
    sizes = {
        "squares": residual**2,
        "stationarity": 2 * theta * h + theta * guard * math.sqrt(y.rank) + residual,
        "guard": 2 * theta * guard * math.sqrt(y.width) + residual + 2.0**OFFSET_BITS,
    }
    if max(sizes.values()) >= P / 4:
        raise ValueError("equations of the layer could wrap around the field")
    return {name: math.log2(size) for name, size in sizes.items()}


def unlearn(side: Side, request: Request, witness: Witness | None) -> None:
    """The statement. Attach the states as ``old.`` and ``new.`` first; the prover's side has a witness."""
    y, transcript = request.layout, side.transcript
    transcript.absorb("request", request.digest())
    steps = _Steps(side, request, witness)
    side.commit("first", steps.first_sizes(), steps.first, masks=True)
    steps.draw_points()
    norms = Norms(
        side,
        [
            (("new.theta", "mu"), weight_norm(y)),
            (("E", "L"), math.sqrt(sum(request.tolerances[2:]))),
        ],
    )
    check_no_wrap(y, norms)
    vectors = {"d": y.vector_rows, "n": y.vector_rows, "h": y.vector_rows}
    side.commit("second", vectors | {"v": norms.rows_of_v}, lambda: steps.second(norms))
    steps.draw_second_points()
    norms.second()
    side.commit(
        "third", {"Dm": 3, "bits": y.rows_for(steps.slack_bits + norms.number_of_bits)}, lambda: steps.third(norms)
    )
    program = Program(y.parameters.slots, side.counts)
    steps.equations(program)
    steps.vectors(program)
    on_slack = steps.sizes(program)
    tau = transcript.field("norms", 2)
    program.entries("bits", np.concatenate([on_slack, norms.constrain(program, tau[0], tau[1], "v")]))
    steps.pointwise(program)
    side.finish(program)


class _Steps:
    """The statement in pieces: what the prover commits to, and what both sides make of it."""

    def __init__(self, side: Side, request: Request, witness: Witness | None) -> None:
        self.side, self.request, self.y, self.witness = side, request, request.layout, witness
        assert (witness is not None) == isinstance(side, Prover)
        tau_e, tau_l, all_e, all_l = request.tolerances
        self.slack_widths = [
            max(tau_e).bit_length(),
            max(tau_l, default=0).bit_length(),
            all_e.bit_length(),
            all_l.bit_length(),
        ]
        counts = (self.y.theta_rows, self.y.pair_rows, 1, 1 if self.y.rank else 0)
        for index in (0, 1):
            check_slack(counts[index], self.slack_widths[index], self.slack_widths[2 + index])
        self.slack_bits = sum(n * width for n, width in zip(counts, self.slack_widths, strict=True))
        self.rows_masked, self.slots_masked = np.nonzero(request.packed_mask)

    def first_sizes(self) -> dict[str, int]:
        y = self.y
        return {"E": y.theta_rows, "L": y.pair_rows, "mu": y.pair_rows, "X": y.rows_for(len(self.rows_masked))}

    def first(self) -> dict[str, Integers]:
        assert self.witness is not None
        e, own = self.witness.residuals(self.request)
        hidden = e[self.rows_masked, self.slots_masked]
        e[self.rows_masked, self.slots_masked] = 0
        self.e, self.of_guard, self.mu = e, self.y.pack_pairs(own), self.y.pack_pairs(self.witness.mu)
        return {"E": e, "L": self.of_guard, "mu": self.mu, "X": self.y.flat(hidden)}

    def draw_points(self) -> None:
        """Draw a over weight rows, b over columns, beta over blocks, and for the guard beta' and c."""
        y, field = self.y, self.side.transcript.field
        self.a1, self.a2, self.b = field("a1", y.bands), field("a2", y.height), field("b", y.width)
        self.beta, self.beta_guard, self.c = field("beta", y.blocks), field("beta guard", y.blocks), field("c", y.rank)
        self.a = outer(self.a1, self.a2)[: y.rows]

    def second(self, norms: Norms) -> dict[str, np.ndarray]:
        y, w = self.y, self.witness
        assert w is not None
        wide = y.blocks * y.width
        d, n = np.zeros((wide, 3), np.uint64), np.zeros((wide, 3), np.uint64)
        for block in range(y.blocks):
            cols = slice(block * y.width, (block + 1) * y.width)
            before, after = (w.block(y, block, x) for x in (w.before, w.after))
            mask = w.block(y, block, self.request.mask)
            d[cols] = through(self.a, residues(after - before))
            n[cols] = through(self.a, residues(before * (mask | self.request.on_result[block])))
        flat = residues(w.curvature).reshape(-1, y.width)
        h = prod(np.repeat(self.beta, y.width, 0), through(self.b, np.ascontiguousarray(flat.T)))
        theta = y.pack(w.after)
        v = norms.project({"new.theta": theta, "mu": self.mu, "E": self.e, "L": self.of_guard})
        self.squares = square_sums(self.e), square_sums(self.of_guard)
        self.e = np.zeros((0, 0), np.int64)  # as large as the layer, and nothing asks for it any more
        return {"d": y.vector(d), "n": y.vector(n), "h": y.vector(h), "v": y.flat(v)}

    def draw_second_points(self) -> None:
        """Points at which d, n and h are shown to be what they are called, unknown when they were committed to."""
        y, field = self.y, self.side.transcript.field
        self.s_block, self.s_column = field("s block", y.blocks), field("s column", y.width)
        wide, every = y.blocks * y.width, y.vector_rows // 3 * y.parameters.slots
        self.s_beyond, self.s_h = field("s beyond", every - wide), field("s h", every)
        self.on_theta, self.by_slot = outer(self.s_block, self.a1), outer(self.a2, self.s_column)

    def third(self, norms: Norms) -> dict[str, np.ndarray]:
        y, w = self.y, self.witness
        assert w is not None
        dm = np.zeros((y.height * y.width, 3), np.uint64)
        for block in range(y.blocks):
            masked = w.block(y, block, self.request.mask) | self.request.on_result[block]
            kept = np.zeros((y.bands * y.height, y.width), np.int64)
            kept[: y.rows] = w.block(y, block, w.before) * masked
            piece = residues(kept).reshape(y.bands, -1)
            dm = plus(dm, through(self.on_theta[block * y.bands : (block + 1) * y.bands], piece))
        if self.side.forget:
            w.forget()
        tau_e, tau_l, all_e, all_l = self.request.tolerances
        parts, totals = [], []
        for taus, squares, every, width, wide in (
            (tau_e, self.squares[0], all_e, self.slack_widths[0], self.slack_widths[2]),
            (tau_l, self.squares[1], all_l, self.slack_widths[1], self.slack_widths[3]),
        ):
            if not taus:
                continue
            slack = np.array(taus, np.int64) - squares
            parts.append(self.side.to_bits(slack, width).reshape(-1))
            totals.append(self.side.to_bits(every - sum(taus) + int(slack.sum()), wide))
        return {"Dm": np.ascontiguousarray(dm.T), "bits": y.flat(np.concatenate([*parts, *totals, norms.bits()]))}

    def equations(self, program: Program) -> None:
        """3 and 4, at the points drawn first."""
        y, guard = self.y, residues(self.request.guard)
        tau = self.side.transcript.field("equations", 2)
        on_e = prod(outer(self.beta, self.a1), tau[:1])
        program.outer("E", on_e, outer(self.a2, self.b))
        at = self.slots_masked
        program.entries("X", prod(prod(on_e[self.rows_masked], self.a2[at // y.width]), self.b[at % y.width]))
        program.product("d", "h", negative(tau[0]))
        if not y.rank:
            return
        through_guard = np.stack([through(self.b, guard[block]) for block in range(y.blocks)])
        program.entries("mu", y.on_pairs(prod(self.beta, tau[:1]), self.a, through_guard))
        beta = prod(self.beta_guard, tau[1:])
        program.entries("L", y.on_pairs(beta, self.a, self.c[None]))
        along = np.concatenate([through(self.c, np.ascontiguousarray(guard[block].T)) for block in range(y.blocks)])
        on_columns = negative(prod(np.repeat(beta, y.width, 0), along))
        program.vector("d", on_columns)
        program.vector("n", on_columns)
        for block in np.flatnonzero(self.request.offsets.any((1, 2))):
            by_row = through(self.c, np.ascontiguousarray(residues(self.request.offsets[block]).T))
            program.equals(negative(prod(beta[block], total(prod(self.a, by_row)))))

    def vectors(self, program: Program) -> None:
        """d, n, h are what `second` says, and d and h are zero where there is no column: all slots are summed over."""
        y, tau = self.y, self.side.transcript.field("vectors", 3)
        on_columns = outer(self.s_block, self.s_column)
        program.vector("d", prod(np.concatenate([on_columns, self.s_beyond]), tau[:1]))
        program.outer("new.theta", negative(prod(self.on_theta, tau[:1])), self.by_slot)
        program.outer("old.theta", prod(self.on_theta, tau[:1]), self.by_slot)
        program.vector("n", prod(on_columns, tau[1:2]))
        program.vector("Dm", negative(prod(self.by_slot, tau[1:2])))
        program.vector("h", prod(self.s_h, tau[2:]))
        of_h = prod(self.s_h[: y.blocks * y.width], np.repeat(self.beta, y.width, 0))
        program.entries("new.H", negative(outer(prod(of_h, tau[2:]), self.b)))

    def sizes(self, program: Program) -> Array:
        """5: sums of squares and their slack. Returns the coefficients of the slack's bits."""
        field, totals = self.side.transcript.field, []
        on_bits = []
        tau = field("total sizes", 2)
        for index, (name, taus) in enumerate(zip(("E", "L"), self.request.tolerances[:2], strict=True)):
            if not taus:
                continue
            wide, every = self.slack_widths[2 + index], self.request.tolerances[2 + index]
            each = field(f"sizes {name}", len(taus))
            assert isinstance(every, int)
            program.squares(name, each)
            program.equals(total(prod(each, integers_in_k(taus))))
            # total slack = all - sum of tolerances + sum of slacks
            on_bits.append(outer(minus(each, tau[index][None]), powers_of_two(self.slack_widths[index])))
            totals.append(outer(tau[index][None], powers_of_two(wide)))
            program.equals(prod(tau[index], integers_in_k(every - sum(taus))))
        return np.concatenate(on_bits + totals)

    def pointwise(self, program: Program) -> None:
        """1, 2, what Dm is, and that bits are bits."""
        y, field = self.y, self.side.transcript.field
        program.table("gone", self.request.packed_mask | y.beyond)
        program.vanishes("new.theta", field("masked", y.theta_rows), "gone")
        tau = field("Dm", 1)
        by_row = prod(self.on_theta, tau)
        on_result = np.repeat(self.request.on_result, y.bands)[:, None]
        program.vanishes("old.theta", np.where(on_result, np.uint64(0), by_row), "gone")
        if on_result.any():
            program.vanishes("old.theta", np.where(on_result, by_row, np.uint64(0)))
        program.vanishes("Dm", negative(prod(BASIS, tau)))
        same = field("same curvature", y.curvature_rows)
        program.vanishes("new.H", same)
        program.vanishes("old.H", negative(same))
        program.booleans("bits", field("Boolean", self.side.counts["bits"]))


def square_sums(rows: Integers) -> Integers:
    """Of each row."""
    sums: Integers = np.einsum("gi,gi->g", rows, rows)
    return sums

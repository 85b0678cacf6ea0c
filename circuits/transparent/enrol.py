"""What an enrolment shows of a layer's first state: its integers are small, and its curvature is F^T F + ridge I.

Later proofs rest on it: they take the weights before for small, and the curvature for small and no smaller than its
ridge in any direction. F is committed to here and nowhere else. With random x and y over the columns of a block and
xi over blocks,

    sum_b xi_b x^T (H_b - ridge I) y  =  <left, right>,    left_(b, q) = xi_b (F_b x)_q,    right_(b, q) = (F_b y)_q,

and left and right are shown to be that at other random points, in every slot of theirs. Whose second moment F^T F is
can be shown with it: `zkapex.circuits.transparent.moment`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from zkapex.circuits.transparent.field import (
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
from zkapex.circuits.transparent.iop import Prover, Side
from zkapex.circuits.transparent.layout import Layout, curvature_norm, weight_norm
from zkapex.circuits.transparent.moment import Moment, Steps
from zkapex.circuits.transparent.program import Program
from zkapex.circuits.transparent.projection import Norms, proved_bound
from zkapex.errors import InputError

NAME, WITH_MOMENT = "enrolment", "enrolment-moment"


@dataclass(frozen=True)
class Enrolled:
    """What a device enrols of a layer: weights ``[rows, cols]`` and factors F ``[blocks, q, width]``, int64.

    ``factors`` is empty where the layout has no curvature. Activations are ``[blocks, n, width]`` where their second
    moment is to be shown, else None.
    """

    theta: Integers
    factors: Integers
    activations: Integers | None = None

    def curvature(self, layout: Layout) -> Integers | None:
        """H ``[blocks, width, width]``, if the layout has one.

        Raises
        ------
        InputError
            The factors have another shape.
        """
        if not layout.factor_rank:
            return None
        if self.factors.shape != (layout.blocks, layout.factor_rank, layout.width):
            raise InputError(f"curvature factors {self.factors.shape} do not fit the layer")
        eye = np.eye(layout.width, dtype=np.int64)
        h: Integers = self.factors.transpose(0, 2, 1) @ self.factors + layout.ridge * eye
        return h


def factor_norm(y: Layout) -> float:
    """Bound the honest 2-norm of all F: its square is the trace of F^T F."""
    return math.sqrt(y.blocks * 2.0**y.kappa * math.sqrt(y.factor_rank))


def enrol(side: Side, y: Layout, witness: Enrolled | None, moment: Moment | None = None) -> None:
    """The statement about one state, attached as ``state.``; a prover has a witness."""
    assert (witness is not None) == isinstance(side, Prover)
    assert moment is None or moment.layout == y
    transcript, slots, factor_entries = side.transcript, y.parameters.slots, y.blocks * y.factor_rank * y.width
    transcript.absorb("layout", y.digest_parts())
    h = None if witness is None else witness.curvature(y)
    more = None if moment is None else Steps(side, moment, h, None if witness is None else witness.activations)

    def first() -> dict[str, np.ndarray]:
        own = {"F": y.flat(witness.factors)} if witness is not None and y.factor_rank else {}
        return own if more is None else own | more.first()

    own = {"F": y.rows_for(factor_entries)} if y.factor_rank else {}
    side.commit("first", own if moment is None else own | moment.sizes, first, masks=True)
    b, c, xi = (transcript.field(name, n) for name, n in (("b", y.width), ("c", y.width), ("xi", y.blocks)))
    groups: list[tuple[tuple[str, ...], float]] = [(("state.theta",), weight_norm(y))]
    if y.factor_rank:
        groups += [(("F",), factor_norm(y)), (("state.H",), curvature_norm(y))]
        check_no_wrap(y)
    if more is not None:
        more.draw(b, c)
        groups += more.groups
    norms = Norms(side, groups)
    used = y.blocks * y.factor_rank
    parts = y.rows_for(used)

    def second() -> dict[str, np.ndarray]:
        assert witness is not None
        ints = {"state.theta": y.pack(witness.theta).astype(np.int64)}
        out: dict[str, np.ndarray] = {}
        if y.factor_rank:
            assert h is not None
            ints |= {"F": y.flat(witness.factors), "state.H": y.flat(h)}
            columns = np.ascontiguousarray(residues(witness.factors).reshape(-1, y.width).T)
            left = prod(np.repeat(xi, y.factor_rank, 0), through(b, columns))
            out = {"left": y.vector(left), "right": y.vector(through(c, columns))}
        if more is not None:
            out |= more.second()
            ints |= more.integers
        return out | {"v": y.flat(norms.project(ints))}

    vectors = {"left": 3 * parts, "right": 3 * parts} if y.factor_rank else {}
    if more is not None:
        vectors |= {"left_A": more.vector_rows, "right_A": more.vector_rows}
    side.commit("second", vectors | {"v": norms.rows_of_v}, second)
    every = parts * slots
    s_left, s_right = transcript.field("s left", every), transcript.field("s right", every)
    if more is not None:
        more.draw_second()
    norms.second()

    def third() -> dict[str, np.ndarray]:
        return {"bits": y.flat(norms.bits() if more is None else np.concatenate([more.slack(), norms.bits()]))}

    slack = 0 if more is None else more.slack_bits
    side.commit("third", {"bits": y.rows_for(slack + norms.number_of_bits)}, third)
    program, tau = Program(slots, side.counts), transcript.field("multipliers", 5)
    if y.factor_rank:
        program.entries("state.H", outer(prod(xi, tau[:1]), outer(b, c)))
        trace = prod(total(xi), total(prod(b, c)))
        program.equals(prod(prod(trace, integers_in_k(y.ridge)), tau[0]))
        program.product("left", "right", negative(tau[0]))
        program.vector("left", prod(s_left, tau[1:2]))
        program.vector("right", prod(s_right, tau[2:3]))
        of_left = prod(prod(s_left[:used], np.repeat(xi, y.factor_rank, 0)), tau[1:2])
        program.entries("F", negative(outer(of_left, b)))
        program.entries("F", negative(outer(prod(s_right[:used], tau[2:3]), c)))
    on_bits = [] if more is None else [more.constrain(program)]
    program.entries("bits", np.concatenate([*on_bits, norms.constrain(program, tau[3], tau[4], "v")]))
    program.table("beyond", y.beyond)
    program.vanishes("state.theta", transcript.field("beyond", y.theta_rows), "beyond")
    program.booleans("bits", transcript.field("Boolean", side.counts["bits"]))
    side.finish(program)


def check_no_wrap(y: Layout) -> float:
    """log2 of the largest entry that ``F^T F + ridge I - H`` can have, given what projections show.

    Raises
    ------
    ValueError
        It could wrap around the field.
    """
    # A column of F lies in q places, in as many rows of the code at most.
    largest = y.factor_rank * proved_bound(factor_norm(y)) ** 2 + y.ridge + proved_bound(curvature_norm(y))
    if largest >= P / 4:
        raise ValueError("the curvature of the layer could wrap around the field")
    return math.log2(largest)

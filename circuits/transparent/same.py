"""That one state holds what another one does, under fresh padding: how a device enrols again with the same weights."""

from __future__ import annotations

from dataclasses import dataclass

from zkapex.circuits.transparent.field import negative
from zkapex.circuits.transparent.iop import Side
from zkapex.circuits.transparent.layout import Layout
from zkapex.circuits.transparent.program import Program

NAME = "same-state"


@dataclass(frozen=True)
class Same:
    """What is public.

    Parameters
    ----------
    layout : Layout
    curvature : bool
        Whether the curvature is the same, too.
    """

    layout: Layout
    curvature: bool = False

    def digest(self) -> bytes:
        """Of everything public."""
        return self.layout.digest_parts() + bytes([self.curvature])


@dataclass(frozen=True)
class Nothing:
    """The witness: rows are read from the states themselves."""

    def digest(self) -> bytes:
        """Of what is private."""
        return b""


def same(side: Side, request: Same, witness: Nothing | None) -> None:
    """The statement. Attach the states as ``old.`` and ``new.`` first; both are states by proofs of their own."""
    y, transcript = request.layout, side.transcript
    transcript.absorb("request", request.digest())
    side.commit("first", {}, dict, masks=True)
    program = Program(y.parameters.slots, side.counts)
    rows = {"theta": y.theta_rows} | ({"H": y.curvature_rows} if request.curvature and y.factor_rank else {})
    for name, count in rows.items():
        tau = transcript.field(f"same {name}", count)
        program.vanishes(f"new.{name}", tau)
        program.vanishes(f"old.{name}", negative(tau))
    side.finish(program)

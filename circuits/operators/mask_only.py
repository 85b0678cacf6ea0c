"""The statement that masked weights are zero, whatever the others are: standing compliance after personalisation.

Committed vectors: ``theta_u`` (``R x B``) and ``public`` (``mask_powers``: ``m_ij z^(i B + j)`` for a challenge z
hashed from the commitment to theta_u; context). One public output: ``<mask_powers, theta_u> == 0``, a polynomial in z
whose coefficients are the masked weights, so it vanishes with probability below ``R B / 2^253`` unless all are zero.
Every weight passes through the lookup, so the committed vector is one of weights in range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkapex.circuits.operators.declaration import OperatorSpec, Statement, Words
from zkapex.circuits.statement import StatementSpec

if TYPE_CHECKING:
    import onnx


class MaskOnly(Statement):
    """Masked weights are zero."""

    kind = "mask-only"
    inputs = ("theta_u", "public")
    rejected = "the proof does not show that masked weights are zero"
    inner_columns = 1

    def parts(self, spec: StatementSpec, vector: str) -> dict[str, int]:
        """See `Statement`."""
        return {"mask_powers": spec.weights, "context": 1}

    def largest_sum(self, spec: StatementSpec) -> int:
        """See `Statement`: weights only, the challenge's powers being no integers."""
        return spec.largest_value

    def build(self, spec: StatementSpec) -> onnx.ModelProto:
        """See `Statement`."""
        return build(spec)


def build(spec: StatementSpec) -> onnx.ModelProto:
    """The graph, with one output."""
    from zkapex.circuits.halo2.graph import Graph

    g = Graph(spec)
    return g.model(g.dot(g.part("public", "mask_powers"), g.bounded(g.part("theta_u", "values"))))


STATEMENT = MaskOnly()
OPERATOR = OperatorSpec(
    STATEMENT,
    rules="zkapex.proofs.operators.mask_only:RULES",
    solver="zkapex.unlearning.operators.mask_only:MaskOnly",
    planner="zkapex.unlearning.planning.search:PLANNER",
    words=Words(
        help="zeroed",
        deed="have their masked weights at zero, whatever happened to the others",
        not_shown="That the resulting weights have anything to do with earlier ones.",
        shows="A proof shows that the masked weights of the client's model are zero, whatever the others are.",
        not_shown_briefly="that the other weights have anything to do with earlier ones, ",
        states={"before": "before", "after": "after: masked weights zero"},
        marks={"after": "after"},
    ),
)

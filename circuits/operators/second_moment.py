"""The statement that a committed curvature factor is the second moment of committed activations, up to a tolerance.

Committed vectors, in this order:

``factor``       F (``q x B``), exactly as enrolled: its commitment is the one that guarded Group-OBS is proved with
``activations``  X (``n x B``), inputs of the layer's column block as integers; n is the statement's ``rows_per_chunk``
``public``       recomputed by the verifier: powers a and b of a challenge, slack weights, scale c, a 1, the context
``aux``          slack limbs, residual D (``B x B``)

Public outputs, each of which must equal a constant the verifier knows:

1. ``sum(D^2) + slack == centre``: D is small.
2. ``c (F a) . (F b) - (X a) . (X b) - a^T D b == 0``: ``D = c F^T F - X^T X``.

**Why output 2 suffices.** With ``a_i = z^(i B)`` and ``b_j = z^j`` it is a polynomial in z of degree below ``B^2``,
whose coefficients are the entries of ``c F^T F - X^T X - D``; z is hashed from the commitments to F, X and D and from
c. It vanishes with probability below ``B^2 / 2^253`` unless all of them are zero. See
`zkapex.circuits.operators.guarded_group_obs`.

**Why one scale suffices.** How activations are scaled to integers is the prover's own affair, and the operator is
homogeneous in F^T F but for the ridge: a second scale would only let both be written with a common factor.

The damping is not in the circuit: H is ``F^T F + ridge I`` whatever F is, so D is also the difference between c H and
``X^T X + c ridge I``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zkapex.circuits.halo2.slack import SLACK_LIMBS
from zkapex.circuits.operators.declaration import Statement
from zkapex.circuits.statement import MAX_SCALE, SALTS, StatementSpec

if TYPE_CHECKING:
    import onnx

    from zkapex.circuits.halo2.graph import Graph
    from zkapex.circuits.profiles import Profile


class SecondMoment(Statement):
    """A curvature factor is the second moment of activations: not about weights, and no operator's."""

    kind = "second-moment"
    inputs = ("factor", "activations", "public", "aux")
    rejected = "the proof does not show that the curvature is the second moment of the activations"
    curvatures = ("kfac",)
    inner_columns = 3

    def check(self, spec: StatementSpec) -> None:
        """See `Statement`."""
        if spec.curvature != "kfac" or not spec.curvature_rank or spec.ridge:
            raise ValueError("second-moment is about the rows of a kfac factor, and has no ridge")
        if spec.guard_rank or not spec.freivalds:
            raise ValueError("only guarded-group-obs has a guard or matrix products")

    def parts(self, spec: StatementSpec, vector: str) -> dict[str, int]:
        """See `Statement`."""
        width = spec.block_width
        if vector == "aux":
            return {"limbs": SLACK_LIMBS, "residual": width * width, "salts": SALTS}
        return {"a": width, "b": width, "slack": SLACK_LIMBS, "scale": 1, "unit": 1, "context": 1}

    def largest_sum(self, spec: StatementSpec) -> int:
        """See `Statement`."""
        entry = spec.largest_value**2 * (MAX_SCALE * spec.curvature_rank + spec.rows_per_chunk)
        return int((spec.block_width * entry) ** 2)

    def build(self, spec: StatementSpec) -> onnx.ModelProto:
        """See `Statement`."""
        return build(spec)

    def sized(self, profile: Profile, curvature: str, guard_rank: int | None, freivalds: bool) -> dict[str, Any]:
        """See `Statement`; as many activations as fit."""
        return {
            "rows_per_chunk": profile.rows_per_chunk[self.kind],
            "curvature_rank": profile.curvature_rank,
            "inner_columns": self.inner_columns,
        }


def build(spec: StatementSpec) -> onnx.ModelProto:
    """The graph, with two outputs."""
    from zkapex.circuits.halo2.graph import Graph

    g = Graph(spec)
    width = spec.block_width
    factor = g.reshape(g.bounded(g.part("factor", "values")), spec.curvature_rank, width)
    activations = g.reshape(g.bounded(g.part("activations", "values")), spec.rows_per_chunk, width)
    limbs, residual = g.bounded(g.part("aux", "limbs")), g.part("aux", "residual")
    a, b, unit = g.part("public", "a"), g.part("public", "b"), g.part("public", "unit")

    size = g.op("Add", g.dot(residual, residual), g.dot(limbs, g.part("public", "slack")))

    curvature = g.op("Mul", _moment(g, factor, a, b), g.part("public", "scale"))
    moment = g.lift(_moment(g, activations, a, b), unit, 1)
    claimed = g.lift(g.dot(g.einsum("i,ij->j", a, g.reshape(residual, width, width)), b), unit, 2)
    return g.model(size, g.op("Sub", g.op("Sub", curvature, moment), claimed))


def _moment(g: Graph, matrix: str, a: str, b: str) -> str:
    """``a^T M^T M b``, without forming ``M^T M``."""
    return g.dot(g.einsum("ij,j->i", matrix, a), g.einsum("ij,j->i", matrix, b))


STATEMENT = SecondMoment()

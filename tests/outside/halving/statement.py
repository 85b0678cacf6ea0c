"""Halving: every masked weight is half of what it was, rounded, and no other weight moves.

Committed are ``theta_u``, ``delta = theta_u - theta_p`` and the public vector. For a masked weight the circuit forms
``k (theta_u + delta) = k (2 theta_u - theta_p)``, for another one ``2 k delta``, with k the weight limit: the lookup
then admits a difference of one at most, and none at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkapex.circuits.operators import OperatorSpec, Statement, Words

if TYPE_CHECKING:
    import onnx

    from zkapex.circuits.statement import StatementSpec


class Halving(Statement):
    """Masked weights are halved."""

    kind = "halving"
    inputs = ("theta_u", "delta", "public")
    rejected = "the proof does not show that the masked weights were halved and the others left alone"

    def parts(self, spec: StatementSpec, vector: str) -> dict[str, int]:
        return {"of_theta": spec.weights, "of_delta": spec.weights, "zero": 1, "context": 1}

    def largest_sum(self, spec: StatementSpec) -> int:
        return 4 * spec.weight_limit * spec.largest_value * spec.weights

    def build(self, spec: StatementSpec) -> onnx.ModelProto:
        from zkapex.circuits.halo2.graph import Graph

        g = Graph(spec)
        theta, delta = g.bounded(g.part("theta_u", "values")), g.bounded(g.part("delta", "values"))
        of_theta = g.op("Mul", g.part("public", "of_theta"), theta)
        error = g.bounded(g.op("Add", of_theta, g.op("Mul", g.part("public", "of_delta"), delta)))
        total = g.reshape(g.op("ReduceSum", error, keepdims=0), 1)  # a lookup that nothing uses would be dropped
        return g.model(g.op("Mul", total, g.part("public", "zero")))


OPERATOR = OperatorSpec(
    Halving(),
    rules="halving.rules:RULES",
    solver="halving.solver:Halving",
    planner="halving.planner:PLANNER",
    words=Words(
        help="halved",
        deed="have their masked weights halved, and no other one moved",
        not_shown="That half of a weight is little enough.",
        shows="A proof shows that the client halved the masked weights it had committed to.",
        not_shown_briefly="that half of a weight is little enough, ",
        states={"before": "before", "masked": "zeroed instead", "after": "after: halved"},
        marks={"masked": "zeroed instead", "after": "halved"},
    ),
    zeroes=False,
    exact=True,
)

"""The statement that every weight was multiplied by a public factor and rounded: selective synaptic dampening.

Foster, Schoepf and Brintrup (AAAI 2024, arXiv 2308.07707) multiply the weights that matter to the forget set by
``beta = min(alpha D_r / D_f, 1)`` and leave the rest. With ``beta = f / U``, U the `FACTOR_UNIT`, ``f = U`` leaves a
weight as it is and ``f = 0`` zeroes it.

Committed vectors: ``theta_u`` and ``delta = theta_u - theta_p`` (``R x B``), and ``public``: ``k (U - f_ij)``,
``k f_ij``, a zero, the context. For each weight the circuit forms

    e = k (U - f) theta_u + k f delta = k (U theta_u - f theta_p)

and looks it up, which admits it only in ``[-limit, largest_value]``. With ``k = floor(2 limit / U)`` that says
``|theta_u - f theta_p / U| <= 1/2`` but for the rounding of k. There is no tolerance and no challenge. The one public
output is the sum of all looked-up values times the public zero: it is there for the lookup to be used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkapex.circuits.operators.declaration import OperatorSpec, Statement, Words
from zkapex.circuits.statement import FACTOR_UNIT, StatementSpec

if TYPE_CHECKING:
    import onnx


class Dampening(Statement):
    """Every weight was multiplied by a public factor and rounded."""

    kind = "dampening"
    inputs = ("theta_u", "delta", "public")
    rejected = "the proof does not show that the weights were multiplied by the request's factors"

    def check(self, spec: StatementSpec) -> None:
        """See `Statement`; the range must hold a rounding error."""
        super().check(spec)
        if spec.weight_limit < FACTOR_UNIT:
            raise ValueError(f"dampening needs a weight_limit of {FACTOR_UNIT} or more")

    def parts(self, spec: StatementSpec, vector: str) -> dict[str, int]:
        """See `Statement`."""
        return {"from_theta": spec.weights, "from_delta": spec.weights, "zero": 1, "context": 1}

    def largest_sum(self, spec: StatementSpec) -> int:
        """See `Statement`."""
        return 2 * spec.rounding_weight * FACTOR_UNIT * spec.largest_value * spec.weights

    def build(self, spec: StatementSpec) -> onnx.ModelProto:
        """See `Statement`."""
        return build(spec)


def build(spec: StatementSpec) -> onnx.ModelProto:
    """The graph, with one output."""
    from zkapex.circuits.halo2.graph import Graph

    g = Graph(spec)
    from_theta = g.op("Mul", g.part("public", "from_theta"), g.bounded(g.part("theta_u", "values")))
    from_delta = g.op("Mul", g.part("public", "from_delta"), g.bounded(g.part("delta", "values")))
    error = g.bounded(g.op("Add", from_theta, from_delta))
    total = g.reshape(g.op("ReduceSum", error, keepdims=0), 1)
    return g.model(g.op("Mul", total, g.part("public", "zero")))


STATEMENT = Dampening()
OPERATOR = OperatorSpec(
    STATEMENT,
    rules="zkapex.proofs.operators.dampening:RULES",
    solver="zkapex.unlearning.operators.dampening:Dampening",
    planner="zkapex.unlearning.planning.dampening:PLANNER",
    words=Words(
        help="multiplied by factors",
        deed="are what the request's factors make of the weights before, each rounded to a whole number",
        not_shown="That the request's factors were chosen well.",
        shows="A proof shows that the client multiplied the weights it had committed to by the request's factors and "
        "rounded them.",
        not_shown_briefly="that the factors were chosen well, ",
        states={"before": "before", "masked": "masked weights zeroed instead", "after": "after: dampened"},
        marks={"masked": "zeroed instead", "after": "dampened"},
    ),
    terms=frozenset({"factors"}),
    holder_plans=False,
    exact=True,
)

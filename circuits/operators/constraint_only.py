"""The statement that zeros and targets still hold, whatever the rest is: compliance of a device that trained on.

It is to targets what `zkapex.circuits.operators.mask_only` is to masks. Committed vectors: ``theta_u`` (``R x B``),
``public`` and ``aux``: slack limbs, and the residual L (``R x r``) of ``theta_u V == T``. Public outputs, with a, b and
c as in `zkapex.circuits.operators.guarded_group_obs`:

1. ``sum_ij m_ij a_i b_j theta_u_ij == 0``: masked weights are zero.
2. ``sum(L^2) + slack == c``: the targets are met up to rounding.
3. ``a^T (theta_u V - L) c == a^T T c``: L is the residual it claims to be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zkapex.circuits.halo2.slack import SLACK_LIMBS
from zkapex.circuits.operators.declaration import OperatorSpec, Statement, Words
from zkapex.circuits.operators.guarded_group_obs import bound
from zkapex.circuits.statement import SALTS, StatementSpec

if TYPE_CHECKING:
    import onnx

    from zkapex.circuits.profiles import Profile


class ConstraintOnly(Statement):
    """Masked weights are zero and what is along the guard is as prescribed."""

    kind = "constraint-only"
    inputs = ("theta_u", "public", "aux")
    rejected = "the proof does not show that masked weights are zero and the targets are met"
    constrains_result = True

    def check(self, spec: StatementSpec) -> None:
        """See `Statement`."""
        if spec.curvature != "none" or spec.ridge or spec.curvature_rank:
            raise ValueError("constraint-only has no curvature, rank of it or ridge")
        if not spec.guard_rank or not spec.freivalds:
            raise ValueError("constraint-only needs a guard, and has its products checked at a challenge")

    def parts(self, spec: StatementSpec, vector: str) -> dict[str, int]:
        """See `Statement`."""
        rows, rank = spec.rows_per_chunk, spec.guard_rank
        if vector == "aux":
            return {"limbs": SLACK_LIMBS, "leak": rows * rank, "salts": SALTS}
        derived = {"mask_powers": spec.weights, "guard_c": spec.block_width, "c": rank}
        return {**derived, "slack": SLACK_LIMBS, "unit": 1, "context": 1, "a": rows}

    def largest_sum(self, spec: StatementSpec) -> int:
        """See `Statement`."""
        leak = spec.block_width * spec.largest_value * spec.guard_limit
        return spec.rows_per_chunk * spec.guard_rank * leak * leak

    def build(self, spec: StatementSpec) -> onnx.ModelProto:
        """The graph, with three outputs."""
        from zkapex.circuits.halo2.graph import Graph

        g = Graph(spec)
        rows, width, rank = spec.rows_per_chunk, spec.block_width, spec.guard_rank
        theta_u = g.bounded(g.part("theta_u", "values"))
        limbs = g.bounded(g.part("aux", "limbs"))
        leak, a = g.part("aux", "leak"), g.part("public", "a")
        masked = g.dot(g.part("public", "mask_powers"), theta_u)
        guard = bound(g, leak, 1, limbs, 0)
        along = g.dot(g.einsum("i,ij->j", a, g.reshape(theta_u, rows, width)), g.part("public", "guard_c"))
        leaked = g.dot(g.einsum("i,ij->j", a, g.reshape(leak, rows, rank)), g.part("public", "c"))
        return g.model(masked, guard, g.op("Sub", along, leaked))

    def sized(self, profile: Profile, curvature: str, guard_rank: int | None, freivalds: bool) -> dict[str, Any]:
        """See `Statement`."""
        rank = profile.guard_rank if guard_rank is None else guard_rank
        return {**super().sized(profile, curvature, guard_rank, freivalds), "guard_rank": rank}


STATEMENT = ConstraintOnly()
OPERATOR = OperatorSpec(
    STATEMENT,
    rules="zkapex.proofs.operators.constraint_only:RULES",
    solver="zkapex.unlearning.operators.constraint_only:ConstraintOnly",
    planner="zkapex.unlearning.planning.targets:PLANNER",
    words=Words(
        help="zeroed, and every row brought to public targets along the guard, whatever the rest is",
        deed="have their masked weights at zero and the request's targets along its directions, whatever the rest is",
        not_shown="That the resulting weights have anything to do with earlier ones, that what was deleted cannot be "
        "learned again from examples of it, or that nobody kept the global model of before, which brings it back.",
        shows="A proof shows that the masked weights of the client's model are zero and that every row is along the "
        "request's directions what the request says, whatever the rest is.",
        not_shown_briefly="that the other weights have anything to do with earlier ones, ",
        states={"before": "before", "after": "after: targets held"},
        marks={"after": "after"},
    ),
    terms=frozenset({"guards", "targets"}),
    holder_plans=False,
)

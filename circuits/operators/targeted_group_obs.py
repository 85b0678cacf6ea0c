"""The statement of targeted Group-OBS about one chunk: what is along the guard afterwards is as prescribed.

Guarded Group-OBS with steering prescribes the *change* along the guard V, and a public change can be subtracted again
(``docs/adr/0022-targets-instead-of-steering.md``). Here the *result* is prescribed: ``theta_u V = T``, T public and the
same for every client. What was along V before is then in no receipt, and gone with the old weights.

The committed vectors and outputs are those of `zkapex.circuits.operators.guarded_group_obs`, but for L, which is the
residual of ``theta_u V == T``; output 4 becomes

    a^T (delta H - mu V^T - E) b + a^T (theta_u V - L) c == a^T T c.

Masked weights are zero by output 1, so nothing has to be left out of ``theta_u V`` and there are no ``guard_powers``.
The argument is the same: theta_u is committed to before the challenge, T is public before it. Every row of a chunk is
prescribed, also one without a masked weight.
"""

from __future__ import annotations

from zkapex.circuits.operators.declaration import OperatorSpec, Words
from zkapex.circuits.operators.guarded_group_obs import GuardedGroupObs
from zkapex.circuits.statement import StatementSpec


class TargetedGroupObs(GuardedGroupObs):
    """Masked weights are zero, what is along the guard is as prescribed, and the rest moved least."""

    kind = "targeted-group-obs"
    rejected = (
        "the proof does not show that masked weights are zero, the targets are met, and the rest is the guarded repair"
    )
    constrains_result = True

    def check(self, spec: StatementSpec) -> None:
        """See `Statement`."""
        super().check(spec)
        if not spec.guard_rank or not spec.freivalds:
            raise ValueError("targeted-group-obs needs a guard, and has its products checked at a challenge")

    def parts(self, spec: StatementSpec, vector: str) -> dict[str, int]:
        """See `Statement`."""
        return {name: size for name, size in super().parts(spec, vector).items() if name != "guard_powers"}


STATEMENT = TargetedGroupObs()
OPERATOR = OperatorSpec(
    STATEMENT,
    rules="zkapex.proofs.operators.targeted_group_obs:RULES",
    solver="zkapex.unlearning.operators.targeted_group_obs:TargetedGroupObs",
    planner="zkapex.unlearning.planning.targets:PLANNER",
    words=Words(
        help="zeroed, and every row brought to public targets along the guard, the rest changed least",
        deed="have their masked weights at zero and the request's targets along its directions, and otherwise moved as "
        "Group-OBS moves them, up to the certified distance",
        not_shown="That the curvature the client committed to is of real data, that what was deleted cannot be learned "
        "again from examples of it, or that nobody kept the global model of before, which brings it back.",
        shows="A proof shows that the client changed the weights it had committed to by exactly the stated operator: "
        "masked weights are zero, every row is along the request's directions what the request says, and the rest is "
        "the Group-OBS repair up to rounding.",
        not_shown_briefly="that the committed curvature is that of real data, that examples of what was deleted, or "
        "the old global model, do not bring it back, ",
        states={"before": "before", "after": "after: targets", "tuned": "trained on, targets held"},
        marks={"after": "targets"},
    ),
    terms=frozenset({"guards", "targets"}),
    holder_plans=False,
)

"""Constraint-only: zeros and targets hold; nothing is said about the rest, so there is no distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from zkapex.circuits.field import MODULUS, felts, random_elements
from zkapex.circuits.halo2.slack import slack_limbs
from zkapex.circuits.operators.tolerances import GUARD_BITS, tolerances
from zkapex.circuits.statement import SALTS, StatementSpec
from zkapex.proofs.operators.guarded_group_obs import challenge_powers, prescribed
from zkapex.proofs.operators.rules import Rules, outer

if TYPE_CHECKING:
    from zkapex.proofs.chunk.public import PublicInputs
    from zkapex.proofs.chunk.witness import Witness


class ConstraintOnlyRules(Rules):
    """See `zkapex.circuits.operators.constraint_only`."""

    def largest_tolerances(self, spec: StatementSpec, kappa: int) -> tuple[int, int]:
        """See `Rules`: that of the targets."""
        return 0, tolerances(spec.rows_per_chunk, spec.block_width, spec.guard_rank, kappa, GUARD_BITS)[1]

    def values(self, spec: StatementSpec, public: PublicInputs, challenge: int) -> Mapping[str, list[str]]:
        """See `Rules`."""
        a, b, c = challenge_powers(spec, challenge)
        guard_c = [sum(x * y for x, y in zip(row, c, strict=True)) % MODULUS for row in public.guard.tolist()]
        return {
            "mask_powers": outer(public.mask, a, b),
            "guard_c": felts(guard_c),
            "c": felts(c),
            "slack": felts(public.slacks(spec)[1].weights),
            "unit": felts([1]),
            "context": felts([public.context]),
            "a": felts(a),
        }

    def outputs(self, spec: StatementSpec, public: PublicInputs, challenge: int | None) -> list[str]:
        """See `Rules`."""
        return felts([0, public.slacks(spec)[1].half, prescribed(spec, public, challenge)])

    def private(self, spec: StatementSpec, public: PublicInputs, witness: Witness) -> dict[str, list[str]]:
        """See `Rules`; the residual and the slack of its sum are added."""
        leak = witness.leak(spec, public)
        total = sum(v * v for v in leak.ravel().tolist())
        limbs = slack_limbs(public.slacks(spec)[1], total, spec.weight_limit)
        aux = felts(limbs) + felts(leak) + felts(random_elements(SALTS))
        return {"theta_u": witness.theta_u.vector(), "aux": aux}

    def distance(self, spec: StatementSpec, public: PublicInputs) -> float | None:
        """None."""
        return None


RULES = ConstraintOnlyRules()

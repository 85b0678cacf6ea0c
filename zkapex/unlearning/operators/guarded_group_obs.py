"""The operator guarded-group-obs: zero what is masked and repair the rest of each touched row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from zkapex.circuits.operators.tolerances import GUARD_BITS, tolerances
from zkapex.circuits.statement import StatementSpec
from zkapex.proofs.chunk.public import IntArray
from zkapex.unlearning.accelerator import CPU
from zkapex.unlearning.curvature.factor import KAPPA
from zkapex.unlearning.operators import Applied, Curvature, Operator, Terms
from zkapex.unlearning.operators.group_obs import solve_layer


@dataclass(frozen=True)
class GuardedGroupObs(Operator):
    """Zero the masked weights and repair each touched row with Group-OBS, steered along the guard (rank 0: plain).

    Attributes
    ----------
    device : str
        What to solve on, see `zkapex.unlearning.accelerator`.
    """

    name: ClassVar[str] = "guarded-group-obs"
    device: str = CPU

    def on(self, device: str) -> GuardedGroupObs:
        """See `Operator`."""
        return replace(self, device=device)

    def tolerances(self, statement: StatementSpec) -> tuple[int, int]:
        """See `Operator`."""
        rows, width, rank = statement.rows_per_chunk, statement.block_width, statement.guard_rank
        return tolerances(rows, width, rank, KAPPA, GUARD_BITS)

    def change(self, weights: Mapping[str, IntArray], terms: Terms, curvature: Curvature, limit: int) -> Applied:
        """See `Operator`. Raises RangeExceededError if a result leaves the circuit's range."""
        after = dict(weights)
        mu: dict[str, IntArray] = {}
        for name, mask in terms.masks.items():
            if mask.any():
                guards = terms.guards[name]
                steering = [terms.steering.get((name, block)) for block in range(len(guards))]
                solution = solve_layer(weights[name], mask, curvature(name), guards, limit, steering, self.device)
                after[name] = weights[name] + solution.delta
                mu[name] = solution.mu
        return after, mu

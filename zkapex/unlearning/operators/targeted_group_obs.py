"""The operator targeted-group-obs: zero what is masked, bring every row to its targets, change the rest least."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from zkapex.circuits.operators.tolerances import GUARD_BITS, tolerances
from zkapex.circuits.statement import StatementSpec
from zkapex.proofs.chunk.public import IntArray
from zkapex.unlearning.accelerator import CPU
from zkapex.unlearning.curvature.factor import KAPPA
from zkapex.unlearning.operators import Applied, Curvature, Operator, Terms
from zkapex.unlearning.operators.group_obs import solve
from zkapex.unlearning.operators.targets import solve_targets


@dataclass(frozen=True)
class TargetedGroupObs(Operator):
    """See `zkapex.unlearning.operators.targets`. Blocks without targets are repaired as by plain Group-OBS.

    Attributes
    ----------
    device : str
        What to solve on, see `zkapex.unlearning.accelerator`.
    """

    name: ClassVar[str] = "targeted-group-obs"
    device: str = CPU

    def on(self, device: str) -> TargetedGroupObs:
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
        targeted = {name for name, _ in terms.targets}
        for name, theta in weights.items():
            mask = terms.masks.get(name, np.zeros(theta.shape, np.bool_))
            if name not in targeted and not mask.any():
                continue
            matrices, guards = curvature(name), terms.guards[name]
            width = matrices[0].shape[-1]
            pad = ((0, 0), (0, len(guards) * width - theta.shape[1]))
            padded, hidden = np.pad(theta, pad), np.pad(mask, pad)
            solutions = []
            for block, (h, v) in enumerate(zip(matrices, guards, strict=True)):
                columns = slice(block * width, (block + 1) * width)
                own, masked, targets = padded[:, columns], hidden[:, columns], terms.targets.get((name, block))
                if targets is None:
                    solutions.append(solve(own, masked, h, np.zeros_like(v), limit, None, self.device))
                else:
                    solutions.append(solve_targets(own, masked, h, v, targets, limit, self.device))
            after[name] = theta + np.concatenate([s.delta for s in solutions], 1)[:, : theta.shape[1]]
            mu[name] = np.stack([s.mu for s in solutions])
        return after, mu

"""The operator constraint-only: go to the nearest weights that have the zeros and the targets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from zkapex.circuits.statement import StatementSpec
from zkapex.proofs.chunk.public import IntArray
from zkapex.unlearning.operators import Applied, Curvature, Operator, Terms
from zkapex.unlearning.operators.group_obs import RangeExceededError
from zkapex.unlearning.operators.targeted_group_obs import TargetedGroupObs
from zkapex.unlearning.operators.targets import nearest


class ConstraintOnly(Operator):
    """For weights that were held so in training (`zkapex.unlearning.operators.targets.Held`) that is rounding.

    What is proved is only that zeros and targets are there, so the other weights may move meanwhile.
    """

    name = "constraint-only"

    def tolerances(self, statement: StatementSpec) -> tuple[int, int]:
        """See `Operator`."""
        return 0, TargetedGroupObs().tolerances(statement)[1]

    def change(self, weights: Mapping[str, IntArray], terms: Terms, curvature: Curvature, limit: int) -> Applied:
        """See `Operator`. Raises RangeExceededError if a result leaves the circuit's range."""
        after = {n: np.where(terms.masks[n], 0, theta) if n in terms.masks else theta for n, theta in weights.items()}
        for (name, block), targets in terms.targets.items():
            v, theta = terms.guards[name][block], after[name].copy()
            columns = slice(block * len(v), min((block + 1) * len(v), theta.shape[1]))
            mask = terms.masks.get(name, np.zeros(theta.shape, np.bool_))[:, columns]
            theta[:, columns] = nearest(theta[:, columns], mask, v[: mask.shape[1]], targets)
            after[name] = theta
            if np.abs(theta).max() > limit:
                raise RangeExceededError(f"weights of {name!r} reach {np.abs(theta).max()}, beyond {limit}")
        return after, {}

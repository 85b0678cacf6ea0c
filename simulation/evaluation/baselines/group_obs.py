"""Plain Group-OBS, the operator of ZK-APEX (arXiv 2512.09953)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from zkapex.simulation.evaluation.baselines.base import Case


@dataclass(frozen=True)
class GroupObs:
    """Zero the masked weights and repair without a guard: the same mask, so that the guard is the only difference."""

    name: str = "group-obs"
    label: str = "Group-OBS, no guard"
    source: str = "ZK-APEX, arXiv 2512.09953, with the mask that was chosen for guarded Group-OBS"
    stage: str | None = "plan"

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        return case.deployment.unlearned(case.before, case.plan.terms.unguarded(), case.calibration)

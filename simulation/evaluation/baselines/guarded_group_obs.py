"""Guarded Group-OBS: the operator that zkapex proves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from zkapex.simulation.evaluation.baselines.base import Case


@dataclass(frozen=True)
class GuardedGroupObs:
    """Zero the masked weights and repair, steered along the guard."""

    name: str = "guarded-group-obs"
    label: str = "guarded Group-OBS"
    source: str = "zkapex.unlearning.operators.group_obs; mask and guard from zkapex.unlearning.planning.search"
    stage: str | None = "plan"

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        return case.deployment.unlearned(case.before, case.plan.terms, case.calibration)

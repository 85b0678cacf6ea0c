"""The mask alone: what forgetting costs when nothing is repaired."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from zkapex.simulation.evaluation.baselines.base import Case


@dataclass(frozen=True)
class MaskOnly:
    """Zero the masked weights."""

    name: str = "mask-only"
    label: str = "mask only"
    source: str = "the mask that zkapex.unlearning.planning.search chose for guarded Group-OBS"
    stage: str | None = "plan"

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        return case.deployment.masked(case.before, case.plan.masks)

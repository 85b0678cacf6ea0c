"""The model before the deletion: what forgetting is measured from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from zkapex.simulation.evaluation.baselines.base import Case


@dataclass(frozen=True)
class Original:
    """Change nothing."""

    name: str = "original"
    label: str = "original, before"
    source: str = "the personalised model as it was"
    stage: str | None = None

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        return case.before

"""The oracle: as if the class had never been there."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from zkapex.simulation.evaluation.baselines.base import Case


@dataclass(frozen=True)
class Retrain:
    """Federated averaging from the same initial weights without the class, then personalisation without it."""

    name: str = "retrain"
    label: str = "retrain (oracle)"
    source: str = "exact unlearning; the same training and personalisation, the class left out of both"
    stage: str | None = "retrain"

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        return case.retrained

"""Targeted Group-OBS, and the same after the client has trained on: what zkapex proves with targets."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from zkapex.errors import InputError
from zkapex.server.requests.plan import StoredPlan
from zkapex.simulation.evaluation.baselines.base import Case
from zkapex.simulation.evaluation.deployment import Deployment
from zkapex.unlearning.personalise import fit


@dataclass(frozen=True)
class Targeted:
    """Bring every row of the targeted layers to what the request prescribes along its directions."""

    name: str = "targeted-group-obs"
    label: str = "targeted Group-OBS"
    source: str = "zkapex.unlearning.operators.targets; planned by zkapex.unlearning.planning.targets"
    stage: str | None = "targets"

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        wide, plan = _planned(case)
        return wide.unlearned(wide.deploy(case.before), plan.terms, case.calibration, self.name)


@dataclass(frozen=True)
class TargetedTuned:
    """The same, then trained on what the client keeps, with zeros and targets held: provable by constraint-only."""

    name: str = "targeted-tuned"
    label: str = "targeted Group-OBS, trained on"
    source: str = "targeted Group-OBS, then AdamW on what the client keeps, back to the targets after every step"
    stage: str | None = "targets"

    def unlearn(self, case: Case) -> nn.Module:
        """See `Method`."""
        wide, plan = _planned(case)
        model = copy.deepcopy(Targeted().unlearn(case))
        held = plan.terms.held(wide.exponents)
        fit(model, *case.retain, case.tuned, case.seed, hold_targets=held.targets)
        return wide.unlearned(model, plan.terms, case.calibration, "constraint-only")


def _planned(case: Case) -> tuple[Deployment, StoredPlan]:
    if case.wide is None or case.targets is None:
        raise InputError("this scenario plans no targets", fix="leave the method out")
    return case.wide, case.targets

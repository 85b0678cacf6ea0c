"""How much the choice of weights matters: one deletion by every scorer, at one mask size, with steering and without.

The mask grows as in the scenario's own search, but never stops early, so that all scorers get the same number of
weights. The search's steps are the same for a steered repair and one that is not
(`zkapex.unlearning.planning.search`), and so one search gives the mask and guard for both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from zkapex.server.requests.plan import StoredPlan, load_plan
from zkapex.simulation.evaluation.preparation import before_deletion, searched
from zkapex.simulation.evaluation.shelf import Shelf
from zkapex.simulation.evaluation.studies.concentration import mean_accuracies
from zkapex.simulation.scenarios import ScenarioConfig, Sources
from zkapex.unlearning.operators.group_obs import RangeExceededError
from zkapex.unlearning.planning.proxies import calibration
from zkapex.unlearning.planning.saliency import SCORERS


@dataclass(frozen=True)
class ScorerStudy:
    """One class deleted with the masks of every scorer.

    Attributes
    ----------
    name, title : str
    base : ScenarioConfig
        Everything but the scorer and the mask's size.
    fraction : float
        Share of the target layers' weights that every scorer masks.
    scorers : tuple of str
    """

    name: str
    title: str
    base: ScenarioConfig
    fraction: float
    scorers: tuple[str, ...] = tuple(SCORERS)
    kind: str = "scorers"

    def run(self, seed: int, folder: Path, on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """See `zkapex.simulation.evaluation.studies.Study`."""
        config, bench = self.base, self.base.make(seed, Sources())
        world, shelf = bench.world, Shelf(partial(config.build, bench), seed, folder, on_event)
        model, own, deployment = before_deletion(config, bench, seed, shelf)
        before = [deployment.deploy(one) for one in own]
        inputs = [calibration(c.personal, c.train, config.replay_share) for c in world.clients]
        steps = (*(f for f in config.space.fractions if f < self.fraction), self.fraction)
        # Smaller steps are passed through unjudged, so that no scorer stops at one.
        space = replace(config.space, fractions=steps, least=self.fraction)

        def measured(plan: StoredPlan) -> dict[str, Any]:
            repaired: dict[str, dict[str, float] | None] = {}
            for what, terms in (("plain", replace(plan.terms, steering={})), ("steered", plan.terms)):
                try:
                    after = [deployment.unlearned(m, terms, x) for m, x in zip(before, inputs, strict=True)]
                    repaired[what] = mean_accuracies(after, world)
                except RangeExceededError:
                    repaired[what] = None
            masked = mean_accuracies([deployment.masked(m, plan.masks) for m in before], world)
            return {"chosen": plan.chosen, "mask_only": masked, **repaired}

        rows = []
        for scorer in self.scorers:
            place = folder / f"plan-{scorer}"
            plan = load_plan(place)
            if plan is None:
                on_event({"event": "stage", "stage": scorer, "seed": seed})
                tried = replace(space, scorers=(scorer,))
                plan = searched(config, bench, seed, deployment, model, place, on_event, tried)
            rows.append({"scorer": scorer, **measured(plan)})
        return {
            "note": bench.note,
            "before": mean_accuracies(before, world),
            "rows": rows,
            "weights": sum(model.get_parameter(f"{name}.weight").numel() for name in deployment.names),
            "seconds": shelf.seconds,
        }

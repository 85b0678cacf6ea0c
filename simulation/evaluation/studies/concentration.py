"""What it costs in forgetting to touch fewer chunks, and so to prove less: one deletion at several concentrations.

See `zkapex.unlearning.planning.mask.concentrated`. The search stops at the same target for all, so a concentrated mask
has more weights where their saliency is lower; what is compared is what clients are left with, and how many chunks
they prove.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from zkapex.costs.estimate import chunk_sizes
from zkapex.costs.workload import Shape
from zkapex.server.requests.plan import load_plan
from zkapex.simulation.data.digits import Scenario
from zkapex.simulation.evaluation.preparation import before_deletion, searched
from zkapex.simulation.evaluation.shelf import Shelf
from zkapex.simulation.models.training import accuracy
from zkapex.simulation.scenarios import ScenarioConfig, Sources
from zkapex.unlearning.planning.proxies import calibration


@dataclass(frozen=True)
class ConcentrationStudy:
    """One class deleted with masks of different concentration.

    Attributes
    ----------
    name, title : str
    base : ScenarioConfig
        Everything but the concentration.
    concentrations : tuple of float
    """

    name: str
    title: str
    base: ScenarioConfig
    concentrations: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
    kind: str = "concentration"

    def run(self, seed: int, folder: Path, on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """See `zkapex.simulation.evaluation.studies.Study`."""
        config, bench = self.base, self.base.make(seed, Sources())
        world, shelf = bench.world, Shelf(partial(config.build, bench), seed, folder, on_event)
        model, own, deployment = before_deletion(config, bench, seed, shelf)
        before, statement = [deployment.deploy(one) for one in own], deployment.encoding.statement
        shapes = [Shape(n, *model.get_parameter(f"{n}.weight").shape) for n in deployment.names]
        rows = []
        for number, concentration in enumerate(self.concentrations):
            place = folder / f"plan-{number}"
            plan = load_plan(place)
            if plan is None:
                on_event({"event": "stage", "stage": "plan", "seed": seed})
                space = replace(config.space, concentration=concentration)
                plan = searched(config, bench, seed, deployment, model, place, on_event, space)
            inputs = [calibration(c.personal, c.train, config.replay_share) for c in world.clients]
            after = [deployment.unlearned(m, plan.terms, x) for m, x in zip(before, inputs, strict=True)]
            masked = [deployment.masked(m, plan.masks) for m in before]
            measured = {"after": mean_accuracies(after, world), "mask_only": mean_accuracies(masked, world)}
            rows.append({"concentration": concentration, "chosen": plan.chosen, "curve": list(plan.curve), **measured})
        return {
            "note": bench.note,
            "before": mean_accuracies(before, world),
            "rows": rows,
            "chunks": sum(chunk_sizes(shapes, statement).values()),
            "weights": sum(shape.rows * shape.cols for shape in shapes),
            "chunk_weights": statement.weights,
            "seconds": shelf.seconds,
        }


def mean_accuracies(models: list[nn.Module], world: Scenario) -> dict[str, float]:
    """Mean accuracies over clients, as in `zkapex.simulation.evaluation.metrics`."""
    rows = [
        {
            "forget_acc": accuracy(model, world.forget_set),
            "forget_test_acc": accuracy(model, world.forget_test),
            "retain_acc": accuracy(model, world.retain_set),
            "test_acc": accuracy(model, world.retain_test),
            "personal_acc": accuracy(model, client.personal_test),
        }
        for model, client in zip(models, world.clients, strict=True)
    ]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

"""Whether models that unlearned answer like models that never saw the deleted data: KLOM, over many trainings.

One deletion of one class from one federation's data, trained again and again from other initial weights and in another
order. Every training has its own oracle, masks and targets. The margins of all clients' models, over all trainings,
are compared with those of oracles of further trainings, so that no oracle shares its initial weights with a model that
it is compared to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.simulation.data.digits import Examples
from zkapex.simulation.evaluation.baselines import METHODS
from zkapex.simulation.evaluation.metrics.klom import klom
from zkapex.simulation.evaluation.metrics.membership import signals
from zkapex.simulation.evaluation.preparation import cases_of, oracle_models
from zkapex.simulation.evaluation.seeds import OnEvent
from zkapex.simulation.evaluation.shelf import Shelf
from zkapex.simulation.scenarios import Bench, ScenarioConfig, Sources

KINDS = ("forget", "forget_test", "retain", "test")
"""Examples that are told apart, as everywhere in the evaluation."""

Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class MarginsStudy:
    """One class deleted from models of many trainings.

    Attributes
    ----------
    name, title : str
    base : ScenarioConfig
        Everything but what is measured.
    trainings : int
        Of models that unlearn, and as many of oracles. Each gives as many models as there are clients.
    methods : tuple of str
        What unlearns.
    examples : int
        Of each kind, at most.
    """

    name: str
    title: str
    base: ScenarioConfig
    trainings: int = 12
    methods: tuple[str, ...] = (
        "original", "retrain", "fine-tune", "gradient-ascent", "scrub", "salun", "ssd", "laf", "mask-only",
        "guarded-group-obs", "targeted-group-obs", "targeted-tuned",
    )  # fmt: skip
    examples: int = 100
    kind: str = "margins"

    def run(self, seed: int, folder: Path, on_event: OnEvent) -> dict[str, Any]:
        """See `zkapex.simulation.evaluation.studies.Study`."""
        bench = self.base.make(seed, Sources())
        judged = self._judged(bench, seed)
        unlearned: dict[str, list[npt.NDArray[np.generic]]] = {}
        for training in range(self.trainings):
            found = self._training(bench, judged, training, folder / f"training-{training:02}", on_event)
            for name, values in found.items():
                unlearned.setdefault(name, []).append(values)
        oracles = [
            self._oracles(bench, judged, self.trainings + training, folder, on_event)
            for training in range(self.trainings)
        ]
        rows = []
        for name in self.methods:
            row: dict[str, Any] = {"method": name}
            for what in KINDS:
                ours, theirs = (
                    np.concatenate([np.asarray(one, dtype=np.float64) for one in many])
                    for many in (unlearned[f"{name}/{what}"], [one[what] for one in oracles])
                )
                far = klom(ours, theirs)
                row[what] = {"mean": float(far.mean()), "p95": float(np.percentile(far, 95))}
            rows.append(row)
        models = self.trainings * len(bench.world.clients)
        counts = {what: len(examples.labels) for what, examples in judged.items()}
        return {"note": bench.note, "models": models, "examples": counts, "rows": rows}

    def _judged(self, bench: Bench, seed: int) -> Mapping[str, Examples]:
        world = bench.world
        everything = (world.forget_set, world.forget_test, world.retain_set, bench.test)
        chance = np.random.default_rng(seed)
        return {
            what: examples.take(torch.from_numpy(chance.permutation(len(examples.labels))[: self.examples]))
            for what, examples in zip(KINDS, everything, strict=True)
        }

    def _training(
        self, bench: Bench, judged: Mapping[str, Examples], number: int, folder: Path, on_event: OnEvent
    ) -> Arrays:
        """Margins [clients, examples] of every method's models, by method and kind."""
        folder.mkdir(exist_ok=True)
        shelf = Shelf(partial(self.base.build, bench), number, folder, on_event)

        def margins() -> Arrays:
            cases = cases_of(self.base, bench, number, shelf, folder, on_event)
            found: Arrays = {}
            for name in self.methods:
                models = [case.deployment.deploy(METHODS[name].unlearn(case)) for case in cases]
                found |= {f"{name}/{what}": values for what, values in _margins(models, judged).items()}
            return found

        return shelf.arrays("margins", margins)

    def _oracles(
        self, bench: Bench, judged: Mapping[str, Examples], number: int, folder: Path, on_event: OnEvent
    ) -> Arrays:
        """Margins [clients, examples] of the oracles of one training, by kind."""
        shelf = Shelf(partial(self.base.build, bench), number, folder, on_event)

        def margins() -> Arrays:
            return _margins(oracle_models(self.base, bench, number), judged)

        return shelf.arrays(f"oracles-{number:02}", margins)


def _margins(models: Sequence[nn.Module], judged: Mapping[str, Examples]) -> Arrays:
    """Of every model on every example [models, examples], by kind."""
    return {
        what: np.stack([signals(model, examples).log_odds for model in models]) for what, examples in judged.items()
    }

"""What zkapex's operator is to reach, and whether it does: against the oracle, SCRUB, and the model before."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

OURS, GUARDED = "targeted-tuned", "guarded-group-obs"
ORACLE, ORIGINAL, SCRUB = "retrain", "original", "scrub"
KSHOT = "kshot_forget_acc"


@dataclass(frozen=True)
class Target:
    """One target: what, how much was measured in which unit, and whether that is enough."""

    description: str
    measured: float
    unit: str
    reached: bool

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def ours(methods: Mapping[str, Any]) -> str:
    """The method whose result devices run in the end: with targets and trained on, if targets were planned."""
    return OURS if OURS in methods else GUARDED


def judge(methods: Mapping[str, Any], seeds: Collection[int] = ()) -> list[Target]:
    """The targets, on the mean over seeds; none if a method they compare is missing.

    Parameters
    ----------
    methods : mapping
        ``methods`` of ``results.json``.
    seeds : collection of int, optional
        Some of the seeds; all by default.
    """
    name = ours(methods)
    if not {name, ORACLE, ORIGINAL} <= methods.keys():
        return []
    means = {method: _mean(methods[method], seeds) for method in (name, ORACLE, ORIGINAL, SCRUB) if method in methods}
    mine, oracle, before = (means[method] for method in (name, ORACLE, ORIGINAL))

    def above(metric: str, other: Mapping[str, Any] = oracle) -> float:
        return float(100 * (mine[metric] - other[metric]))

    def relearned(other: Mapping[str, Any]) -> float:
        return max(float(100 * (mine[KSHOT][shots] - other[KSHOT][shots])) for shots in mine[KSHOT])

    def at_most(description: str, measured: float, most: float, unit: str = "points") -> Target:
        return Target(description, measured, unit, measured <= most + 1e-9)

    auc, undone = (abs(mine[metric] - oracle[metric]) for metric in ("mia_auc", "undone_mia_auc"))
    rounded = {bits: 100 * (mine[f"int{bits}_forget_acc"] - mine["forget_acc"]) for bits in (8, 4)}
    found = [
        at_most("forget accuracy within 3 points of the oracle's", abs(above("forget_acc")), 3),
        at_most(
            "forget accuracy after the best attack without data at most 5 points above the oracle's",
            above("undone_forget_acc"), 5,
        ),
        at_most("after relearning from 1, 2, 5 and 10 examples at most 10 points above the oracle's, the worst of them",
                relearned(oracle), 10),
    ]  # fmt: skip
    if SCRUB in means:
        found.append(at_most("likewise not above SCRUB's", relearned(means[SCRUB]), 0))
    return [
        *found,
        at_most("retain accuracy at most 1 point below the oracle's", -above("retain_acc"), 1),
        at_most("test accuracy at most 1 point below the oracle's", -above("test_acc"), 1),
        at_most("personal accuracy at most 1.5 points below that before", -above("personal_acc", before), 1.5),
        at_most("membership AUC within 0.05 of the oracle's, in hundredths", 100 * auc, 5, ""),
        at_most("after that attack, too", 100 * undone, 5, ""),
        at_most("INT8 forget accuracy at most 1 point above", rounded[8], 1),
        at_most("INT4 forget accuracy at most 3 points above", rounded[4], 3),
    ]


def _mean(entry: Mapping[str, Any], seeds: Collection[int]) -> Mapping[str, Any]:
    """Of a method's numbers and curves, over some seeds."""
    if not seeds:
        whole: Mapping[str, Any] = entry["mean"]
        return whole
    rows = [run for run in entry["runs"] if run["seed"] in seeds]
    return {
        metric: {shots: fmean(row[metric][shots] for row in rows) for shots in value}
        if isinstance(value, Mapping)
        else fmean(row[metric] for row in rows)
        for metric, value in entry["mean"].items()
    }

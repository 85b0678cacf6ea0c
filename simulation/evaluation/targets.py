"""What guarded Group-OBS is to reach, and whether it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

OURS, ORACLE, ORIGINAL, MASK = "guarded-group-obs", "retrain", "original", "mask-only"


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


def judge(methods: Mapping[str, Any], recovery: float = 0.95) -> list[Target]:
    """The targets, on the mean over seeds; none if a method they compare is missing.

    Parameters
    ----------
    methods : mapping
        ``methods`` of ``results.json``.
    recovery : float
        Share that is aimed at of the personal accuracy that the mask alone loses.
    """
    if not {OURS, ORACLE, ORIGINAL, MASK} <= methods.keys():
        return []
    ours, oracle, before, mask = (methods[name]["mean"] for name in (OURS, ORACLE, ORIGINAL, MASK))

    def points(name: str) -> float:
        return float(100 * (ours[name] - oracle[name]))

    lost = before["personal_acc"] - mask["personal_acc"]
    recovered = 100.0 if lost <= 0 else 100 * (ours["personal_acc"] - mask["personal_acc"]) / lost
    forget, retain, test, relearn = (points(n) for n in ("forget_acc", "retain_acc", "test_acc", "relearn_forget_acc"))
    auc = ours["mia_auc"] - oracle["mia_auc"]
    rounded = 100 * (ours["int8_forget_acc"] - ours["forget_acc"])
    return [
        Target("forget accuracy within 3 points of the oracle's", forget, "points", abs(forget) <= 3),
        Target(
            f"at least {100 * recovery:.0f} % of the personal accuracy that the mask lost",
            recovered,
            f"% of {100 * lost:.1f} points",
            recovered >= 100 * recovery,
        ),
        Target("retain accuracy at most 2 points below the oracle's", retain, "points", retain >= -2),
        Target("test accuracy at most 2 points below the oracle's", test, "points", test >= -2),
        Target("membership AUC within 0.05 of the oracle's, in hundredths", 100 * auc, "", abs(auc) <= 0.05),
        Target("relearned forget accuracy at most 5 points above the oracle's", relearn, "points", relearn <= 5),
        Target("INT8 forget accuracy at most 1 point above", rounded, "points", rounded <= 1),
    ]

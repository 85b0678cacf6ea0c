"""What is measured on every unlearned model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from zkapex.client.personalise import FitSettings
from zkapex.simulation.baselines import Case
from zkapex.simulation.data import ClientData, Examples, concatenate
from zkapex.simulation.metrics.membership import FloatArray, attack
from zkapex.simulation.metrics.relearning import relearned
from zkapex.simulation.metrics.rounding import rounded
from zkapex.simulation.metrics.similarity import features, linear_cka
from zkapex.simulation.scenarios import Bench
from zkapex.simulation.training import accuracy

METRICS = (
    "forget_acc", "forget_test_acc", "retain_acc", "test_acc", "personal_acc", "mia_auc", "mia_tpr_at_0.1pct_fpr",
    "relearn_forget_acc", "int8_forget_acc", "int4_forget_acc", "cka_to_retrain", "seconds",
)  # fmt: skip
"""Every number of a method and seed, in the order of tables."""


@dataclass(frozen=True)
class Yardstick:
    """What all clients of a seed are measured against.

    Attributes
    ----------
    bench : Bench
    retain : Examples
        A sample of the retain set.
    level : float64 array
        Difficulty of the examples to forget, then of the non-members, see `membership`.
    relearn : FitSettings
    """

    bench: Bench
    retain: Examples
    level: FloatArray
    relearn: FitSettings


def measure(model: nn.Module, case: Case, client: ClientData, yardstick: Yardstick) -> dict[str, float]:
    """All of `METRICS` but the seconds, for one client's model as it is deployed."""
    bench, world = yardstick.bench, yardstick.bench.world
    forget = world.forget_set
    membership = attack(model, forget, bench.non_members, yardstick.level)
    common = concatenate(bench.test.take(torch.arange(min(500, len(bench.test.labels)))), world.forget_test).inputs
    deploy = case.deployment.deploy
    return {
        "forget_acc": accuracy(model, forget),
        "forget_test_acc": accuracy(model, world.forget_test),
        "retain_acc": accuracy(model, yardstick.retain),
        "test_acc": accuracy(model, bench.test),
        "personal_acc": accuracy(model, client.personal_test),
        "mia_auc": membership.auc,
        "mia_tpr_at_0.1pct_fpr": membership.tpr,
        "relearn_forget_acc": accuracy(deploy(relearned(model, case.retain, yardstick.relearn, case.seed)), forget),
        "int8_forget_acc": accuracy(rounded(model, 8), forget),
        "int4_forget_acc": accuracy(rounded(model, 4), forget),
        "cka_to_retrain": linear_cka(features(model, common), features(case.retrained, common)),
    }

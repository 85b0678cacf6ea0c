"""What is measured on every unlearned model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from zkapex.simulation.data.digits import ClientData, Examples, concatenate
from zkapex.simulation.evaluation.baselines import Case
from zkapex.simulation.evaluation.metrics.membership import Shadows, attack
from zkapex.simulation.evaluation.metrics.probing import probe_auc
from zkapex.simulation.evaluation.metrics.relearning import relearned
from zkapex.simulation.evaluation.metrics.rounding import rounded
from zkapex.simulation.evaluation.metrics.similarity import features, linear_cka
from zkapex.simulation.models.training import accuracy
from zkapex.simulation.scenarios import Bench
from zkapex.unlearning.personalise import FitSettings

METRICS = (
    "forget_acc", "forget_test_acc", "retain_acc", "test_acc", "personal_acc", "mia_auc", "mia_tpr_at_0.1pct_fpr",
    "lira_auc", "relearn_forget_acc", "int8_forget_acc", "int4_forget_acc", "probe_auc", "cka_to_retrain", "seconds",
)  # fmt: skip
"""Every number of a method and seed, in the order of tables."""

_CAP = 500
"""Examples of each kind whose representations are looked at, at most."""


@dataclass(frozen=True)
class Yardstick:
    """What all clients of a seed are measured against.

    Attributes
    ----------
    bench : Bench
    retain : Examples
        A sample of the retain set.
    shadows : Shadows
        Of the examples to forget, then of the non-members.
    relearn : FitSettings
    """

    bench: Bench
    retain: Examples
    shadows: Shadows
    relearn: FitSettings


def measure(model: nn.Module, case: Case, client: ClientData, yardstick: Yardstick) -> dict[str, float]:
    """All of `METRICS` but the seconds, for one client's model as it is deployed."""
    bench, world = yardstick.bench, yardstick.bench.world
    forget = world.forget_set
    membership = attack(model, forget, bench.non_members, yardstick.shadows)
    test, unseen = _first(bench.test), _first(world.forget_test)
    common = concatenate(test, world.forget_test).inputs
    deploy = case.deployment.deploy
    return {
        "forget_acc": accuracy(model, forget),
        "forget_test_acc": accuracy(model, world.forget_test),
        "retain_acc": accuracy(model, yardstick.retain),
        "test_acc": accuracy(model, bench.test),
        "personal_acc": accuracy(model, client.personal_test),
        "mia_auc": membership["rmia"].auc,
        "mia_tpr_at_0.1pct_fpr": membership["rmia"].tpr,
        "lira_auc": membership["lira"].auc,
        "relearn_forget_acc": accuracy(deploy(relearned(model, case.retain, yardstick.relearn, case.seed)), forget),
        "int8_forget_acc": accuracy(rounded(model, 8), forget),
        "int4_forget_acc": accuracy(rounded(model, 4), forget),
        "probe_auc": probe_auc(model, (_first(forget), _first(yardstick.retain)), (unseen, test)),
        "cka_to_retrain": linear_cka(features(model, common), features(case.retrained, common)),
    }


def _first(examples: Examples) -> Examples:
    return examples.take(torch.arange(min(_CAP, len(examples.labels))))

"""What is measured on every unlearned model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zkapex.simulation.data.digits import ClientData, Examples, concatenate
from zkapex.simulation.evaluation.baselines import TARGETED, Case
from zkapex.simulation.evaluation.metrics.kshot import SHOTS, kshot, kshot_head, probe_kshot_auc
from zkapex.simulation.evaluation.metrics.membership import Shadows, attack
from zkapex.simulation.evaluation.metrics.probing import probe_auc
from zkapex.simulation.evaluation.metrics.relearning import relearned
from zkapex.simulation.evaluation.metrics.restoration import restored
from zkapex.simulation.evaluation.metrics.rounding import rounded
from zkapex.simulation.evaluation.metrics.similarity import features, linear_cka
from zkapex.simulation.evaluation.metrics.undo import LOSSES, RECEIPT, Attempt, Public, best, carried_out, undo
from zkapex.simulation.models.training import accuracy
from zkapex.simulation.scenarios import Bench
from zkapex.simulation.scenarios.base import FewShot
from zkapex.unlearning.personalise import FitSettings

__all__ = ["CURVES", "METRICS", "SHOTS", "FewShot", "Yardstick", "deleted_label", "measure", "undo_attempts"]

METRICS = (
    "forget_acc", "forget_test_acc", "retain_acc", "test_acc", "personal_acc", "mia_auc", "mia_tpr_at_0.1pct_fpr",
    "lira_auc", "relearn_forget_acc", "int8_forget_acc", "int4_forget_acc", "probe_auc", "cka_to_retrain",
    "undone_forget_acc", "undone_forget_acc_5", "undone_by_receipt_forget_acc", "undone_mia_auc", "probe_kshot_auc",
    "restored_forget_acc", "seconds",
)  # fmt: skip
"""Every number of a method and seed, in the order of tables."""
CURVES = ("kshot_forget_acc", "kshot_head_forget_acc")
"""What is a number for each of `SHOTS`: a mapping from it, as a word."""

OWN_PLAN = ("mask-only", "group-obs", "guarded-group-obs")
"""Methods whose receipts hold the mask that was chosen for guarded Group-OBS."""
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
    few_shot : FewShot
    """

    bench: Bench
    retain: Examples
    shadows: Shadows
    relearn: FitSettings
    few_shot: FewShot


def measure(
    model: nn.Module,
    others: Sequence[nn.Module],
    case: Case,
    client: ClientData,
    yardstick: Yardstick,
    method: str,
) -> dict[str, Any]:
    """All of `METRICS` but the seconds, and all `CURVES`, for one client's model as it is deployed.

    `others` are those of the other clients, and `method` the name of what made them.
    """
    bench, world = yardstick.bench, yardstick.bench.world
    forget = world.forget_set
    membership = attack(model, forget, bench.non_members, yardstick.shadows)
    test, unseen = _first(bench.test), _first(world.forget_test)
    common = concatenate(test, world.forget_test).inputs
    deploy = case.deployment.deploy
    tried, few = undo_attempts(model, others, case, yardstick, method), yardstick.few_shot
    attacked = [attempt for _, attempts in tried for attempt in attempts]
    undone = _undone(model, others, yardstick, tried)
    sides = (_first(forget), _first(yardstick.retain)), (unseen, test)
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
        "probe_auc": probe_auc(model, *sides),
        "cka_to_retrain": linear_cka(features(model, common), features(case.retrained, common)),
        "undone_forget_acc": best(attacked, LOSSES[0]).forget,
        "undone_forget_acc_5": best(attacked, LOSSES[1]).forget,
        "undone_by_receipt_forget_acc": best(attacked, LOSSES[0], RECEIPT).forget,
        "undone_by": best(attacked, LOSSES[0]).name,
        "undone_mia_auc": attack(undone, forget, bench.non_members, yardstick.shadows)["rmia"].auc,
        "kshot_forget_acc": kshot(model, forget, case.retain, case.seed, few),
        "kshot_head_forget_acc": kshot_head(model, forget, case.retain, case.seed, few),
        "probe_kshot_auc": probe_kshot_auc(model, *sides, case.seed),
        "restored_forget_acc": restored(model, case.before, _first(forget)),
    }


def undo_attempts(
    model: nn.Module, others: Sequence[nn.Module], case: Case, yardstick: Yardstick, method: str
) -> list[tuple[Public, list[Attempt]]]:
    """What an outsider can do to a client's model with what a receipt holds, and what came of it, receipt by receipt.

    A model that no operator of ours made is attacked with the receipts of all of them.
    """
    forget, retain = _first(yardstick.bench.world.forget_set), _first(yardstick.retain)
    publics = []
    if method not in TARGETED:
        publics.append((case.plan, case.deployment))
    if case.targets is not None and case.wide is not None and method not in OWN_PLAN:
        publics.append((case.targets, case.wide))
    found = []
    for plan, deployment in publics:
        public = Public.of(plan.terms, deployment.exponents, deployment.encoding.block_width)
        found.append((public, undo(model, others, public, forget, retain, deleted_label(forget, retain))))
    return found


def _undone(
    model: nn.Module,
    others: Sequence[nn.Module],
    yardstick: Yardstick,
    tried: Sequence[tuple[Public, Sequence[Attempt]]],
) -> nn.Module:
    """The model after the best attempt of all."""
    label = deleted_label(_first(yardstick.bench.world.forget_set), _first(yardstick.retain))
    public, chosen = max(((public, best(attempts, LOSSES[0])) for public, attempts in tried), key=lambda x: x[1].forget)
    return carried_out(model, others, public, label, chosen)


def deleted_label(forget: Examples, kept: Examples) -> int | None:
    """The class that is to be forgotten, if it is one that nothing of what is kept belongs to."""
    labels = torch.unique(forget.labels)
    return int(labels[0]) if len(labels) == 1 and forget.labels.ndim == 1 and labels[0] not in kept.labels else None


def _first(examples: Examples) -> Examples:
    return examples.take(torch.arange(min(_CAP, len(examples.labels))))

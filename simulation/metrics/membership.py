"""Per-example membership inference: whether a model still tells which examples of the class it was trained on.

Offline LiRA (Carlini et al., arXiv 2112.03570): how confident a model is of an example is compared with how confident
*shadow models* are that were trained on the same kind of data, but not on that example, so that easy examples do not
pass for members. The attacker knows the data, not the model's training. Shadow models have not unlearned: U-LiRA,
which runs the method on every shadow model, is a stronger attack and costs as many times as much.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from torch import nn
from torch.nn import functional

from zkapex.errors import InputError
from zkapex.simulation.data import Examples, concatenate

FloatArray = npt.NDArray[np.float64]
FALSE_POSITIVE_RATE = 0.001


@torch.no_grad()
def confidence(model: nn.Module, examples: Examples) -> FloatArray:
    """``log p / (1 - p)`` of each example's own label, float64 [n]: LiRA's statistic, nearly normal over trainings.

    Where every token has a label, the mean over the example's tokens.
    """
    model.eval()
    parts = []
    size = max(1, 512 // examples.labels[0].numel())
    for x, y in zip(torch.split(examples.inputs, size), torch.split(examples.labels, size), strict=True):
        logs = functional.log_softmax(model(x).double(), -1)
        own = y[..., None]
        odds = logs.gather(-1, own)[..., 0] - logs.scatter(-1, own, -torch.inf).logsumexp(-1)
        parts.append(odds.reshape(len(y), -1).mean(1))
    return torch.cat(parts).numpy()


def shadow_halves(count: int, shadows: int, seed: int) -> Iterator[npt.NDArray[np.bool_]]:
    """For each shadow model, which of `count` examples it is trained on: random halves, in pairs that complement.

    So every example is left out by exactly half of the shadow models.

    Raises
    ------
    InputError
        The number of shadow models is not even and positive.
    """
    if shadows < 2 or shadows % 2:
        raise InputError(f"membership inference needs an even number of shadow models, not {shadows}")
    generator = np.random.default_rng(seed)
    for _ in range(shadows // 2):
        half = np.zeros(count, np.bool_)
        half[generator.permutation(count)[: count // 2]] = True
        yield half
        yield ~half


def difficulty(confidences: FloatArray, trained_on: npt.NDArray[np.bool_]) -> FloatArray:
    """Mean confidence of the shadow models that were not trained on an example.

    Parameters
    ----------
    confidences, trained_on : float64, bool array [shadows, n]

    Returns
    -------
    float64 array [n]
    """
    outside = ~trained_on
    result: FloatArray = (confidences * outside).sum(0) / outside.sum(0)
    return result


@dataclass(frozen=True)
class Membership:
    """How well membership can be told: area under the ROC curve, and true positives at 0.1 % false ones.

    An area below a half gives members away as much as one above it.
    """

    auc: float
    tpr: float


def attack(model: nn.Module, members: Examples, non_members: Examples, level: FloatArray) -> Membership:
    """Attack a model.

    Parameters
    ----------
    model : nn.Module
    members, non_members : Examples
        Of the same kind; the first were trained on before the deletion, the second never.
    level : float64 array [members + non_members]
        `difficulty` of the members, then of the non-members.
    """
    scores = confidence(model, concatenate(members, non_members)) - level
    return separation(scores[: len(members.labels)], scores[len(members.labels) :])


def separation(members: FloatArray, non_members: FloatArray) -> Membership:
    """AUC (ties count half) and the true positive rate at a false positive rate of at most 0.1 %.

    With fewer than a thousand non-members not one of them may be above the threshold.

    Raises
    ------
    InputError
        One side is empty or a score is not a number.
    """
    if not len(members) or not len(non_members):
        raise InputError("membership inference needs members and non-members")
    scores = np.concatenate([members, non_members])
    if np.isnan(scores).any():
        raise InputError("a membership score is not a number", why="the model's logits overflowed")
    ranks = rankdata(scores)[: len(members)]
    auc = (ranks.sum() - len(members) * (len(members) + 1) / 2) / (len(members) * len(non_members))
    allowed = int(FALSE_POSITIVE_RATE * len(non_members))
    threshold = np.sort(non_members)[::-1][allowed]
    return Membership(float(auc), float((members > threshold).mean()))

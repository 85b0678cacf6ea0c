"""Per-example membership inference: whether a model still tells which examples of the class it was trained on.

Both attacks compare what a model makes of an example with what *shadow models* make of it, half of which were trained
on the example and half were not, so that easy examples do not pass for members:

* RMIA (Zarifzadeh, Liu and Shokri, arXiv 2312.03262): the likelihood ratio ``p(x | model) / p(x)``, p(x) being the mean
  over the shadow models (their online form). The paper counts the population examples z whose ratio is below that of x
  by a factor gamma; all x are compared with the same z, so the count orders them as the ratio itself does, and
  separation is measured on that.
* Offline LiRA (Carlini et al., arXiv 2112.03570), with the mean of the models that did not see the example alone.

The attacker knows the data, not the model's training. Shadow models have not unlearned: U-LiRA, which runs the method
on every shadow model, is a stronger attack and costs as many times as much.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import logsumexp
from scipy.stats import rankdata
from torch import nn
from torch.nn import functional

from zkapex.errors import InputError
from zkapex.simulation.data.digits import Examples, concatenate

FloatArray = npt.NDArray[np.float64]
FALSE_POSITIVE_RATE = 0.001


@dataclass(frozen=True)
class Signals:
    """What models make of examples' own labels, float64 [n], or [models, n].

    Where every token has a label, the mean over the example's tokens.

    Attributes
    ----------
    log_odds : array
        ``log p / (1 - p)``: LiRA's statistic, nearly normal over trainings.
    log_likelihood : array
        ``log p``: RMIA's.
    """

    log_odds: FloatArray
    log_likelihood: FloatArray


@dataclass(frozen=True)
class Shadows:
    """Shadow models' signals of the contested examples, the members and then the non-members.

    Attributes
    ----------
    signals : Signals
        [models, n].
    trained_on : bool array [models, n]
        Which model was trained on which example.
    """

    signals: Signals
    trained_on: npt.NDArray[np.bool_]


@torch.no_grad()
def signals(model: nn.Module, examples: Examples) -> Signals:
    """A model's signals of examples."""
    model.eval()
    odds, likelihood = [], []
    size = max(1, 512 // examples.labels[0].numel())
    for x, y in zip(torch.split(examples.inputs, size), torch.split(examples.labels, size), strict=True):
        logs = functional.log_softmax(model(x).double(), -1)
        own = y[..., None]
        chosen = logs.gather(-1, own)[..., 0]
        others = logs.scatter(-1, own, -torch.inf).logsumexp(-1)
        likelihood.append(chosen.reshape(len(y), -1).mean(1))
        odds.append((chosen - others).reshape(len(y), -1).mean(1))
    return Signals(torch.cat(odds).numpy(), torch.cat(likelihood).numpy())


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


def rmia(found: Signals, shadows: Shadows) -> FloatArray:
    """Logarithm of RMIA's ratio of every contested example, float64 [n]: high for members."""
    prior = logsumexp(shadows.signals.log_likelihood, axis=0) - np.log(len(shadows.trained_on))
    result: FloatArray = found.log_likelihood - prior
    return result


def lira(found: Signals, shadows: Shadows) -> FloatArray:
    """Offline LiRA's score of every contested example, float64 [n]: high for members."""
    outside = ~shadows.trained_on
    level = (shadows.signals.log_odds * outside).sum(0) / outside.sum(0)
    result: FloatArray = found.log_odds - level
    return result


@dataclass(frozen=True)
class Membership:
    """How well membership can be told: area under the ROC curve, and true positives at 0.1 % false ones.

    An area below a half gives members away as much as one above it.
    """

    auc: float
    tpr: float


def attack(model: nn.Module, members: Examples, non_members: Examples, shadows: Shadows) -> dict[str, Membership]:
    """Attack a model: what `rmia` and `lira` achieve, by name.

    Parameters
    ----------
    model : nn.Module
    members, non_members : Examples
        Of the same kind; the first were trained on before the deletion, the second never.
    shadows : Shadows
    """
    found = signals(model, concatenate(members, non_members))
    scores = {"rmia": rmia(found, shadows), "lira": lira(found, shadows)}
    count = len(members.labels)
    return {name: separation(score[:count], score[count:]) for name, score in scores.items()}


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

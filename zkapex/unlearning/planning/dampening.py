"""Selective synaptic dampening: which weights matter more to the forget set than to all data, and by how much less.

Foster, Schoepf and Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening", AAAI
2024 (arXiv 2308.07707). With D_f and D a weight's importance (mean squared gradient of the loss) to the forget set and
to all data, the weights with ``D_f > alpha D`` are multiplied by ``min(strength D / D_f, 1)`` (equation 4; the paper
calls the strength lambda). Selected weights whose factor would be one are left out.

Two things differ from the paper. It chooses alpha by hand; here alpha is lowered step by step until every copy of the
provider has forgotten. And importance has no sign: many of the weights it selects argue *against* what is to be
forgotten, and shrinking them works against forgetting. Unless told otherwise, only those are dampened whose shrinking
raises the forget set's loss to first order. ``docs/operators.md`` has what either does on the digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zkapex.circuits.statement import FACTOR_UNIT
from zkapex.errors import InputError
from zkapex.unlearning.operators import Terms
from zkapex.unlearning.planning.planner import Planner, Question
from zkapex.unlearning.planning.saliency import gradient_moments
from zkapex.unlearning.planning.trials import (
    BoolArray,
    Examples,
    FixedPoint,
    FloatArray,
    IntArray,
    Plan,
    Setting,
    Target,
    Trial,
    judge,
)
from zkapex.unlearning.weights import weight_of

ALPHAS = tuple(round(2.0 ** (quarters / 4), 3) for quarters in range(24, -9, -1))
"""From 64 down to 1/4, four to an octave."""
STRENGTHS = (1.0, 0.25, 0.0625)


@dataclass(frozen=True)
class Importance:
    """Of one layer's weights; float64 [out, in] each, means over the copies.

    Attributes
    ----------
    forget, everything : array
        D_f and D.
    gain : array
        First-order rise of the forget loss if the weight vanished: minus the weight times the loss' mean gradient.
    """

    forget: FloatArray
    everything: FloatArray
    gain: FloatArray


def importance(trials: Sequence[Trial], names: Sequence[str], forget_set: Examples) -> dict[str, Importance]:
    """The importance of every weight; all data are those a copy is to keep and the forget set.

    Raises
    ------
    InputError
        As `zkapex.unlearning.planning.saliency.gradient_moments`.
    """
    totals = {name: Importance(*(np.zeros(w.shape) for _ in range(3))) for name, w in trials[0].weights.items()}
    for trial in trials:
        kept = trial.source.kept()
        forget = gradient_moments(trial.deployed, names, *forget_set)
        retain = gradient_moments(trial.deployed, names, *kept)
        share = len(forget_set[1]) / (len(forget_set[1]) + len(kept[1]))
        for name, total in totals.items():
            gradient, squares = forget[name]
            total.forget[:] += squares / len(trials)
            total.everything[:] += (share * squares + (1 - share) * retain[name][1]) / len(trials)
            total.gain[:] -= gradient * weight_of(trial.deployed, name) / len(trials)
    return totals


def dampen(
    found: Mapping[str, Importance], alpha: float, strength: float, directed: bool = True
) -> tuple[dict[str, BoolArray], dict[str, IntArray]]:
    """Masks bool [out, in] and factors int64 [out, in], in units of ``1 / FACTOR_UNIT`` and rounded down to whole ones.

    Factors are `FACTOR_UNIT` outside the mask and below it inside. ``directed`` leaves out weights without a gain.
    """
    masks, factors = {}, {}
    for name, of in found.items():
        with np.errstate(over="ignore"):  # infinite is large enough
            ratio = np.divide(of.everything, of.forget, out=np.full_like(of.forget, np.inf), where=of.forget > 0)
        units = np.floor(np.minimum(strength * ratio, 1.0) * FACTOR_UNIT).astype(np.int64)
        masks[name] = (of.forget > alpha * of.everything) & (units < FACTOR_UNIT) & ((of.gain > 0) | (not directed))
        factors[name] = np.where(masks[name], units, FACTOR_UNIT)
    return masks, factors


def dampenings(
    trials: Sequence[Trial],
    names: Sequence[str],
    forget_set: Examples,
    encoding: FixedPoint,
    target: Target,
    alphas: Sequence[float],
    strengths: Sequence[float],
    directed: bool = True,
) -> Iterator[Plan]:
    """Plans of falling alpha, for each strength up to the first that reaches the target; each with its own outcome.

    Raises
    ------
    InputError
        If no alpha selects any weight.
    """
    found = importance(trials, names, forget_set)
    total = sum(layer.forget.size for layer in found.values())
    tried = False
    for strength in strengths:
        last = 0
        for alpha in sorted(alphas, reverse=True):
            masks, factors = dampen(found, alpha, strength, directed)
            masked = sum(int(mask.sum()) for mask in masks.values())
            if masked == last:
                continue
            last, tried = masked, True
            models = [trial.unlearn(Terms(masks, factors=factors)) for trial in trials]
            setting = Setting("dampening", masked / total, 0, alpha, strength)
            outcome = judge(trials, models, forget_set, target, setting, masks, encoding.chunk)
            yield Plan(outcome, masks, {}, (), factors)
            if outcome.reaches_target:
                break
    if not tried:
        raise InputError(
            "no weight is more important to what is to be forgotten than every alpha asks for",
            fix="lower the alphas of the search",
        )


class Dampenings(Planner):
    """A threshold that falls, of the alphas and strengths of the search space."""

    largest_margin = 0.5  # where nothing is repaired every logit of margin costs personal accuracy

    def check(self, question: Question) -> None:
        """See `Planner`."""
        if question.space.concentration or question.earlier:
            raise InputError(
                "dampening chooses its weights by a threshold, neither by chunk nor beside an earlier mask"
            )

    def plans(self, question: Question) -> Iterator[Plan]:
        """See `Planner`, and `dampenings`."""
        q, space = question, question.space
        yield from dampenings(
            q.trials, q.names, q.forget_set, q.encoding, space.target, space.alphas, space.strengths, space.directed
        )


PLANNER = Dampenings()

"""Which weights to halve: those whose vanishing would raise the loss on the forget set most, ever more of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zkapex.unlearning.operators import Terms
from zkapex.unlearning.planning.mask import top_fraction
from zkapex.unlearning.planning.planner import Planner, Question
from zkapex.unlearning.planning.saliency import gradient_moments
from zkapex.unlearning.planning.trials import Plan, Setting, judge, weight_of


class HalvingPlanner(Planner):
    """By first-order saliency, over all copies."""

    def plans(self, question: Question) -> Iterator[Plan]:
        q = question
        gains = {name: np.zeros(weights.shape) for name, weights in q.trials[0].weights.items()}
        for trial in q.trials:
            for name, (gradient, _) in gradient_moments(trial.deployed, q.names, *q.forget_set).items():
                gains[name] -= gradient * weight_of(trial.deployed, name)
        for fraction in q.space.fractions:
            masks = top_fraction(gains, fraction)
            models = [trial.unlearn(Terms(masks)) for trial in q.trials]
            setting = Setting("gain", fraction, 0)
            outcome = judge(q.trials, models, q.forget_set, q.space.target, setting, masks, q.encoding.chunk)
            yield Plan(outcome, masks, {}, ())
            if outcome.reaches_target:
                return


PLANNER = HalvingPlanner()

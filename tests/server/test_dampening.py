"""Which weights are dampened and by how much: equation 4 of the paper, quantised, and searched for on the copies."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from federation import FORGET_CLASS, LAYERS, Perceptron, only, perceptron, share
from hypothesis import given
from hypothesis import strategies as st

from zkapex.circuits.profiles import profile
from zkapex.circuits.statement import FACTOR_UNIT
from zkapex.errors import InputError
from zkapex.unlearning.personalise import FitSettings, fit
from zkapex.unlearning.planning.dampening import Importance, dampen, importance
from zkapex.unlearning.planning.saliency import margin_loss
from zkapex.unlearning.planning.search import Copy, FixedPoint, SearchSpace, search
from zkapex.unlearning.planning.trials import Plan, trials_of
from zkapex.unlearning.weights import weight_of

ENCODING = FixedPoint(profile("tiny").statement(kind="dampening"))


POSITIVE = st.just(0.0) | st.floats(1e-9, 10)


def examples(forget: bool) -> tuple[torch.Tensor, torch.Tensor]:
    public = share(900, 300)
    return only(public, (public[1] == FORGET_CLASS) == forget)


@lru_cache(maxsize=1)
def trained() -> Perceptron:
    model = perceptron()
    fit(model, *share(0, 900), FitSettings(20, 3e-3), 0)
    return model


def copies() -> list[Copy]:
    return [Copy(trained(), examples(False)[0], examples(False))]


def found(**space: object) -> Plan:
    return search(copies(), LAYERS, examples(True), ENCODING, SearchSpace(margin=0.0, **space))


def test_importance_is_the_mean_squared_gradient_and_gain_the_first_order_rise() -> None:
    trials = trials_of(copies(), LAYERS, ENCODING)
    of = importance(trials, LAYERS, examples(True))["fc2"]
    model, kept = trials[0].deployed, examples(False)
    squares, mean = {}, {}
    for name, (inputs, labels) in {"forget": examples(True), "kept": kept}.items():
        gradients = []
        for x, y in zip(inputs, labels, strict=True):
            model.zero_grad()
            margin_loss(model(x[None]), y[None]).backward()
            gradients.append(model.get_parameter("fc2.weight").grad.double().numpy())
        squares[name], mean[name] = np.mean(np.square(gradients), 0), np.mean(gradients, 0)
    counts = {name: len(examples(name == "forget")[1]) for name in squares}
    everything = sum(counts[name] * squares[name] for name in squares) / sum(counts.values())
    np.testing.assert_allclose(of.forget, squares["forget"], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(of.everything, everything, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(of.gain, -mean["forget"] * weight_of(model, "fc2"), rtol=1e-3, atol=1e-6)


@given(
    st.lists(st.tuples(POSITIVE, POSITIVE, st.sampled_from([-1.0, 1.0])), min_size=4, max_size=4),
    st.floats(0.1, 20),
    st.floats(0.01, 2),
    st.booleans(),
)
def test_factors_are_equation_4_rounded_down(
    weights: list[tuple[float, float, float]], alpha: float, strength: float, directed: bool
) -> None:
    forget, everything, gain = (np.array(values).reshape(2, 2) for values in zip(*weights, strict=True))
    masks, factors = dampen({"a": Importance(forget, everything, gain)}, alpha, strength, directed)
    for at in np.ndindex(2, 2):
        d_f, d = forget[at], everything[at]
        beta = min(strength * (d / d_f), 1.0) if d_f > 0 else 1.0
        chosen = d_f > alpha * d and beta < 1 and (gain[at] > 0 or not directed)
        assert masks["a"][at] == chosen
        assert factors["a"][at] == (int(beta * FACTOR_UNIT) if chosen else FACTOR_UNIT)


def test_alpha_falls_until_every_copy_has_forgotten() -> None:
    plan = found(strengths=(0.0625,), retain_cost=0.2)
    curve = plan.curve
    assert [o.masked_weights for o in curve] == sorted({o.masked_weights for o in curve})
    assert [o.setting.alpha for o in curve] == sorted({o.setting.alpha for o in curve}, reverse=True)
    assert [o.reaches_target for o in curve] == [False] * (len(curve) - 1) + [True]
    chosen = plan.chosen
    assert chosen == curve[-1]
    assert chosen.forget <= 0.01
    assert chosen.setting.fraction == chosen.masked_weights / sum(mask.size for mask in plan.masks.values())
    assert plan.guards == {}
    for name, mask in plan.masks.items():
        assert np.array_equal(mask, plan.factors[name] < FACTOR_UNIT)
        assert plan.factors[name].min() >= 0


def test_dampening_regardless_of_direction_forgets_less() -> None:
    space = {"alphas": (1.5,), "strengths": (0.0625,)}
    (directed,), (plain,) = found(**space).curve, found(**space, directed=False).curve
    assert plain.masked_weights > directed.masked_weights
    assert plain.forget > directed.forget


def test_alphas_that_select_nothing_are_named() -> None:
    with pytest.raises(InputError, match="more important"):
        found(alphas=(1e6,))

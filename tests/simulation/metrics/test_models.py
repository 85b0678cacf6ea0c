"""Metrics that look at a model: rounding, relearning, similarity of representations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zkapex.errors import InputError
from zkapex.simulation.data.digits import digits_scenario
from zkapex.simulation.evaluation.metrics.relearning import relearned
from zkapex.simulation.evaluation.metrics.rounding import rounded
from zkapex.simulation.evaluation.metrics.similarity import features, linear_cka
from zkapex.simulation.models.tiny import vision_transformer
from zkapex.unlearning.personalise import FitSettings


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_output_channel_has_a_scale_of_its_own(bits: int) -> None:
    model = vision_transformer(0)
    before = model.get_parameter("blocks.0.fc1.weight").detach().clone()
    after = rounded(model, bits).get_parameter("blocks.0.fc1.weight")
    scale = before.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    assert ((after - before).abs() <= scale / 2 + 1e-7).all()
    torch.testing.assert_close((after / scale).round() * scale, after)
    assert torch.equal(model.get_parameter("blocks.0.fc1.weight"), before), "the model itself is left alone"
    assert torch.equal(after == 0, (before / scale).round() == 0)


def test_zeros_stay_zeros_and_one_bit_is_too_few() -> None:
    layer = nn.Linear(4, 2)
    nn.init.zeros_(layer.weight)
    assert not rounded(nn.Sequential(layer), 4)[0].weight.any()  # type: ignore[index]
    with pytest.raises(InputError, match="1 bits"):
        rounded(layer, 1)


def test_relearning_trains_a_copy() -> None:
    model, retain = vision_transformer(0), digits_scenario().retain_set
    before = model.get_parameter("head.weight").detach().clone()
    after = relearned(model, retain, FitSettings(1, 1e-3), 0)
    assert torch.equal(model.get_parameter("head.weight"), before)
    assert not torch.equal(after.get_parameter("head.weight"), before)


@settings(deadline=None)
@given(st.integers(0, 100), st.floats(0.1, 10), st.floats(-5, 5))
def test_similarity_ignores_rotation_scale_and_offset(seed: int, scale: float, offset: float) -> None:
    generator = np.random.default_rng(seed)
    a = generator.normal(size=(20, 4))
    rotation = np.linalg.qr(generator.normal(size=(4, 4)))[0]
    assert linear_cka(a, scale * a @ rotation + offset) == pytest.approx(1.0)
    b = generator.normal(size=(20, 3))
    assert linear_cka(a, b) == pytest.approx(linear_cka(b, a))
    assert 0 <= linear_cka(a, b) < 1


def test_orthogonal_representations_have_nothing_in_common() -> None:
    a, b = np.array([[1.0], [-1.0], [0.0], [0.0]]), np.array([[0.0], [0.0], [1.0], [-1.0]])
    assert linear_cka(a, b) == 0.0


def test_similarity_needs_two_representations_of_the_same_examples() -> None:
    with pytest.raises(InputError, match="same examples"):
        linear_cka(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(InputError, match="same for all"):
        linear_cka(np.ones((3, 2)), np.eye(3))


def test_features_are_what_the_head_sees() -> None:
    model = vision_transformer(0)
    inputs = torch.rand(3, 1, 8, 8)
    found = features(model, inputs)
    head = model.get_submodule("head")
    torch.testing.assert_close(head(torch.from_numpy(found).float()), model(inputs))
    with pytest.raises(InputError, match="no linear layer"):
        features(model, inputs, "norm")

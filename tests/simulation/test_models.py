from __future__ import annotations

import pytest
import torch
from torch import nn

from zkapex.errors import InputError
from zkapex.simulation.models.tiny import ViTConfig, target_layers, vision_transformer


def test_default_model_is_small_enough_to_prove() -> None:
    layers = target_layers(vision_transformer(0))
    assert list(layers) == ["blocks.0.fc1", "blocks.0.fc2", "blocks.1.fc1", "blocks.1.fc2"]
    assert sum(layer.weight.numel() for layer in layers.values()) == 8192


def test_a_model_is_a_function_of_its_seed_and_touches_no_global_generator() -> None:
    before = torch.random.get_rng_state()
    a, b, c = (torch.cat([p.flatten() for p in vision_transformer(s).parameters()]) for s in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("config", [ViTConfig(), ViTConfig(12, 3, 2, 16, 24, 1, 2, 5)])
def test_logits_do_not_depend_on_the_batch(config: ViTConfig) -> None:
    model = vision_transformer(0, config).eval()
    x = torch.rand(5, config.channels, config.image_size, config.image_size)
    logits = model(x)
    assert logits.shape == (5, config.classes)
    torch.testing.assert_close(logits[2:3], model(x[2:3]))


def test_position_matters() -> None:
    model = vision_transformer(0).eval()
    x = torch.rand(1, 1, 8, 8)
    assert not torch.allclose(model(x), model(x.flip(2)), atol=1e-4)


def test_layers_are_chosen_by_whole_names() -> None:
    model = vision_transformer(0)
    assert list(target_layers(model, ("head",))) == ["head"]
    assert list(target_layers(model, ("1.fc2",))) == ["blocks.1.fc2"]
    for suffixes in (("c1",), ("fc1", "gate"), ()):
        with pytest.raises(InputError, match="no layer"):
            target_layers(model, suffixes)
    with pytest.raises(InputError, match="not a linear layer"):
        target_layers(nn.Sequential(nn.ReLU()), ("0",))


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="do not divide"):
        ViTConfig(patch_size=3)
    with pytest.raises(InputError, match="positive"):
        ViTConfig(depth=0)

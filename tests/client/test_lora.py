from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from zkapex.errors import InputError
from zkapex.unlearning.lora import LoRA, adapted
from zkapex.unlearning.personalise import FitSettings, fit


def model() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 5))
    made[2].weight.requires_grad_(False)
    return made


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(40, 12, generator=generator), torch.randint(0, 5, (40,), generator=generator)


SETTINGS = FitSettings(epochs=8, learning_rate=1e-2, lora=LoRA(rank=3, alpha=6.0))


def test_the_change_has_low_rank_and_what_is_frozen_stays() -> None:
    before, after = model(), model()
    loss = fit(after, *data(), SETTINGS, seed=0)
    assert loss < fit(copy.deepcopy(before), *data(), FitSettings(1, 1e-9), seed=0)
    change = (after[0].weight - before[0].weight).detach()
    assert change.abs().max() > 1e-3
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == 3
    assert torch.equal(after[0].bias, before[0].bias)
    assert torch.equal(after[2].weight, before[2].weight)


def test_what_comes_out_is_an_ordinary_model() -> None:
    before, after = model(), model()
    fit(after, *data(), SETTINGS, seed=0)
    assert after.state_dict().keys() == before.state_dict().keys()
    assert [p.requires_grad for p in after.parameters()] == [p.requires_grad for p in before.parameters()]
    assert all(type(p) is nn.Parameter for p in after.parameters())


def test_held_weights_are_zero_after_merging() -> None:
    after = model()
    mask = torch.rand(20, 12, generator=torch.Generator().manual_seed(2)) < 0.3
    fit(after, *data(), SETTINGS, seed=0, hold_zero={"0": mask})
    assert (after[0].weight[mask] == 0).all()
    assert (after[0].weight[~mask] != 0).all()


def test_the_same_seed_gives_the_same_factors() -> None:
    one, two = model(), model()
    fit(one, *data(), SETTINGS, seed=5)
    torch.rand(3)
    fit(two, *data(), SETTINGS, seed=5)
    assert torch.equal(one[0].weight, two[0].weight)


def test_scale_is_alpha_by_rank() -> None:
    after, before = model(), model()
    with adapted(after, LoRA(rank=2, alpha=6.0), {}, 0) as (down, up):
        up.data.fill_(1.0)
        product = (up @ down).detach()
    assert torch.allclose(after[0].weight, before[0].weight + 3 * product)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(InputError, match="low-rank"):
        LoRA(rank=0)
    with pytest.raises(InputError, match="linear layer"), adapted(nn.Sequential(nn.ReLU()), LoRA(), {}, 0):
        pass

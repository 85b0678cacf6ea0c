from __future__ import annotations

import copy

import pytest
import torch

from zkapex.errors import InputError
from zkapex.simulation.data.digits import Examples, digits_scenario
from zkapex.simulation.models.tiny import vision_transformer
from zkapex.simulation.models.training import accuracy
from zkapex.unlearning.personalise import FitSettings, fit, personalise

SETTINGS = FitSettings(epochs=2, learning_rate=2e-3)


@pytest.fixture(scope="module")
def data() -> Examples:
    return digits_scenario(clients=4, seed=0).clients[0].train


def test_fitting_is_a_function_of_the_seed(data: Examples) -> None:
    states = []
    for seed in (1, 1, 2):
        model = vision_transformer(0)
        fit(model, data.inputs, data.labels, SETTINGS, seed)
        states.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_fitting_lowers_the_loss_and_leaves_the_global_generator_alone(data: Examples) -> None:
    model = vision_transformer(0)
    before = torch.random.get_rng_state()
    first = fit(model, data.inputs, data.labels, FitSettings(1, 2e-3), 0)
    second = fit(model, data.inputs, data.labels, FitSettings(4, 2e-3), 0)
    assert second < first
    assert torch.equal(before, torch.random.get_rng_state())
    assert not model.training


def test_no_epoch_changes_nothing(data: Examples) -> None:
    model = vision_transformer(0)
    reference = copy.deepcopy(model.state_dict())
    assert fit(model, data.inputs, data.labels, FitSettings(0, 1e-3), 0) == 0.0
    assert all(torch.equal(v, reference[k]) for k, v in model.state_dict().items())


def test_masked_weights_stay_at_zero_while_the_rest_learns(data: Examples) -> None:
    model = vision_transformer(0)
    name = "blocks.0.fc1"
    mask = torch.zeros(64, 32, dtype=torch.bool)
    mask[::2, 3] = True
    before = model.get_parameter(f"{name}.weight").detach().clone()
    fit(model, data.inputs, data.labels, SETTINGS, 0, {name: mask})
    after = model.get_parameter(f"{name}.weight").detach()
    assert not after[mask].any()
    assert (after[~mask] != before[~mask]).all()


def test_replay_keeps_general_accuracy_that_personal_data_alone_would_cost() -> None:
    client = digits_scenario(clients=4, seed=0).clients[1]
    model = vision_transformer(0)
    fit(model, client.train.inputs, client.train.labels, FitSettings(12, 2e-3), 0)
    kept, lost = copy.deepcopy(model), copy.deepcopy(model)
    personalise(kept, client.personal, client.train, 0, FitSettings(8, 2e-3))
    personalise(lost, client.personal, None, 0, FitSettings(8, 2e-3))
    assert accuracy(kept, client.train) > accuracy(lost, client.train) + 0.2
    assert accuracy(kept, client.personal) > 0.7


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"blocks.9.fc1": torch.zeros(64, 32, dtype=torch.bool)}, "does not have"),
        ({"blocks.0.fc1": torch.zeros(64, 31, dtype=torch.bool)}, "must be bool"),
        ({"blocks.0.fc1": torch.zeros(64, 32)}, "must be bool"),
    ],
)
def test_masks_that_do_not_fit_are_refused(data: Examples, masks: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(vision_transformer(0), data.inputs, data.labels, SETTINGS, 0, masks)


def test_impossible_settings_are_refused(data: Examples) -> None:
    with pytest.raises(InputError, match="impossible"):
        FitSettings(epochs=-1, learning_rate=1e-3)
    with pytest.raises(InputError, match="cannot train"):
        fit(vision_transformer(0), data.inputs[:0], data.labels[:0], SETTINGS, 0)

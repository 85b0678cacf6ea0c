from __future__ import annotations

import copy

import pytest
import torch
from limits import case, refuses
from networks import inputs, network
from torch import nn

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


# -- what cannot be trained on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_no_numbers_are_refused(value: float) -> None:
    x = inputs(9)
    x[4, 1] = value
    error = refuses("train-not-finite", lambda: fit(network(), x, torch.zeros(9, dtype=torch.int64), SETTINGS, 0))
    assert "example 4" in error.why


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.uint8])
def test_labels_are_numbers_of_classes(dtype: torch.dtype) -> None:
    refuses("labels-float", lambda: fit(network(), inputs(9), torch.zeros(9, dtype=dtype), SETTINGS, 0))


@pytest.mark.parametrize("label", [3, -1, -100])
def test_a_label_beyond_the_classes_is_refused(label: int) -> None:
    labels = torch.zeros(9, dtype=torch.int64)
    labels[8] = label
    assert str(label) in refuses("labels-beyond", lambda: fit(network(), inputs(9), labels, SETTINGS, 0)).what


def test_training_that_diverges_is_said_to() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(1e38)
    refuses("train-diverged", lambda: fit(model, inputs(9) * 1e3, torch.zeros(9, dtype=torch.int64), SETTINGS, 0))


def normalised() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


@case("batchnorm")
@pytest.mark.parametrize(("examples", "batch"), [(9, 8), (9, 4), (3, 2)])
def test_batch_normalisation_gets_no_batch_of_one(examples: int, batch: int) -> None:
    sizes: list[int] = []
    model = normalised()
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    fit(model, inputs(examples), torch.zeros(examples, dtype=torch.int64), FitSettings(1, 1e-3, batch), 0)
    assert sum(sizes) == examples
    assert min(sizes) > 1


def test_other_models_see_the_batches_they_always_saw() -> None:
    sizes: list[int] = []
    model = network()
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    fit(model, inputs(9), torch.zeros(9, dtype=torch.int64), FitSettings(1, 1e-3, 4), 0)
    assert sizes == [4, 4, 1]


@pytest.mark.parametrize(("examples", "batch"), [(1, 8), (4, 1)])
def test_batch_normalisation_of_one_example_is_refused(examples: int, batch: int) -> None:
    labels = torch.zeros(examples, dtype=torch.int64)
    refuses("batchnorm-one", lambda: fit(normalised(), inputs(examples), labels, FitSettings(1, 1e-3, batch), 0))

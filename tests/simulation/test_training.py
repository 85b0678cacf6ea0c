from __future__ import annotations

import pytest
import torch

from zkapex.errors import InputError
from zkapex.simulation.data.digits import Examples, digits_scenario
from zkapex.simulation.models.tiny import vision_transformer
from zkapex.simulation.models.training import (
    accuracy,
    average,
    federated_averaging,
    local_step,
    provider_copies,
)
from zkapex.unlearning.personalise import FitSettings
from zkapex.unlearning.planning.proxies import calibration

QUICK = FitSettings(epochs=1, learning_rate=2e-3)


def test_average_weighs_by_examples() -> None:
    mean = average([{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([5.0, 6.0])}], [3, 1])
    assert torch.equal(mean["w"], torch.tensor([2.0, 3.0]))
    assert mean["w"].dtype == torch.float32
    for states, weights in (([], []), ([{"w": torch.ones(1)}], [0]), ([{"w": torch.ones(1)}], [1, 1])):
        with pytest.raises(InputError, match="cannot average"):
            average(states, weights)


def test_local_step_starts_from_the_given_state_and_shares_no_memory() -> None:
    data = digits_scenario(seed=0).clients[0].train
    state = {k: v.detach().clone() for k, v in vision_transformer(1).state_dict().items()}
    reference = {k: v.clone() for k, v in state.items()}
    first, loss = local_step(vision_transformer(7), state, data, QUICK, 5)
    second, _ = local_step(vision_transformer(8), state, data, QUICK, 5)
    assert loss > 0
    assert all(torch.equal(first[k], second[k]) for k in state)
    assert all(torch.equal(reference[k], state[k]) for k in state)
    assert any(not torch.equal(first[k], state[k]) for k in state)


def test_federated_averaging_learns_and_repeats() -> None:
    scenario = digits_scenario(clients=2, seed=0)
    parts = [c.train for c in scenario.clients]
    models = [vision_transformer(0), vision_transformer(0)]
    for model in models:
        federated_averaging(model, parts, 0, rounds=2, settings=FitSettings(4, 3e-3))
    assert accuracy(models[0], scenario.retain_test) > 0.6
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_accuracy_counts_hits_over_all_batches() -> None:
    data = digits_scenario(seed=0).retain_test
    model = vision_transformer(0)
    assert accuracy(model, data, batch_size=7) == accuracy(model, data)
    labels = model(data.inputs).argmax(1)
    assert accuracy(model, Examples(data.inputs, labels)) == 1.0
    with pytest.raises(InputError, match="no examples"):
        accuracy(model, data.take(torch.zeros(len(data.labels), dtype=torch.bool)))


def test_provider_copies_are_the_global_model_and_distinct_proxies() -> None:
    scenario, model = digits_scenario(seed=0), vision_transformer(0)
    copies = provider_copies(model, scenario, 0, proxies=2, settings=QUICK, retain_size=40)
    assert copies[0].model is model
    assert copies[0].personal is None
    weights = [c.model.get_parameter("head.weight") for c in copies]
    assert not torch.equal(weights[1], weights[2])
    for proxy in copies[1:]:
        assert proxy.personal is not None
        assert scenario.forget_class not in proxy.personal[1]
        assert len(proxy.kept()[1]) == 20 + len(proxy.personal[1])
        seen = {x.numpy().tobytes() for x in proxy.calibration}
        assert not seen & {x.numpy().tobytes() for x in proxy.personal[0]}


def test_calibration_is_mostly_personal() -> None:
    client = digits_scenario(seed=0).clients[0]
    inputs = calibration(client.personal, client.train)
    assert torch.equal(inputs[: len(client.personal.inputs)], client.personal.inputs)
    assert len(inputs) == len(client.personal.inputs) + len(client.train.inputs) // 7

"""Weights between the model and the integers that are committed to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from federation import LAYERS, perceptron, refused
from hypothesis import given
from hypothesis import strategies as st
from parties import make_manifest

from zkapex.circuits.encoding import exponent_for
from zkapex.errors import InputError
from zkapex.proofs.messages import LayerSpec, ModelManifest
from zkapex.unlearning.weights import encode_weights, load_weights


def manifest(**changes: object) -> ModelManifest:
    parameters = dict(perceptron().named_parameters())
    base = make_manifest()
    layers = []
    for name in LAYERS:
        values = parameters[f"{name}.weight"].detach().double().numpy()
        exponent = exponent_for(values, base.weight_limit)
        layers.append(LayerSpec(name=name, rows=values.shape[0], cols=values.shape[1], exponent=exponent))
    layers[0] = layers[0].model_copy(update=changes)
    return base.model_copy(update={"layers": tuple(layers)})


def test_what_is_committed_to_is_what_runs() -> None:
    model = perceptron()
    encoded = encode_weights(model, manifest())
    head = model.head.weight.clone()
    exact = {name: model.get_parameter(f"{name}.weight").detach().clone() for name in LAYERS}
    load_weights(model, manifest(), encoded)
    assert (model.head.weight == head).all()
    for spec in manifest().layers:
        assert encoded[spec.name].dtype == np.int64
        error = (model.get_parameter(f"{spec.name}.weight") - exact[spec.name]).abs().max()
        assert error <= 0.5 * 2.0**-spec.exponent
    again = encode_weights(model, manifest())
    assert all(np.array_equal(again[name], encoded[name]) for name in LAYERS)


@given(st.integers(-8000, 8000))
def test_every_integer_in_range_survives(value: int) -> None:
    model, spec = perceptron(), manifest()
    weights = encode_weights(model, spec)
    weights["fc1"][3, 5] = value
    load_weights(model, spec, weights)
    assert encode_weights(model, spec)["fc1"][3, 5] == value


@pytest.mark.parametrize("changes", [{"name": "fc7"}, {"rows": 31}, {"cols": 63}, {"exponent": 30}])
def test_a_manifest_of_another_model_is_refused(changes: dict[str, object]) -> None:
    refused(lambda: encode_weights(perceptron(), manifest(**changes)), InputError)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_weights_that_cannot_be_encoded_are_refused(value: float) -> None:
    model = perceptron()
    with torch.no_grad():
        model.fc1.weight[0, 0] = value
    refused(lambda: encode_weights(model, manifest()), InputError)

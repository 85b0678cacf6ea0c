"""What a model may be: what is proved must be what runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from limits import case, refuses
from torch import nn
from torch.nn.utils import parametrizations, prune

from zkapex.circuits.encoding import exponent_for
from zkapex.circuits.profiles import PROFILES
from zkapex.transport.wire import ARRAY_DTYPES
from zkapex.unlearning.boundary import STORED, check_model
from zkapex.unlearning.curvature.moments import fisher_moments, visit_inputs, weighted_moments
from zkapex.unlearning.finite import require_finite
from zkapex.unlearning.weights import put_weight, weight_of

LAYERS = ("fc1", "fc2")
LIMIT = PROFILES["server"].weight_limit


class Net(nn.Module):
    """Two target layers between others; `call` says how the first is called."""

    def __init__(self, call: Callable[[nn.Linear, torch.Tensor], torch.Tensor] = lambda layer, x: layer(x)) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem, self.head = nn.Linear(10, 12), nn.Linear(12, 5)
            self.fc1, self.fc2 = nn.Linear(12, 12), nn.Linear(12, 12)
        self._call = call

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self._call(self.fc1, torch.relu(self.stem(x))))
        z: torch.Tensor = self.head(torch.relu(self.fc2(y)))
        return z


def inputs(count: int = 8) -> torch.Tensor:
    return torch.randn(count, 10, generator=torch.Generator().manual_seed(0))


def check(model: nn.Module, limit: int = LIMIT, x: torch.Tensor | None = None) -> None:
    check_model(model, LAYERS, limit, inputs() if x is None else x)


@case("model-plain")
def test_a_plain_model_passes_and_stays_as_it_was() -> None:
    model = Net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check(model)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


# -- dtypes ------------------------------------------------------------------------------------------------------------


def moved(model: nn.Module, name: str, limit: int) -> tuple[np.ndarray, int]:
    """Integers for a layer of the model, as a repair may leave them, and the layer's exponent."""
    exponent = exponent_for(weight_of(model, name), limit)
    values = np.rint(weight_of(model, name) * 2.0**exponent).astype(np.int64)
    return np.clip(values + np.random.default_rng(0).integers(-900, 900, values.shape), -limit, limit), exponent


@case("model-float64")
@case("model-half-tiny")
@pytest.mark.parametrize(
    ("dtype", "profile"), [(torch.float16, "tiny"), (torch.float32, "server"), (torch.float64, "edge")]
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_put_into_a_layer_is_what_runs(dtype: torch.dtype, profile: str, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no accelerator")
    model, limit = Net().to(device, dtype), PROFILES[profile].weight_limit
    check(model, limit, inputs().to(device, dtype))
    values, exponent = moved(model, "fc1", limit)
    put_weight(model, "fc1", values, exponent)
    assert np.array_equal(weight_of(model, "fc1") * 2.0**exponent, values)


@pytest.mark.parametrize("profile", ["edge", "server"])
def test_half_precision_cannot_hold_what_larger_profiles_prove(profile: str) -> None:
    error = refuses("model-half", lambda: check(Net().half(), PROFILES[profile].weight_limit, inputs().half()))
    assert "2048" in error.why
    assert str(PROFILES[profile].weight_limit) in error.why


def test_of_mixed_precision_the_target_layers_count() -> None:
    model = Net()
    model.head.half()
    check_model(model, LAYERS, LIMIT)
    model.fc2.half()
    assert "'fc2'" in refuses("model-half", lambda: check_model(model, LAYERS, LIMIT)).what


@pytest.mark.parametrize("layer", ["fc1", "head"])
def test_bfloat16_is_refused_by_name_wherever_it_is(layer: str) -> None:
    model = Net()
    model.get_submodule(layer).bfloat16()
    assert f"'{layer}.weight'" in refuses("model-bfloat16", lambda: check_model(model, LAYERS, LIMIT)).what


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_that_a_layer_rounds_are_not_taken_for_those_that_are_proved(dtype: torch.dtype) -> None:
    model = Net()
    values, exponent = moved(model, "fc1", LIMIT)
    error = refuses("model-readback", lambda: put_weight(model.to(dtype), "fc1", values, exponent))
    assert str(dtype).removeprefix("torch.") in error.why


def test_a_small_scale_is_below_half_precision() -> None:
    """The integers fit, and their scale does not: below 2^-24 half precision has nothing."""
    model = Net().half()
    error = refuses("model-readback", lambda: put_weight(model, "fc1", np.ones((12, 12), np.int64), 30))
    assert "144 of 144" in error.why


def test_what_a_model_may_hold_is_what_messages_hold() -> None:
    assert {torch.empty(0, dtype=dtype).numpy().dtype.str for dtype in STORED} == ARRAY_DTYPES


# -- structure ---------------------------------------------------------------------------------------------------------


def test_a_layer_of_another_type_is_refused() -> None:
    model = Net()
    model.fc1 = nn.Conv1d(12, 12, 1)  # type: ignore[assignment]
    assert "Conv1d" in refuses("model-not-linear", lambda: check(model)).why
    del model.fc1
    assert "stem" in refuses("model-no-layer", lambda: check(model)).fix


def thrice(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    for _ in range(3):
        x = layer(x)
    return x


def again_by_weight(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return layer(x) @ layer.weight.T


@pytest.mark.parametrize("call", [thrice, again_by_weight])
def test_a_layer_used_more_than_once_is_refused(call: Callable[[nn.Linear, torch.Tensor], torch.Tensor]) -> None:
    assert "'fc1'" in refuses("model-reused", lambda: check(Net(call))).what


@pytest.mark.parametrize("moments", [weighted_moments, lambda *a: visit_inputs(*a, record=lambda name, x: None)])
def test_curvature_does_not_keep_one_use_of_several(moments: Callable[..., object]) -> None:
    refuses("model-reused", lambda: moments(Net(thrice), ("fc1",), inputs(), 4))


@case("model-keyword")
def test_a_layer_may_be_called_by_keyword() -> None:
    model, plain = Net(lambda layer, x: layer(input=x)), Net()
    check(model)
    assert np.array_equal(
        weighted_moments(model, LAYERS, inputs(), 4)["fc1"], weighted_moments(plain, LAYERS, inputs(), 4)["fc1"]
    )
    seen: list[np.ndarray] = []
    visit_inputs(model, ("fc1",), inputs(), 4, lambda name, x: seen.append(x))
    assert len(seen[0]) == 8


@pytest.mark.parametrize(
    "call", [lambda layer, x: x, lambda layer, x: nn.functional.linear(x, layer.weight, layer.bias)]
)
def test_a_layer_that_is_never_called_is_refused(call: Callable[[nn.Linear, torch.Tensor], torch.Tensor]) -> None:
    refuses("model-unused", lambda: check(Net(call)))


def test_a_transformer_of_torch_passes_by_its_slow_path() -> None:
    """Torch's fast path would go around the layers: what is tried is what curvature sees."""
    model = nn.Sequential(nn.TransformerEncoderLayer(12, 2, 16, batch_first=True), nn.Linear(12, 3))
    names = ("0.linear1", "0.linear2")
    x = torch.randn(3, 4, 12)
    check_model(model, names, LIMIT, x)
    assert weighted_moments(model, names, x, 4).keys() == set(names)
    refuses("model-unused", lambda: check_model(model, ("0.self_attn.out_proj",), LIMIT, x))


def test_tied_weights_are_refused_however_they_are_tied() -> None:
    same, alias, view = Net(), Net(), Net()
    same.fc2.weight = same.fc1.weight
    alias.head2 = alias.fc2
    view.fc2.weight = nn.Parameter(view.fc1.weight.detach().view(12, 12))
    for model, other in ((same, "fc2.weight"), (alias, "head2.weight"), (view, "fc2.weight")):
        assert other in refuses("model-tied", lambda model=model: check(model)).what  # type: ignore[misc]


def test_a_layer_tied_to_one_that_is_no_target_is_refused() -> None:
    model = Net()
    model.embedding = nn.Embedding(12, 12)
    model.embedding.weight = model.fc1.weight
    assert "embedding.weight" in refuses("model-tied", lambda: check(model)).what


def test_what_is_tied_elsewhere_does_not_matter() -> None:
    model = Net()
    model.tail = nn.Linear(12, 5)
    model.tail.weight = model.head.weight
    check(model)


@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
def test_a_weight_that_is_computed_is_refused(change: Callable[[nn.Module], object]) -> None:
    model = Net()
    change(model.fc1)
    refuses("model-parametrised", lambda: check(model))


class Scaled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_a_linear_layer_that_computes_something_else_is_refused() -> None:
    model = Net()
    model.fc1 = Scaled(12, 12)
    assert "Scaled" in refuses("model-own-forward", lambda: check(model)).why


@pytest.mark.parametrize("wrap", [lambda y: {"logits": y}, lambda y: y.sum(), lambda y: y[:1]])
def test_what_is_no_tensor_of_logits_is_refused(wrap: Callable[[torch.Tensor], object]) -> None:
    class Wrapped(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return wrap(super().forward(x))  # type: ignore[return-value]

    refuses("model-output", lambda: check(Wrapped()))


@pytest.mark.parametrize("x", [inputs().half(), inputs()[:, :7], inputs().long()])
def test_inputs_that_the_model_does_not_take_are_refused(x: torch.Tensor) -> None:
    refuses("model-inputs", lambda: check(Net(), x=x))


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [("fc1.weight", np.nan), ("head.bias", np.inf)])
def test_a_model_that_is_not_finite_is_refused_by_the_parameters_name(name: str, value: float) -> None:
    model = Net()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[3] = value
    error = refuses("model-not-finite", lambda: check(model))
    assert name in error.what
    assert "1 of" in error.why


def test_logits_that_overflow_are_refused() -> None:
    model = Net()
    with torch.no_grad():
        model.head.weight.mul_(1e38)
        model.fc2.weight.mul_(1e6)
    refuses("model-overflow", lambda: check(model))


@pytest.mark.parametrize("moments", [weighted_moments, fisher_moments])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_inputs_of_curvature_are_numbers(moments: Callable[..., object], value: float) -> None:
    x = inputs()
    x[5, 2] = value
    error = refuses("inputs-not-finite", lambda: moments(Net(), LAYERS, x, 4))
    assert "example 5" in error.why


def test_activations_that_overflow_are_said_to() -> None:
    model = Net()
    with torch.no_grad():
        model.stem.weight.mul_(3e38)
    refuses("activations-not-finite", lambda: visit_inputs(model, ("fc1",), inputs() * 10, 4, lambda name, x: None))


def test_large_numbers_whose_sum_overflows_are_numbers() -> None:
    require_finite(torch.full((4,), 3e38), "these")

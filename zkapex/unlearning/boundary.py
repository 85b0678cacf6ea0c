"""What a model may be: everything that unlearning and proofs take for granted about it, checked where it comes in.

A proof is about the weight matrix of a layer, and a repair about the inputs that go through it. Both describe what runs
only if the matrix is a parameter of its own that the layer multiplies its input with, once, and nothing else uses; if
its dtype holds the integers that are committed to; and if everything is a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from zkapex.errors import InputError
from zkapex.unlearning.finite import require_finite

STORED = frozenset({torch.float16, torch.float32, torch.float64, torch.int32, torch.int64, torch.bool})
"""What messages hold (`zkapex.transport.wire.ARRAY_DTYPES`): NumPy arrays, which know no bfloat16 or smaller floats."""

TRIED = 2
"""Examples of the trial pass: with one alone, an axis of examples cannot be told from others."""


def check_model(model: nn.Module, layers: Sequence[str], weight_limit: int, inputs: torch.Tensor | None = None) -> None:
    """Check that unlearning `layers` of a model can be done, and that what is proved of them is what runs.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    layers : sequence of str
        Qualified names of the target layers.
    weight_limit : int
        Largest integer weight of the circuit, as in `zkapex.circuits.profiles.Profile`.
    inputs : tensor [n, ...], optional
        Examples that the model takes. The first two are tried: without them, what can only be seen in a forward pass
        (a layer called twice or never, logits that are no numbers) is not checked.

    Raises
    ------
    InputError
        A layer is missing, is no plain ``nn.Linear``, shares its weight, has it computed from other parameters or of a
        dtype that cannot hold the integers; an entry of the state dict cannot be stored or is not finite; or, in the
        trial pass, a layer is not called exactly once, its weight is used elsewhere, or no finite logits come out.
    """
    if not layers:
        raise InputError("the model has no target layers", fix="name the linear layers unlearning acts on")
    repeated = sorted({name for name in layers if list(layers).count(name) > 1})
    if repeated:
        raise InputError(f"target layer {repeated[0]!r} is named twice")
    check_state(model)
    for name in layers:
        check_dtype(name, linear_layer(model, name).weight.dtype, weight_limit)
    _check_shared(model, layers)
    if inputs is not None:
        _check_pass(model, layers, inputs)


def check_dtype(name: str, dtype: torch.dtype, weight_limit: int) -> None:
    """Raise InputError unless every integer up to `weight_limit`, times a power of two, is a number of the dtype."""
    largest = round(2 / torch.finfo(dtype).eps) if dtype.is_floating_point else 0
    if largest < weight_limit:
        raise InputError(
            f"the weights of layer {name!r} are {_short(dtype)}, which cannot hold the integers that are proved",
            why=f"it holds integers up to {largest}, and the circuit's go up to {weight_limit}",
            fix="keep the target layers in float32, e.g. layer.float()",
        )


def linear_layer(model: nn.Module, name: str) -> nn.Linear:
    """The layer of that name, a plain ``nn.Linear`` whose weight is a parameter of its own.

    Raises
    ------
    InputError
        There is no such layer, or it is none that unlearning can act on.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    module = modules.get(name)
    if module is None:
        near = [known for known, m in modules.items() if isinstance(m, nn.Linear)][:8]
        raise InputError(
            f"{name!r} is not a layer of the model", fix=f"its linear layers are, e.g., {', '.join(near) or 'none'}"
        )
    if not isinstance(module, nn.Linear):
        raise InputError(
            f"{name!r} is not a linear layer of the model",
            why=f"it is a {type(module).__name__}; proofs are about the matrix of an nn.Linear",
            fix="choose other layers, or put an nn.Linear in its place",
        )
    if not isinstance(module._parameters.get("weight"), nn.Parameter):
        raise InputError(
            f"the weight of layer {name!r} is computed from other parameters",
            why="such as weight_norm, spectral_norm, pruning or adapters do: what is proved would be computed anew",
            fix="merge it first, e.g. torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')",
        )
    # A parametrised layer's class is a subclass made on the fly, which has got its own forward from nn.Linear.
    if type(module).forward is not nn.Linear.forward or "forward" in vars(module):
        raise InputError(
            f"layer {name!r} does not compute what a linear layer does",
            why=f"{type(module).__name__} has a forward of its own, as quantised and adapted layers have",
            fix="merge or dequantise it into a plain nn.Linear",
        )
    if module.weight.numel() == 0:
        raise InputError(f"layer {name!r} has no weights", why=f"its shape is {tuple(module.weight.shape)}")
    return module


def check_state(model: nn.Module) -> None:
    """Check that every entry of a model's state dict can be sent and kept, and is a number.

    Raises
    ------
    InputError
        One is no tensor, has no values, a dtype that NumPy does not know, or holds NaN or infinities.
    """
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise InputError(f"{name!r} of the model's state is a {type(value).__name__}, which cannot be sent or kept")
        if value.device.type == "meta":
            raise InputError(f"{name!r} of the model has no values", why="it is on the device 'meta'", fix="load it")
        if value.dtype not in STORED or value.layout != torch.strided or value.is_quantized:
            raise InputError(
                f"{name!r} of the model is {_short(value.dtype)}, which cannot be sent or kept",
                why="a model's state travels as NumPy arrays of float16, float32, float64, int32, int64 or bool",
                fix="convert the model to float32, e.g. model.float()",
            )
        require_finite(value, f"the values of {name!r} of the model", fix="take another checkpoint, or train it again")


def _check_shared(model: nn.Module, layers: Sequence[str]) -> None:
    targets = {f"{name}.weight" for name in layers}
    spans: list[tuple[str, int, int, int]] = []
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, value in tensors:
        start = int(value.data_ptr())
        last = sum((int(size) - 1) * int(step) for size, step in zip(value.shape, value.stride(), strict=True))
        if value.numel():
            spans.append((name, value.device.index or 0, start, start + (last + 1) * value.element_size()))
    for name, place, start, end in spans:
        if name not in targets:
            continue
        for other, there, first, last in spans:
            if other != name and there == place and first < end and start < last:
                raise InputError(
                    f"the weight of layer {name.removesuffix('.weight')!r} is also {other!r}",
                    why="layers that share weights change together: what is proved of one would not be what runs",
                    fix="untie them: give the layer a copy of the weight, or choose layers that share none",
                )


class _Uses(TorchFunctionMode):
    """Counts the operations that make a tensor of one of the given weights, transposed views included."""

    def __init__(self, weights: dict[int, str]) -> None:
        super().__init__()
        self._weights = weights
        self.counts = dict.fromkeys(weights.values(), 0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            for value in _tensors((*args, *(kwargs or {}).values())):
                if id(value) in self._weights:
                    self.counts[self._weights[id(value)]] += 1
        return result


def _tensors(values: Sequence[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, for as long as the context lasts."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _check_pass(model: nn.Module, layers: Sequence[str], inputs: torch.Tensor) -> None:
    if len(inputs) == 0:
        raise InputError("there are no inputs to try the model on")
    some = inputs[:TRIED]
    require_finite(some, "the model's inputs", examples=True)
    modules = dict(model.named_modules(remove_duplicate=False))
    calls = dict.fromkeys(layers, 0)

    def called(name: str) -> None:
        calls[name] += 1

    handles = [modules[n].register_forward_pre_hook(lambda *_, n=n: called(n)) for n in layers]
    uses = _Uses({id(model.get_parameter(f"{name}.weight")): name for name in layers})
    try:
        with _as_it_was(model), torch.no_grad(), uses:
            logits = model(some)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as e:
        raise InputError(
            f"the model does not take its inputs, {_short(some.dtype)} {tuple(some.shape)} for two examples",
            why=f"{type(e).__name__}: {(str(e).splitlines() or [''])[0][:300]}",
            fix="see that shape, dtype and device of the inputs are those of the model",
        ) from e
    finally:
        for handle in handles:
            handle.remove()
    for name in layers:
        if calls[name] == 0:
            raise InputError(
                f"layers {name} took no part in the forward pass",
                why="the layer is never called; a function that takes its weight directly does not count",
                fix="choose layers that the model calls",
            )
        if calls[name] > 1 or uses.counts[name] > 1:
            raise used_again(name)
    if not isinstance(logits, torch.Tensor) or logits.ndim < 2 or len(logits) != len(some):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"the model's output is no tensor of logits with one entry per example: {found}",
            fix="wrap the model in a module whose forward returns logits [n, classes] or [n, tokens, classes]",
        )
    require_finite(
        logits,
        "the model's logits",
        examples=True,
        fix="its inputs and weights are finite, so something overflows: run it in float32",
    )


def used_again(name: str) -> InputError:
    """What to raise when a layer, or its weight, is used more than once in a forward pass."""
    return InputError(
        f"layer {name!r} is used more than once in a forward pass",
        why="curvature and repair of a layer are about one use of its weight",
        fix="choose layers that are called once, or give each use a layer of its own",
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

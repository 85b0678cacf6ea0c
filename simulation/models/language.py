"""Causal language models of Hugging Face transformers, cut in two: a trunk that is run once, and a tail that learns.

The trunk is the embedding and all but the last few decoder layers. What it makes of a text is the tail's input. The
tail is the last layers, the final norm and the output matrix, which is frozen. Its layers are those of transformers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zkapex.errors import InputError
from zkapex.simulation.data.features import kept

_TRUNK_BATCH = 16
_HALF_PRECISION_ERROR = 0.1
_TARGETS = (("gate_proj", "up_proj", "down_proj"), ("fc1", "fc2"))
_FAMILIES = (
    ("model.layers", ("model.norm",)),
    ("model.decoder.layers", ("model.decoder.final_layer_norm", "model.decoder.project_out")),
)
"""Where decoders keep their layers, and what comes between these and the output matrix: Llama and OPT types."""


class CausalTail(nn.Module):
    """The last layers of a decoder: hidden states ``[n, T, d]`` to logits ``[n, T, vocabulary]``.

    Parameters
    ----------
    layers, after : list of nn.Module
        Decoder layers, and what comes between them and the head.
    head : tensor [vocabulary, d]
        Frozen.
    context : mapping
        What the decoder gives each layer beside hidden states: mask and positions of one window of T tokens.
    """

    def __init__(
        self, layers: list[nn.Module], after: list[nn.Module], head: torch.Tensor, context: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.after = nn.ModuleList(after)
        self.head = nn.Linear(head.shape[1], head.shape[0], bias=False)
        self.head.weight = nn.Parameter(head, requires_grad=False)
        self._context = dict(context)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits; hidden states may be of half precision."""
        y = x.float()
        for layer in self.layers:
            y = layer(y, **self._context)
            y = y[0] if isinstance(y, tuple) else y
        for module in self.after:
            y = module(y)
        logits: torch.Tensor = self.head(y)
        return logits

    @property
    def targets(self) -> tuple[str, ...]:
        """Last components of the names of the linear layers of its MLPs. Raises InputError if they are unknown."""
        names = {name.rpartition(".")[2] for name, module in self.named_modules() if isinstance(module, nn.Linear)}
        for targets in _TARGETS:
            if names.issuperset(targets):
                return targets
        raise InputError("the model's MLPs are of an unknown kind", fix="choose a model of the Llama or OPT type")

    def train(self, mode: bool = True) -> CausalTail:
        """Stay in evaluation mode: dropout would draw from torch's global generator."""
        return super().train(False)


@dataclass(frozen=True)
class LanguageModel:
    """A pretrained model with its tokeniser.

    Attributes
    ----------
    model : nn.Module
        A causal language model of transformers.
    tokeniser : Any
        Its tokeniser.
    """

    model: nn.Module
    tokeniser: Any

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without any that mark its beginning or end."""
        return list(self.tokeniser.encode(text, add_special_tokens=False, verbose=False))

    @torch.no_grad()
    def split(self, windows: torch.Tensor, layers: int, vocabulary: torch.Tensor) -> tuple[torch.Tensor, CausalTail]:
        """What the trunk makes of windows, which is kept in zkapex's cache folder, and the tail.

        Parameters
        ----------
        windows : int64 tensor [n, T]
        layers : int
            Of the tail.
        vocabulary : int64 tensor [V]
            Tokens that the head keeps, in this order.

        Returns
        -------
        float16 tensor [n, T, d], CausalTail

        Raises
        ------
        InputError
            The model is of a type that is not known here, has too few layers, or does not fit half precision.
        """
        model = self.model.eval()
        stack, after = _parts(model)
        if not 0 < layers < len(stack):
            raise InputError(f"a tail of {layers} layers does not fit a model of {len(stack)}")
        first = stack[len(stack) - layers]
        # Mask and positions of one window fit any number of windows.
        _, context = _trunk(model, first, windows[:1])

        def hidden_states() -> torch.Tensor:
            batches = torch.split(windows, _TRUNK_BATCH)
            return torch.cat([_trunk(model, first, batch)[0].half() for batch in batches])

        facts = f"{type(model).__name__} {layers} {tuple(windows.shape)} {_settings(model)}"
        hidden = kept(facts, model, [windows.numpy().tobytes()], hidden_states)
        if not torch.isfinite(hidden).all():
            raise InputError("the model's hidden states do not fit half precision")
        output = model.get_output_embeddings()  # type: ignore[operator]
        head = output.weight.detach()[vocabulary].float().clone()
        tail = CausalTail(copy.deepcopy(list(stack[len(stack) - layers :])), copy.deepcopy(after), head, context)
        _check(tail.eval(), hidden[:1], model(input_ids=windows[:1], use_cache=False).logits[..., vocabulary])
        return hidden, tail


class _TrunkDoneError(Exception):
    """Ends a forward pass where the tail begins."""

    def __init__(self, hidden: torch.Tensor, context: dict[str, Any]) -> None:
        super().__init__("the trunk is done")
        self.hidden, self.context = hidden, context


def _trunk(model: nn.Module, first: nn.Module, windows: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """What goes into a decoder's layer: hidden states ``[n, T, d]``, and what comes with them."""

    def stop(_: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> None:
        context = {k: v for k, v in kwargs.items() if k != "hidden_states"}
        raise _TrunkDoneError(args[0] if args else kwargs["hidden_states"], context)

    handle = first.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(input_ids=windows, use_cache=False)
    except _TrunkDoneError as done:
        return done.hidden, done.context
    finally:
        handle.remove()
    raise InputError(f"{type(model).__name__} does not run its layers one after the other")


def _settings(model: nn.Module) -> str:
    """The model's configuration, without where it came from."""
    settings: Mapping[str, Any] = model.config.to_dict()  # type: ignore[operator, union-attr]
    return repr(sorted((k, v) for k, v in settings.items() if k not in ("_name_or_path", "transformers_version")))


def load_language_model(name: str) -> LanguageModel:
    """The model in a folder or ``.gguf`` file, or of that name on a hub, in single precision.

    Raises
    ------
    InputError
        transformers is not installed, or there is no such model.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError as e:
        raise InputError(
            "language models need transformers", why=str(e), fix="pip install 'zkapex[lm]', without torchvision"
        ) from e
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    path, options = Path(name), {}
    if path.is_dir() and not (path / "config.json").exists():
        found = sorted(path.glob("*.gguf"))
        if len(found) != 1:
            raise InputError(
                f"{path} holds neither a model of transformers nor one .gguf file", fix="give another --model"
            )
        path = found[0]
    if path.suffix == ".gguf" and path.is_file():
        name, options = str(path.parent), {"gguf_file": path.name}
    try:
        tokeniser = AutoTokenizer.from_pretrained(name, **options)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, attn_implementation="eager", **options)
    except Exception as e:  # whatever transformers, or a reader of one of its formats, stumbles over
        why = str(e).strip().splitlines()
        raise InputError(
            f"cannot load the language model {name}",
            why=why[0] if why else type(e).__name__,
            fix="give --model the folder or the hub's name of a causal language model",
        ) from e
    return LanguageModel(model, tokeniser)


def _parts(model: nn.Module) -> tuple[nn.ModuleList, list[nn.Module]]:
    for path, names in _FAMILIES:
        stack = _find(model, path)
        if isinstance(stack, nn.ModuleList):
            found = [_find(model, name) for name in names]
            return stack, [module for module in found if isinstance(module, nn.Module)]
    raise InputError(
        f"{type(model).__name__} keeps its layers where they are not looked for",
        fix="choose a model of the Llama or OPT type",
    )


def _find(model: nn.Module, path: str) -> Any:
    found: Any = model
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _check(tail: CausalTail, hidden: torch.Tensor, wanted: torch.Tensor) -> None:
    """Refuse a model whose parts do not make up the whole: some scale or cap what others do not."""
    error = float((tail(hidden) - wanted).abs().max() / wanted.std().clamp_min(1e-6))
    if not math.isfinite(error) or error > _HALF_PRECISION_ERROR:
        raise InputError(
            "the last layers of the model, run alone, do not give its output",
            why=f"logits differ by {error:.2g} standard deviations",
            fix="choose a model of the Llama or OPT type",
        )

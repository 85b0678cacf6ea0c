"""The target layers of a model, from whatever describes it: a configuration, a checkpoint, a manifest, or a name.

Only shapes are read: no weights are loaded, and neither ``transformers`` nor ``safetensors`` is needed.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zkapex.circuits.statement import StatementSpec
from zkapex.costs.workload import Shape
from zkapex.errors import Error, InputError
from zkapex.proofs.messages import ModelManifest

TARGETS = re.compile(
    r"(?:^|\.)(?:fc1|fc2|gate_proj|up_proj|down_proj|(?<!attention\.)(?:intermediate|output)\.dense)\.weight$"
)
"""Weights of MLP layers in checkpoints: ViT, OPT, BERT and Llama-type models, timm's and Hugging Face's names."""

MAX_HEADER = 100_000_000
"""Largest header of a safetensors file, by that format's own rule."""


@dataclass(frozen=True)
class ModelShapes:
    """What is known about a model.

    Attributes
    ----------
    name : str
    layers : tuple of Shape
        Target layers.
    statement : StatementSpec or None
        The circuit, if the model's manifest fixes it.
    """

    name: str
    layers: tuple[Shape, ...]
    statement: StatementSpec | None = None

    @property
    def weights(self) -> int:
        """Weights in the target layers."""
        return sum(layer.rows * layer.cols for layer in self.layers)


def _plain(depth: int, dim: int, hidden: int) -> tuple[Shape, ...]:
    layers = (("fc1", hidden, dim), ("fc2", dim, hidden))
    return tuple(Shape(f"blocks.{i}.{name}", rows, cols) for i in range(depth) for name, rows, cols in layers)


def _gated(depth: int, dim: int, hidden: int) -> tuple[Shape, ...]:
    layers = (("gate_proj", hidden, dim), ("up_proj", hidden, dim), ("down_proj", dim, hidden))
    return tuple(Shape(f"layers.{i}.mlp.{name}", rows, cols) for i in range(depth) for name, rows, cols in layers)


BUILT_IN = {
    "vit-b-16": _plain(12, 768, 3072),
    "vit-s-14": _plain(12, 384, 1536),
    "opt-125m": _plain(12, 768, 3072),
    "smollm2-135m": _gated(30, 576, 1536),
}
"""Target layers of well-known models: two layers per block of an MLP, three of a gated one."""

_PLAIN_TYPES = {"vit", "deit", "beit", "vit_mae", "vit_msn", "dinov2", "bert", "roberta", "opt", "ijepa"}
_GATED_TYPES = {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "olmo", "olmo2", "smollm3", "granite"}


def model_shapes(model: str) -> ModelShapes:
    """The target layers of a model.

    Parameters
    ----------
    model : str
        A name of `BUILT_IN`, or the path of: a Hugging Face folder or its ``config.json``, a ``.safetensors``
        checkpoint (or a folder of them), or a zkapex ``manifest.json``.

    Raises
    ------
    InputError
        It is none of these, or has no layers of a kind that is known.
    """
    if model in BUILT_IN:
        return ModelShapes(model, BUILT_IN[model])
    path = Path(model)
    if not path.exists():
        raise InputError(
            f"there is no model {model!r}",
            fix=f"give a path, or one of {', '.join(BUILT_IN)}",
        )
    if path.is_dir():
        return _from_folder(path)
    if path.suffix == ".safetensors":
        return ModelShapes(path.name, _target_layers([path]))
    found = _read_json(path)
    if str(found.get("format", "")).startswith("zkapex.manifest."):
        return _from_manifest(path)
    return ModelShapes(str(found.get("_name_or_path") or path), _from_config(found, path))


def _from_folder(folder: Path) -> ModelShapes:
    if (folder / "config.json").exists():
        found = _read_json(folder / "config.json")
        return ModelShapes(folder.name, _from_config(found, folder / "config.json"))
    checkpoints = sorted(folder.glob("*.safetensors"))
    if not checkpoints:
        raise InputError(f"{folder} holds neither config.json nor a .safetensors file", fix="give the file itself")
    return ModelShapes(folder.name, _target_layers(checkpoints))


def _from_manifest(path: Path) -> ModelShapes:
    try:
        manifest = ModelManifest.from_bytes(path.read_bytes())
    except Error as e:
        raise InputError(f"{path} is not a valid manifest", why=f"{e.what}: {e.why}") from e
    layers = tuple(Shape(layer.name, layer.rows, layer.cols) for layer in manifest.layers)
    return ModelShapes(manifest.model, layers, manifest.statement)


def _from_config(config: Mapping[str, Any], path: Path) -> tuple[Shape, ...]:
    """Target layers of a Hugging Face configuration."""
    kind = config.get("model_type")
    if kind not in _PLAIN_TYPES | _GATED_TYPES:
        known = ", ".join(sorted(_PLAIN_TYPES | _GATED_TYPES))
        raise InputError(
            f"{path} describes a model of type {kind!r}",
            why=f"layers are known for {known}",
            fix="give its .safetensors checkpoint instead",
        )
    depth, dim = _size(config, "num_hidden_layers", path), _size(config, "hidden_size", path)
    if "ffn_dim" in config:  # OPT
        hidden = _size(config, "ffn_dim", path)
    elif "intermediate_size" in config:
        hidden = _size(config, "intermediate_size", path)
    else:  # DINOv2
        hidden = dim * _size(config, "mlp_ratio", path)
    return (_gated if kind in _GATED_TYPES else _plain)(depth, dim, hidden)


def _size(config: Mapping[str, Any], name: str, path: Path) -> int:
    value = config.get(name)
    if not isinstance(value, int) or not 0 < value < 2**20:
        raise InputError(f"{path} has no usable {name}", why=f"it is {value!r}")
    return value


def _target_layers(checkpoints: list[Path]) -> tuple[Shape, ...]:
    layers = []
    for path in checkpoints:
        for name, shape in _header(path).items():
            if TARGETS.search(name) and len(shape) == 2:
                layers.append(Shape(name.removesuffix(".weight"), *shape))
    if not layers:
        raise InputError(
            f"{checkpoints[0]} holds no target layers",
            why="none of its tensors is named like a linear layer of an MLP",
            fix="give the model's config.json instead",
        )
    return tuple(layers)


def _header(path: Path) -> dict[str, list[int]]:
    """Shapes of the tensors in a safetensors file: 8 bytes of length, little-endian, then that much JSON."""
    try:
        with path.open("rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            if length > MAX_HEADER:
                raise ValueError(f"its header claims {length} bytes")
            header = json.loads(f.read(length))
        return {name: [int(n) for n in entry["shape"]] for name, entry in header.items() if name != "__metadata__"}
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{path} is not a safetensors file", why=str(e)) from e


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path} is neither JSON nor a .safetensors file", why=str(e)) from e
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a JSON object")
    return found

"""The target layers of a model, from whatever describes it: a configuration, a checkpoint, a manifest, or a name.

Only shapes are read: no weights are loaded, and neither ``transformers`` nor ``safetensors`` is needed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zkapex.circuits.statement import StatementSpec
from zkapex.costs.workload import Shape
from zkapex.errors import Error, InputError
from zkapex.foreign import parse_json, shown
from zkapex.proofs.messages import ModelManifest

TARGETS = re.compile(
    r"(?:^|\.)(?:fc1|fc2|gate_up_proj|gate_proj|up_proj|down_proj|(?<!attention\.)(?:intermediate|output)\.dense)\.weight$"
)
"""Weights of MLP layers in checkpoints: ViT, OPT, BERT and Llama-type models, timm's and Hugging Face's names."""

_MLP = re.compile(r"(?:^|[._])(?:mlp|ffn|feed_forward|experts)\.")
"""Where MLPs are in checkpoints: what is there and is no target is not understood."""

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_LARGEST = 2**20
"""Rows or columns, as in manifests."""

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
    _complete(folder, checkpoints)
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
    if not isinstance(kind, str) or kind not in _PLAIN_TYPES | _GATED_TYPES:
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
    if type(value) is not int or not 0 < value < _LARGEST:
        raise InputError(f"{path} has no usable {name}", why=f"it is {value!r}")
    return value


@dataclass(frozen=True)
class _Tensor:
    """An entry of a header: dtype by the format's name, shape, and where its data end."""

    dtype: str
    shape: tuple[int, ...]
    end: int

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> _Tensor:
        """Raise ValueError, KeyError or TypeError if it is none."""
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or any(type(n) is not int or n < 0 for n in (*shape, start, end)):
            raise ValueError(f"a tensor is {dtype} {shape} at {start} to {end}")
        return cls(dtype, tuple(shape), end)


def _layer(name: str, tensor: _Tensor, path: Path) -> Shape:
    if tensor.dtype not in _FLOATS:
        raise InputError(
            f"{name} of {shown(path)} is {tensor.dtype}",
            why="its shape is that of packed or quantised numbers, not of the layer's weights",
            fix=f"give a checkpoint in {', '.join(sorted(_FLOATS))}, or the model's config.json",
        )
    rows, cols = tensor.shape
    if not (0 < rows < _LARGEST and 0 < cols < _LARGEST):
        raise InputError(f"{name} of {shown(path)} has the impossible shape [{rows}, {cols}]")
    return Shape(name.removesuffix(".weight"), rows, cols)


def _pointer(path: Path) -> str:
    """What to say of a file that only points to the real one."""
    with path.open("rb") as f:
        return "it is a Git LFS pointer: run git lfs pull" if f.read(24) == b"version https://git-lfs." else ""


def _complete(folder: Path, checkpoints: list[Path]) -> None:
    """Every file that an index names must be there."""
    for index in folder.glob("*.safetensors.index.json"):
        named = _read_json(index).get("weight_map")
        files = {str(file) for file in named.values()} if isinstance(named, dict) else set()
        missing = sorted(files - {path.name for path in checkpoints})
        if missing:
            raise InputError(
                f"{shown(folder)} lacks {', '.join(missing[:3])}",
                why=f"{index.name} names {len(files)} files, and {len(missing)} are not there",
                fix="download the rest",
            )


def _target_layers(checkpoints: list[Path]) -> tuple[Shape, ...]:
    layers: list[Shape] = []
    unknown: list[str] = []
    for path in checkpoints:
        for name, tensor in _header(path).items():
            if TARGETS.search(name) and len(tensor.shape) == 2:
                layers.append(_layer(name, tensor, path))
            elif _MLP.search(name) and len(tensor.shape) > 1:
                unknown.append(name)
    if unknown:
        raise InputError(
            f"{shown(checkpoints[0])} holds weights of MLPs that are not understood: {', '.join(unknown[:3])}",
            why=f"an estimate would leave {len(unknown)} tensors out, such as experts, packed or transposed weights",
            fix="give the model's config.json, or a checkpoint with plain linear layers",
        )
    if not layers:
        raise InputError(
            f"{checkpoints[0]} holds no target layers",
            why="none of its tensors is named like a linear layer of an MLP",
            fix="give the model's config.json instead",
        )
    return tuple(layers)


def _header(path: Path) -> dict[str, _Tensor]:
    """The tensors in a safetensors file: 8 bytes of length, little-endian, then that much JSON."""
    try:
        with path.open("rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            if length > MAX_HEADER:
                raise ValueError(_pointer(path) or f"its header claims {length} bytes")
            header = parse_json(f.read(length))
        tensors = {name: _Tensor.of(entry) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{shown(path)} is not a safetensors file", why=str(e)) from e
    size, end = path.stat().st_size, 8 + length + max((tensor.end for tensor in tensors.values()), default=0)
    if size < end:
        raise InputError(
            f"{shown(path)} is incomplete", why=f"it has {size} of {end} bytes", fix="download or copy it again"
        )
    return tensors


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError) as e:
        raise InputError(f"{path} is neither JSON nor a .safetensors file", why=str(e)) from e
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a JSON object")
    return found

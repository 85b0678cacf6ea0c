"""Weights of a pretrained vision transformer: from the initialisers of an ONNX file, or from Hugging Face.

Names differ between releases of transformers, and exporters drop those of transposed matrices: they are brought to one
form here. Nothing of a file but its tensors is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zkapex.errors import InputError
from zkapex.simulation.models.backbone import Backbone, BackboneConfig

HEAD_DIM = 64
"""Width of an attention head in every published DINOv2 and ViT; an ONNX file does not say."""

_RENAMED = (
    (r"^(?:backbone|dinov2|vit)\.", ""),
    (r"^embeddings\.cls_token$", "cls"),
    (r"^embeddings\.position_embeddings$", "position"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch."),
    (r"^layernorm\.", "norm."),
    (r"^(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".\1."),
    (r"\.attention\.q_proj\.", ".query."),
    (r"\.attention\.k_proj\.", ".key."),
    (r"\.attention\.v_proj\.", ".value."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".out."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".scale\1"),
    (r"\.mlp\.(fc[12])\.", r".\1."),
    (r"\.intermediate\.dense\.", ".fc1."),
    (r"\.output\.dense\.", ".fc2."),
)


def load_backbone(model: str | None) -> Backbone:
    """The backbone in an ``.onnx`` file, in a folder that transformers wrote, or of a name on the Hugging Face hub.

    Raises
    ------
    InputError
        There is none, it is of another architecture, or transformers is needed and not installed.
    """
    if model is None:
        raise InputError(
            "this scenario needs a pretrained vision transformer",
            why="it is not part of zkapex",
            fix="give an ONNX file, a folder or a Hugging Face name with --model or ZKAPEX_MODEL, such as "
            "facebook/dinov2-small",
        )
    if model.endswith(".onnx"):
        return _from_onnx(Path(model))
    return _from_transformers(model)


def _from_onnx(path: Path) -> Backbone:
    if not path.is_file():
        raise InputError(f"there is no file {path}", fix="give another --model")
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as e:
        raise InputError(
            f"reading {path} needs onnx",
            why=str(e),
            fix="install onnx, or give a folder or a Hugging Face name",
        ) from e
    try:
        graph = onnx.load(str(path)).graph
        tensors = {t.name: t for t in graph.initializer}
        found = {name: numpy_helper.to_array(t) for name, t in tensors.items() if name.startswith("backbone.")}
        for node in graph.node:
            # Exporters keep a module's path in the names of its nodes, and drop it from weights that they transpose
            # and from constants that they compute.
            module = node.name.strip("/").replace("/", ".").rpartition(".")[0]
            values = [numpy_helper.to_array(tensors[name]) for name in node.input if name in tensors]
            if not module.startswith("backbone.") or not values:
                continue
            if node.op_type == "MatMul":
                found[f"{module}.weight"] = values[0].T
            elif node.op_type in ("Concat", "Reshape") and module == "backbone.embeddings" and values[0].ndim == 3:
                found[f"{module}.{node.op_type}"] = values[0]
    except Exception as e:  # onnx raises protobuf's errors, and its own
        raise InputError(f"{path} is not a readable ONNX file", why=str(e)[:300], fix="give another --model") from e
    first, others = (found.pop(f"backbone.embeddings.{name}", None) for name in ("Concat", "Reshape"))
    if first is not None and others is not None:
        found.setdefault("backbone.embeddings.position_embeddings", np.concatenate([first, others], 1))
    return build({name: torch.from_numpy(np.array(value)) for name, value in found.items()}, str(path))


def _from_transformers(name: str) -> Backbone:
    try:
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError as e:
        raise InputError(
            f"reading the model {name} needs transformers",
            why=str(e),
            fix="pip install 'zkapex[vision]', or give an ONNX file",
        ) from e
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    told = logging.get_verbosity()
    try:
        # What it would report as missing or left over are pooler and classifier, which are not used here.
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        loaded: Any = AutoModel.from_pretrained(name)
    except Exception as e:  # whatever the hub, its cache and the file formats raise
        raise InputError(
            f"transformers cannot load the model {name}", why=str(e)[:300], fix="give another --model"
        ) from e
    finally:
        logging.set_verbosity(told)
    config = loaded.config
    if config.model_type not in ("dinov2", "vit"):
        raise InputError(f"{name} is a {config.model_type}", fix="give a DINOv2 or ViT model")
    settings: dict[str, Any] = {"eps": config.layer_norm_eps, "heads": config.num_attention_heads}
    if config.model_type == "vit":
        settings |= {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return build(loaded.state_dict(), name, settings)


def build(tensors: Mapping[str, torch.Tensor], source: str, settings: Mapping[str, Any] | None = None) -> Backbone:
    """A backbone from named tensors.

    Parameters
    ----------
    tensors : mapping of str to tensor
        Names of any release of transformers.
    source : str
        For messages.
    settings : mapping, optional
        Values of `BackboneConfig` that tensors do not show.

    Raises
    ------
    InputError
        A tensor is missing or has another shape: it is of another architecture.
    """
    state = {}
    for name, value in tensors.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        state[name] = value.float()
    try:
        dim, _, patch, _ = state["patch.weight"].shape
        config = BackboneConfig(
            **{
                "dim": dim,
                "hidden": len(state["blocks.0.fc1.weight"]),
                "depth": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
                "heads": max(1, dim // HEAD_DIM),
                "patch_size": patch,
                "positions": state["position"].shape[1] - 1,
                **(settings or {}),
            }
        )
        backbone = Backbone(config)
        # Plain ViTs have no layer scales: they stay one. What is beyond the backbone, such as a pooler, is not used.
        wanted = backbone.state_dict()
        backbone.load_state_dict({**{k: v for k, v in wanted.items() if ".scale" in k}, **_only(state, set(wanted))})
    except (KeyError, ValueError, RuntimeError) as e:
        raise InputError(
            f"{source} holds no vision transformer of a known form", why=str(e)[:300], fix="give a DINOv2 or ViT model"
        ) from e
    return backbone.eval()


def _only(state: Mapping[str, torch.Tensor], names: set[str]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name in names}

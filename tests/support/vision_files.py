"""Pretrained models and data sets of images, small and random, in the files that users would bring."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from zkapex.simulation.models.backbone import Backbone, BackboneConfig

CONFIG = BackboneConfig(dim=128, hidden=96, depth=3, heads=2, patch_size=14, positions=9)


def random_backbone(seed: int = 0) -> Backbone:
    """Random weights, layer scales included."""
    torch.manual_seed(seed)
    made = Backbone(CONFIG).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape) * 0.2)
    return made


def write_onnx(made: Backbone, path: Path) -> None:
    """As torch's exporter names things: matrices of products are transposed and nameless, the rest keeps its name."""
    tensors: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    old = {"query": "attention.attention.query", "key": "attention.attention.key", "value": "attention.attention.value"}
    old |= {"out": "attention.output.dense", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    old |= {"scale1": "layer_scale1.lambda1", "scale2": "layer_scale2.lambda1"}

    def add(name: str, value: np.ndarray[Any, Any]) -> None:
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(value), name))

    def node(kind: str, module: str, constant: str) -> None:
        path = "/" + module.replace(".", "/").replace("layer/", "layer.") + f"/{kind}"
        nodes.append(helper.make_node(kind, ["x", constant], [path], name=path))

    for name, tensor in made.state_dict().items():
        value = tensor.numpy()
        if name == "position":
            add("onnx::Concat_1", value[:, :1])
            add("onnx::Reshape_2", value[:, 1:])
            node("Concat", "backbone.embeddings", "onnx::Concat_1")
            node("Reshape", "backbone.embeddings", "onnx::Reshape_2")
        elif name == "cls":
            add("backbone.embeddings.cls_token", value)
        elif name.startswith("patch."):
            add(f"backbone.embeddings.patch_embeddings.projection.{name.removeprefix('patch.')}", value)
        elif name.startswith("norm."):
            add(f"backbone.layernorm.{name.removeprefix('norm.')}", value)
        else:
            _, index, *rest = name.split(".")
            module = f"backbone.encoder.layer.{index}.{old.get(rest[0], rest[0])}"
            if rest[-1] == "weight" and rest[0] in old:
                add(f"onnx::MatMul_{len(tensors)}", value.T)
                node("MatMul", module, tensors[-1].name)
            else:
                add(".".join([module, *rest[1:]]), value)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [x], tensors)), str(path))


CLASSES, DOMAINS = ("cat", "cup", "tree"), ("cartoon", "photo", "sketch")


def gallery_arrays(per_class: int = 12, domains: tuple[str, ...] = DOMAINS) -> dict[str, Any]:
    """The arrays of a data set: a class is a colour, a domain how bright it is, and there is noise."""
    generator = np.random.default_rng(0)
    parts, labels, places = [], [], []
    for index in range(per_class * len(CLASSES) * len(domains)):
        label, domain = index % len(CLASSES), index // len(CLASSES) % len(domains)
        pixels = generator.integers(0, 60, (28, 28, 3))
        pixels[:, :, label] += 60 + 60 * domain
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
        parts.append(buffer.getvalue())
        labels.append(label)
        places.append(domain)
    return {
        "blob": np.frombuffer(b"".join(parts), np.uint8),
        "off": np.cumsum([0, *map(len, parts)]),
        "y": np.array(labels, np.uint8),
        "domain": np.array(places, np.uint8),
        "classes": np.array(CLASSES),
        "domains": np.array(domains),
    }


def write_folder(arrays: dict[str, Any], root: Path) -> None:
    """The same data set as a folder domain/class/image."""
    for index, (label, domain) in enumerate(zip(arrays["y"], arrays["domain"], strict=True)):
        folder = root / str(arrays["domains"][domain]) / str(arrays["classes"][label])
        folder.mkdir(parents=True, exist_ok=True)
        encoded = arrays["blob"][arrays["off"][index] : arrays["off"][index + 1]].tobytes()
        (folder / f"{index:05}.png").write_bytes(encoded)

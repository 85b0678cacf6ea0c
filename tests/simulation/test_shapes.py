"""Shapes of target layers from everything that describes a model."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from limits import case, refuses
from tiny import tiny

from zkapex.costs.shapes import BUILT_IN, MAX_HEADER, model_shapes
from zkapex.costs.workload import Shape, random_workload
from zkapex.errors import InputError
from zkapex.simulation.models.tiny import target_layers, vision_transformer

PLAIN = [(48, 16), (16, 48)] * 2
GATED = [(48, 16), (48, 16), (16, 48)] * 2


def config(folder: Path, **fields: object) -> Path:
    (folder / "config.json").write_text(json.dumps(fields))
    return folder / "config.json"


def safetensors(path: Path, tensors: dict[str, list[int]]) -> Path:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in tensors.items():
        size = 4
        for n in shape:
            size *= n
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))
    return path


def shapes(model: object) -> list[tuple[int, int]]:
    return [(layer.rows, layer.cols) for layer in model_shapes(str(model)).layers]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model_type": "vit", "hidden_size": 16, "intermediate_size": 48, "num_hidden_layers": 2}, PLAIN),
        ({"model_type": "dinov2", "hidden_size": 16, "mlp_ratio": 3, "num_hidden_layers": 2}, PLAIN),
        ({"model_type": "opt", "hidden_size": 16, "ffn_dim": 48, "num_hidden_layers": 2}, PLAIN),
        ({"model_type": "llama", "hidden_size": 16, "intermediate_size": 48, "num_hidden_layers": 2}, GATED),
    ],
)
def test_configurations(fields: dict[str, object], expected: list[tuple[int, int]], tmp_path: Path) -> None:
    assert shapes(config(tmp_path, **fields)) == expected
    assert shapes(tmp_path) == expected, "the folder will do as well"


def test_well_known_models() -> None:
    weights = {name: model_shapes(name).weights for name in BUILT_IN}
    assert weights == {
        "vit-b-16": 12 * 2 * 768 * 3072,
        "vit-s-14": 12 * 2 * 384 * 1536,
        "opt-125m": 12 * 2 * 768 * 3072,
        "smollm2-135m": 30 * 3 * 576 * 1536,
    }


def test_checkpoints(tmp_path: Path) -> None:
    names = {
        "vit.encoder.layer.0.intermediate.dense.weight": [48, 16],
        "vit.encoder.layer.0.output.dense.weight": [16, 48],
        "vit.encoder.layer.0.attention.output.dense.weight": [16, 16],
        "vit.encoder.layer.0.output.dense.bias": [16],
        "blocks.1.mlp.fc1.weight": [48, 16],
        "model.layers.2.mlp.gate_proj.weight": [40, 16],
        "conv.fc1.weight": [4, 4, 3, 3],
        "head.weight": [10, 16],
    }
    path = safetensors(tmp_path / "model.safetensors", names)
    assert shapes(path) == [(48, 16), (16, 48), (48, 16), (40, 16)]
    safetensors(tmp_path / "model-2.safetensors", {"fc2.weight": [3, 5]})
    assert sorted(shapes(tmp_path)) == sorted([(48, 16), (16, 48), (48, 16), (40, 16), (3, 5)])


def test_a_checkpoint_has_the_layers_the_simulation_targets(tmp_path: Path) -> None:
    model = vision_transformer(0)
    tensors = {name: list(value.shape) for name, value in model.state_dict().items()}
    found = model_shapes(str(safetensors(tmp_path / "vit.safetensors", tensors))).layers
    assert {s.name: (s.rows, s.cols) for s in found} == {n: m.weight.shape for n, m in target_layers(model).items()}


def test_a_manifest_fixes_the_circuit(tmp_path: Path) -> None:
    layers = [Shape("blocks.0.fc1", 40, 64), Shape("blocks.0.fc2", 33, 20)]
    mask = {"blocks.0.fc1": np.eye(40, 64, dtype=np.bool_), "blocks.0.fc2": np.zeros((33, 20), np.bool_)}
    manifest = random_workload(tiny(), layers, mask, 0).instance.manifest
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    found = model_shapes(str(tmp_path / "manifest.json"))
    assert found.statement == manifest.statement
    assert [(s.name, s.rows, s.cols) for s in found.layers] == [(s.name, s.rows, s.cols) for s in manifest.layers]


def test_what_is_no_model_is_an_input_error(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    wrong: list[object] = ["vit-z-99", tmp_path, tmp_path / "text", tmp_path / "list.json", damaged]
    (tmp_path / "text").write_bytes(b"\xff\xfe no text")
    (tmp_path / "list.json").write_text("[1]")
    for content in (
        b"",
        b"\1",
        struct.pack("<Q", MAX_HEADER + 1),
        struct.pack("<Q", 4) + b"[1] ",
        b"\2\0\0\0\0\0\0\0{]",
    ):
        damaged.write_bytes(content)
        for model in wrong:
            with pytest.raises(InputError):
                model_shapes(str(model))
    for fields in (
        {},
        {"model_type": "clip", "text_config": {}},
        {"model_type": "vit", "hidden_size": "16", "intermediate_size": 48, "num_hidden_layers": 2},
        {"model_type": "vit", "hidden_size": 16, "intermediate_size": 48, "num_hidden_layers": 0},
        {"format": "zkapex.manifest.v1"},
    ):
        with pytest.raises(InputError):
            model_shapes(str(config(tmp_path, **fields)))
    with pytest.raises(InputError, match="holds no target layers"):
        model_shapes(str(safetensors(tmp_path / "other.safetensors", {"conv.weight": [2, 2]})))


# -- checkpoints that are not what they seem ---------------------------------------------------------------------------


def raw(path: Path, header: object, data: int = 0) -> Path:
    """A safetensors file with this header, whatever it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    return path


def entry(shape: list[int], dtype: str = "F32", end: int = 0) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


def test_json_nested_deep_does_not_end_the_process(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"a":' + b"[" * 200_000)
    refuses("json-deep", lambda: model_shapes(str(tmp_path / "config.json")))
    refuses("header-deep", lambda: model_shapes(str(raw(tmp_path / "m.safetensors", b"[" * 200_000))))


@case("checkpoint-fused")
def test_fused_projections_count(tmp_path: Path) -> None:
    names = {"m.0.mlp.gate_up_proj.weight": [80, 16], "m.0.mlp.down_proj.weight": [16, 40]}
    assert shapes(safetensors(tmp_path / "m.safetensors", names)) == [(80, 16), (16, 40)]


@pytest.mark.parametrize("shape", [[0, 576], [576, 0], [2**20, 2]])
def test_a_layer_without_weights_is_refused(tmp_path: Path, shape: list[int]) -> None:
    path = raw(tmp_path / "m.safetensors", {"fc1.weight": entry(shape)})
    refuses("checkpoint-shape", lambda: model_shapes(str(path)))


@pytest.mark.parametrize("shape", [[-4, 576], [4.0, 5], ["4", 5], [True, 5], "45", None])
def test_sizes_that_are_none_are_refused(tmp_path: Path, shape: Any) -> None:
    path = raw(tmp_path / "m.safetensors", {"fc1.weight": entry(shape)})
    refuses("header-deep", lambda: model_shapes(str(path)))


@pytest.mark.parametrize("dtype", ["U8", "I32", "F8_E4M3", "I8"])
def test_packed_weights_are_not_taken_for_a_layers(tmp_path: Path, dtype: str) -> None:
    path = raw(tmp_path / "m.safetensors", {"fc1.weight": entry([4, 6], dtype)})
    assert dtype in refuses("checkpoint-packed", lambda: model_shapes(str(path))).what


@pytest.mark.parametrize("name", ["m.mlp.experts.gate_up_proj", "m.mlp.c_fc.weight", "m.mlp.up_proj.qweight"])
def test_what_is_not_understood_is_said(tmp_path: Path, name: str) -> None:
    path = safetensors(tmp_path / "m.safetensors", {"m.mlp.down_proj.weight": [4, 6], name: [6, 4]})
    assert name in refuses("checkpoint-unknown", lambda: model_shapes(str(path))).what


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = raw(tmp_path / "m.safetensors", {"fc1.weight": entry([4, 6], end=96)}, data=95)
    refuses("checkpoint-incomplete", lambda: model_shapes(str(path)))
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 88\n")
    assert "git lfs pull" in refuses("header-deep", lambda: model_shapes(str(path))).why


def test_an_index_names_what_must_be_there(tmp_path: Path) -> None:
    safetensors(tmp_path / "model-1.safetensors", {"fc1.weight": [4, 6]})
    files = {"fc1.weight": "model-1.safetensors", "fc2.weight": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert "model-2" in refuses("checkpoint-parts", lambda: model_shapes(str(tmp_path))).what


def test_a_configuration_of_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of type"):
        model_shapes(str(config(tmp_path, model_type=[], hidden_size=0)))

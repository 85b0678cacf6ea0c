from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from vision_files import CONFIG, random_backbone, write_onnx

from zkapex.errors import InputError
from zkapex.simulation.models.backbone import FeatureTable, tail_of
from zkapex.simulation.models.pretrained import load_backbone
from zkapex.unlearning.planning.saliency import gradient_moments


def images(n: int = 3, size: int = 28) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_weights_come_out_of_an_onnx_file_as_they_went_in(tmp_path: Path) -> None:
    made = random_backbone()
    write_onnx(made, tmp_path / "vit.onnx")
    read = load_backbone(str(tmp_path / "vit.onnx"))
    assert read.config == CONFIG
    state = read.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize("kind", ["dinov2", "vit"])
def test_it_computes_what_transformers_computes(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    common: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 14}
    if kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(image_size=42, **common)).eval()
    else:
        model = transformers.ViTModel(transformers.ViTConfig(image_size=42, intermediate_size=48, **common)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape) * 0.2)
    model.save_pretrained(tmp_path)
    read = load_backbone(str(tmp_path))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (read.config.mean, read.config.std))
    assert read.config.mean[0] == (0.485 if kind == "dinov2" else 0.5)
    for size in (42, 28):  # 28: positions are interpolated
        batch = images(2, size)
        options = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}
        with torch.no_grad():
            wanted = model((batch - mean) / std, **options).last_hidden_state
            torch.testing.assert_close(read(batch), wanted, atol=2e-5, rtol=1e-4)


def test_the_classifier_of_a_checkpoint_is_left_out(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, patch_size=14, image_size=28, intermediate_size=48,
        num_labels=5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    read = load_backbone(str(tmp_path))
    with torch.no_grad():
        wanted = model(images() * 2 - 1).logits
        torch.testing.assert_close(model.classifier(read(images())[:, 0]), wanted, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_the_tail_goes_on_where_the_trunk_stopped() -> None:
    made, batch = random_backbone(), images()
    for blocks in (1, 2):
        features = made(batch, CONFIG.depth - blocks).half()
        tail = tail_of(made, blocks, 5, FeatureTable(features), seed=0)
        assert len(tail.blocks) == blocks
        wanted = tail.head(made(batch)[:, 0])
        torch.testing.assert_close(tail(torch.arange(3)), wanted, atol=2e-2, rtol=1e-2)
    one, same, other = (tail_of(made, 1, 5, FeatureTable(features), seed).head.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_per_example_gradients_of_the_tail_average_to_the_gradient() -> None:
    made, batch, labels = random_backbone(), images(), torch.tensor([0, 2, 1])
    with torch.no_grad():
        table = FeatureTable(made(batch, 1).half())
    tail = tail_of(made, 2, 3, table, seed=0)
    moments = gradient_moments(tail, ["blocks.0.fc1", "blocks.1.fc2"], torch.arange(3), labels)
    logits = tail(torch.arange(3))
    own = torch.nn.functional.one_hot(labels, 3).bool()
    loss = (logits.masked_fill(own, -torch.inf).logsumexp(1) - logits[own]).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    for name, (mean, square) in moments.items():
        gradient = tail.get_parameter(f"{name}.weight").grad
        assert gradient is not None
        np.testing.assert_allclose(mean, gradient.numpy(), atol=1e-5)
        assert (square >= mean**2 - 1e-9).all()


def test_a_model_that_is_not_there_or_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_backbone(None)
    assert "--model" in error.value.fix
    with pytest.raises(InputError, match="no file"):
        load_backbone(str(tmp_path / "absent.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"not a readable|no vision transformer"):
        load_backbone(str(tmp_path / "bad.onnx"))
    made = random_backbone()
    del made.blocks[1].fc2
    write_onnx(made, tmp_path / "part.onnx")
    with pytest.raises(InputError, match="no vision transformer"):
        load_backbone(str(tmp_path / "part.onnx"))
    with pytest.raises(InputError, match="no tail of 4"):
        tail_of(random_backbone(), 4, 2, FeatureTable(torch.zeros(1, 5, 128).half()), 0)


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError) as error:
        load_backbone("facebook/dinov2-small")
    assert "zkapex[vision]" in error.value.fix


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    with pytest.raises(InputError, match="cannot load"):
        load_backbone(str(tmp_path / "absent"))
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="is a bert"):
        load_backbone(str(tmp_path / "bert"))

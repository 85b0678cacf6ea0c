from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_language import save_model
from torch.func import functional_call, grad, vmap

from zkapex.errors import InputError
from zkapex.simulation.models import language as language_module
from zkapex.simulation.models.language import LanguageModel, load_language_model
from zkapex.unlearning.planning.saliency import margin_loss


@pytest.fixture(scope="module", params=["llama", "opt"])
def language(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_language_model(str(save_model(tmp_path_factory.mktemp("model"), request.param)))


def windows() -> torch.Tensor:
    return torch.randint(0, 256, (5, 10), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layers", [1, 2])
def test_trunk_and_tail_make_up_the_model(language: LanguageModel, layers: int) -> None:
    vocabulary = torch.tensor([3, 200, 17])
    hidden, tail = language.split(windows(), layers, vocabulary)
    assert hidden.dtype == torch.float16
    with torch.no_grad():
        wanted = language.model(input_ids=windows()).logits[..., vocabulary]
        assert torch.allclose(tail(hidden), wanted, atol=1e-3)
    assert len(tail.layers) == layers
    assert not tail.head.weight.requires_grad


def test_per_example_gradients_see_through_the_layers(language: LanguageModel) -> None:
    hidden, tail = language.split(windows(), 2, torch.arange(256))
    weights = {n: p.detach() for n, p in tail.named_parameters() if n.rpartition(".")[0].endswith(tail.targets)}
    assert len(weights) >= 4

    def loss(changed: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return margin_loss(functional_call(tail, changed, (x[None],)), y[None])

    labels = windows()
    together = vmap(grad(loss), in_dims=(None, 0, 0))(weights, hidden, labels)
    for index in range(len(hidden)):
        alone = grad(loss)(weights, hidden[index], labels[index])
        for name, gradient in alone.items():
            assert torch.allclose(together[name][index], gradient, atol=1e-6)


def test_nothing_is_dropped_in_training(language: LanguageModel) -> None:
    hidden, tail = language.split(windows(), 1, torch.arange(9))
    assert torch.equal(tail.train()(hidden), tail.eval()(hidden))


def test_what_cannot_be_loaded_is_refused(tmp_path: Path, language: LanguageModel) -> None:
    with pytest.raises(InputError, match="neither a model"):
        load_language_model(str(tmp_path))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="cannot load"):
        load_language_model(str(tmp_path))
    with pytest.raises(InputError, match="does not fit a model of 3"):
        language.split(windows(), 3, torch.arange(9))
    with pytest.raises(InputError, match="not looked for"):
        LanguageModel(torch.nn.Linear(2, 2), None).split(windows(), 1, torch.arange(9))


def test_the_trunk_runs_once_for_the_same_model_and_windows(
    language: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZKAPEX_CACHE", str(tmp_path))
    ran: list[int] = []
    trunk = language_module._trunk

    def counted(model: torch.nn.Module, first: torch.nn.Module, batch: torch.Tensor) -> Any:
        ran.append(len(batch))
        return trunk(model, first, batch)

    monkeypatch.setattr(language_module, "_trunk", counted)

    def runs(model: LanguageModel, seen: torch.Tensor, layers: int = 1) -> list[int]:
        ran.clear()
        hidden, _ = model.split(seen, layers, torch.arange(9))
        assert torch.equal(hidden, wanted(model, seen, layers))
        return list(ran)

    def wanted(model: LanguageModel, seen: torch.Tensor, layers: int) -> torch.Tensor:
        stack = language_module._parts(model.model)[0]
        with torch.no_grad():
            return trunk(model.model, stack[len(stack) - layers], seen)[0].half()

    assert runs(language, windows()) == [1, 5]
    assert runs(language, windows()) == [1], "of one window it is asked for mask and positions"
    assert runs(language, windows(), layers=2) == [1, 5]
    assert runs(language, windows()[:, :8]) == [1, 5]
    assert runs(language, windows().flip(0)) == [1, 5]
    other = copy.deepcopy(language)
    with torch.no_grad():
        next(other.model.parameters()).mul_(1.5)
    assert runs(other, windows()) == [1, 5]
    for path in (tmp_path / "features").glob("*.npz"):
        path.write_bytes(b"")
    assert runs(language, windows()) == [1, 5], "what is damaged is made again"

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from vision_files import CLASSES, gallery_arrays, random_backbone, write_folder, write_onnx

from zkapex.errors import InputError
from zkapex.simulation.evaluation.evaluate import evaluate
from zkapex.simulation.scenarios import ScenarioConfig, Sources, pacs, scenario_config
from zkapex.unlearning.personalise import FitSettings
from zkapex.unlearning.planning.search import SearchSpace
from zkapex.unlearning.planning.steering import Steer

FAST: dict[str, Any] = {
    "rounds": 1,
    "local": FitSettings(2, 1e-3),
    "personal": FitSettings(1, 1e-3),
    "shadow": FitSettings(1, 1e-3),
    "shadows": 2,
    "proxies": 1,
    "profile": "tiny",
    "space": SearchSpace(("taylor",), (2,), fractions=(0.01,), steer=Steer(steps=3, rehearsal=None)),
}


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    monkeypatch.setattr(pacs, "PIXELS", 28)
    monkeypatch.setenv("ZKAPEX_CACHE", str(tmp_path / "cache"))
    np.savez(tmp_path / "data.npz", **gallery_arrays(30))
    write_onnx(random_backbone(), tmp_path / "vit.onnx")
    return Sources(tmp_path / "data.npz", str(tmp_path / "vit.onnx"))


def numbers(*parts: Any) -> set[int]:
    return {int(number) for part in parts for number in part.inputs}


def test_a_class_is_forgotten_and_nobody_is_on_two_sides(sources: Sources) -> None:
    for seed in range(2):
        bench = pacs.PACS.make(seed, sources)
        world = bench.world
        assert world.forget_class == seed
        assert bench.note.startswith(CLASSES[seed])
        assert set(world.forget_set.labels.tolist()) == set(bench.non_members.labels.tolist()) == {seed}
        photos = [numbers(client.train) for client in world.clients]
        sketches = [numbers(client.personal) for client in world.clients]
        assert sum(map(len, photos)) == len(set().union(*photos)) == 54
        assert sum(map(len, sketches)) == len(set().union(*sketches))
        assert numbers(world.forget_set, world.retain_set) == set().union(*photos)
        assert not numbers(bench.test, bench.non_members) & set().union(*photos)
        for client in world.clients:
            assert not numbers(client.personal_test) & set().union(*sketches)
            assert numbers(client.retained) == numbers(client.train) - numbers(world.forget_set)
            assert seed not in {*client.personal.labels.tolist(), *client.personal_test.labels.tolist()}


@pytest.mark.parametrize("pixels", [0, 14, 30, 1036])
def test_images_are_of_whole_patches(sources: Sources, pixels: int) -> None:
    with pytest.raises(InputError, match=f"--pixels is {pixels}") as refused:
        pacs.PACS.make(0, replace(sources, pixels=pixels))
    assert "multiple of 14 from 28 to 1024" in refused.value.fix


def test_larger_images_have_more_patches(sources: Sources) -> None:
    small, large = (pacs.PACS.make(0, replace(sources, pixels=pixels)) for pixels in (None, 42))
    assert small.build is not None
    assert large.build is not None
    images = small.world.forget_set.inputs[:2]
    assert torch.equal(images, large.world.forget_set.inputs[:2])
    assert not torch.allclose(small.build(0)(images), large.build(0)(images))


def test_three_per_cent_of_the_photographs_are_forgotten(sources: Sources) -> None:
    bench = pacs.PACS_SAMPLES.make(0, sources)
    world = bench.world
    assert world.forget_class is None
    assert len(world.forget_set.labels) == 2
    assert not numbers(bench.non_members, bench.test) & numbers(world.forget_set, world.retain_set)
    assert not numbers(bench.non_members) & numbers(bench.test)
    for client in world.clients:
        assert numbers(client.retained) == numbers(client.train) - numbers(world.forget_set)
    assert bench.build is not None
    assert bench.aim is not None
    contrast = bench.aim(bench.build(0)).contrast
    assert contrast is not None
    found = contrast()
    assert torch.isfinite(found.change(world.forget_set)).all()
    assert any(
        not torch.equal(a, b) for a, b in zip(found.taught.parameters(), found.untaught.parameters(), strict=True)
    )


def test_a_proxy_sees_another_domain_and_no_image_twice(sources: Sources) -> None:
    world = pacs.PACS.make(0, sources).world
    clients = numbers(*(part for client in world.clients for part in (client.train, client.personal)))
    half = len(world.retain_set.labels) // 2
    first, second = world.retain_set.take(torch.arange(half)), world.retain_set.take(torch.arange(half, 2 * half))
    seen = [world.proxy(0, part) for part in (first, second)]
    assert [len(part.labels) for part in seen] == [half, half]
    assert all(torch.equal(part.labels, own.labels) for part, own in zip(seen, (first, second), strict=True))
    assert len(numbers(*seen)) == 2 * half
    assert not numbers(*seen) & (clients | numbers(world.forget_test, world.retain_test))


def test_without_a_third_domain_proxies_see_negatives(sources: Sources, tmp_path: Path) -> None:
    write_folder(gallery_arrays(30, ("ImageNet", "ImageNet-Sketch")), tmp_path / "pair")
    world = pacs.PACS.make(0, replace(sources, data=tmp_path / "pair")).world
    seen = world.proxy(0, world.retain_set)
    assert torch.equal(seen.labels, world.retain_set.labels)
    assert not numbers(seen) & numbers(world.retain_set)


def test_frozen_blocks_run_once(sources: Sources, tmp_path: Path) -> None:
    stages: list[str] = []
    watched = replace(sources, on_stage=stages.append)
    one, again = (pacs.PACS.make(0, watched) for _ in range(2))
    assert stages == ["features"] * 3
    assert one.build is not None
    assert again.build is not None
    x = one.world.retain_set.inputs
    with torch.no_grad():
        wanted = one.build(0)(x)
        assert torch.equal(wanted, again.build(0)(x))
    files = list((tmp_path / "cache" / "features").glob("*.npz"))
    assert len(files) == 3
    files[0].write_bytes(b"damaged")
    third = pacs.PACS.make(0, watched).build
    assert third is not None
    with torch.no_grad():
        assert torch.equal(wanted, third(0)(x))
    assert stages == ["features"] * 4


def test_too_few_images_are_refused(sources: Sources, tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", **gallery_arrays(3))
    with pytest.raises(InputError, match="too few"):
        pacs.PACS.make(0, replace(sources, data=tmp_path / "few.npz"))


@pytest.mark.slow
def test_a_vit_of_the_papers_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ViT-B/16 with random weights, as transformers writes it, at the scenario's own size of images."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("ZKAPEX_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    transformers.ViTForImageClassification(transformers.ViTConfig()).save_pretrained(tmp_path / "vit")
    np.savez(tmp_path / "data.npz", **gallery_arrays(8))
    config: ScenarioConfig = replace(pacs.PACS, **FAST)
    results = evaluate(
        config,
        1,
        tmp_path / "out",
        sources=Sources(tmp_path / "data.npz", str(tmp_path / "vit")),
        methods=["mask-only"],
    )
    assert results["methods"]["retrain"]["mean"]["forget_acc"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pacs", "pacs-samples"])
def test_an_evaluation_from_the_files_to_the_report(name: str, sources: Sources, tmp_path: Path) -> None:
    config: ScenarioConfig = replace(scenario_config(name), **FAST)
    methods = ["mask-only", "guarded-group-obs", "salun"]
    results = evaluate(config, 1, tmp_path / "out", sources=sources, methods=methods)
    assert list(results["methods"]) == ["original", "retrain", "salun", "mask-only", "guarded-group-obs"]
    (plan,) = (seed["plan"] for seed in results["seeds"])
    assert set(plan["density"]) == {"blocks.0.fc1", "blocks.0.fc2"}
    if name == "pacs":
        assert results["methods"]["retrain"]["mean"]["forget_acc"] == 0.0

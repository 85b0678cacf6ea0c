"""Scenarios of the evaluation run through Flower's apps, and do there what the evaluation does in one process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from federation import refused
from tiny_language import TINY_CODE, save_code, save_model
from vision_files import gallery_arrays, random_backbone, write_onnx
from writers import arrays

from zkapex.circuits.profiles import profile
from zkapex.client.app import make_client_app
from zkapex.errors import InputError
from zkapex.proofs.records.signing import load_public_key
from zkapex.proofs.verify import verify_receipt
from zkapex.server.app import make_server_app
from zkapex.server.requests.plan import load_plan
from zkapex.simulation.demo.settings import DemoSettings
from zkapex.simulation.evaluation.preparation import prepare
from zkapex.simulation.federation.device import ScenarioTask, agent
from zkapex.simulation.federation.federation import SimulatedFederation, federation_of
from zkapex.simulation.federation.provider import ScenarioProvider, provider
from zkapex.simulation.models.tiny import ViTConfig
from zkapex.simulation.models.training import accuracy
from zkapex.simulation.scenarios import SCENARIOS, ScenarioConfig, pacs
from zkapex.storage import load_arrays
from zkapex.transport.grid import InProcessGrid, run_config_of_app, run_in_process
from zkapex.unlearning.personalise import FitSettings
from zkapex.unlearning.planning.search import SearchSpace
from zkapex.unlearning.planning.steering import Steer

SPACE = SearchSpace(("taylor",), (2,), fractions=(0.02,), forget_target=0.02, steer=Steer(steps=3, rehearsal=None))
SMALL: dict[str, ScenarioConfig] = {
    name: replace(
        SCENARIOS[name],
        model=ViTConfig(image_size=28, patch_size=14, dim=32, hidden=32, depth=1),
        local=FitSettings(1, 2e-3),
        shadow=FitSettings(1, 1e-3),
        shadows=2,
        proxies=1,
        space=SPACE,
        targeted=(),
    )
    for name in ("mnist-writers", "mnist-writers-leave", "pacs")
} | {"code-lm": TINY_CODE}
"""Next to no training, and one mask; by name of the scenario."""

MakeSources = Callable[[Path], tuple[Path, Path | None]]


def writers_file(folder: Path) -> tuple[Path, None]:
    np.savez(folder / "writers.npz", **arrays())
    return folder / "writers.npz", None


def pictures(folder: Path) -> tuple[Path, Path]:
    np.savez(folder / "data.npz", **gallery_arrays(30))
    write_onnx(random_backbone(), folder / "vit.onnx")
    return folder / "data.npz", folder / "vit.onnx"


def code(folder: Path) -> tuple[Path, Path]:
    return save_code(folder / "code"), save_model(folder / "model", "llama")


SOURCES: Mapping[str, MakeSources] = MappingProxyType(
    {"mnist-writers": writers_file, "mnist-writers-leave": writers_file, "pacs": pictures, "code-lm": code}
)


@pytest.fixture
def settings(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str | int | float | bool]:
    """The settings of a small run of a scenario, as its file and the command line make them."""
    name = request.param
    monkeypatch.setattr("zkapex.simulation.scenarios.SCENARIOS", {**SCENARIOS, **SMALL})
    monkeypatch.setattr(pacs, "PIXELS", 28)
    data, model = SOURCES[name](tmp_path)
    given = {"data": str(data), "model": str(model or ""), "dishonest": 1, "cheat": "ignore", "audit_cheating": 0.5}
    small = {"rounds": 1, "personal-epochs": 1, "personal-lr": 1e-3, "profile": "tiny", "guard-rank": 2}
    small["operator"] = "guarded-group-obs"
    run = DemoSettings.of(name, {**given, "audit_detect": 0.5}).run_config
    if run["audit"] == "full":
        small["backend"] = "transparent"  # its proofs are quick; it has no sampled audits
    return run_config_of_app({**run, **small, "work-dir": str(tmp_path / "run")})


@pytest.mark.parametrize(
    "settings",
    ["mnist-writers", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pacs", "code-lm"))],
    indirect=True,
)
def test_a_scenario_runs_from_training_to_receipts(
    settings: dict[str, Any], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run, clients = tmp_path / "run", int(settings["clients"])
    run_in_process(make_server_app(provider), InProcessGrid(make_client_app(agent), clients, settings), settings)
    result = json.loads((run / "result.json").read_text())
    verdicts = sorted(row["verdict"] for row in result["clients"])
    assert verdicts == ["proved"] * (clients - 1) + ["quarantined"]
    assert result["manifest"]["model"] == settings["scenario"]

    mine = federation_of(settings)
    folder = tmp_path_factory.mktemp("evaluation")
    apart = prepare(mine.config, mine.bench, mine.seed, folder, lambda event: None)
    trained = state(run / "provider" / "global.npz")
    for name, value in load_arrays(folder / "train.npz").items():
        if name.startswith("0/"):  # Flower averages in single precision
            assert torch.allclose(trained[name[2:]], torch.from_numpy(value), rtol=0, atol=1e-6), name
    plan, stored = load_plan(run / "provider" / "requests" / str(settings["request-id"])), apart.cases[0].plan
    assert plan is not None
    same = sum(int((mask & stored.masks[name]).sum()) for name, mask in plan.masks.items())
    assert same > 0.8 * sum(int(mask.sum()) for mask in plan.masks.values()) > 0
    for index, case in enumerate(apart.cases):
        sent = state(run / "models" / f"client-{index:03d}-before.npz")
        for name in (f"{layer}.weight" for layer in case.deployment.names):
            # Where a gradient is next to nothing, Adam makes much of the last bits of a weight.
            value = case.before.state_dict()[name]
            assert (sent[name] - value).norm() < 0.2 * (value - trained[name]).norm(), name

    (row,) = [row for row in result["clients"] if row["verdict"] == "proved"][:1]
    verify_receipt(run / row["receipt"], [load_public_key(run / "key.pub")])
    told = [row["accuracy"]["after"] for row in result["clients"]]
    for index in range(clients):
        assert judged(mine, index, run) in told


@pytest.mark.parametrize("settings", ["mnist-writers-leave"], indirect=True)
def test_data_decide_what_is_aimed_at(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mine = federation_of(settings)
    assert mine.bench.aim is not None
    assert "4 writers" in mine.bench.forgotten
    assert mine.judged(0)["forget"] is mine.world.forget_set, "others like what is deleted stay"
    aimed: list[SearchSpace] = []
    monkeypatch.setattr("zkapex.simulation.evaluation.preparation.search", lambda *a, **k: aimed.append(a[4]))
    one = ScenarioProvider(mine)
    model = one.initial_model()
    one.plan(model, profile("tiny").statement())
    assert [(space.forget_target, space.margin) for space in aimed] == [(mine.bench.aim(model).forget, 0.0)]


def state(path: Path) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in load_arrays(path).items()}


def judged(federation: SimulatedFederation, index: int, run: Path) -> dict[str, float]:
    """Accuracy of the model that a client was left with."""
    model = ScenarioTask(federation, index).build_model()
    model.load_state_dict(state(run / "models" / f"client-{index:03d}-after.npz"))
    return {name: pytest.approx(accuracy(model, examples)) for name, examples in federation.judged(index).items()}


@pytest.mark.parametrize("settings", ["mnist-writers"], indirect=True)
def test_settings_that_contradict_the_scenario_are_refused(settings: dict[str, Any]) -> None:
    def error(**other: Any) -> InputError:
        changed = {**settings, **{name.replace("_", "-"): value for name, value in other.items()}}
        found = refused(lambda: federation_of(changed), InputError)
        assert isinstance(found, InputError)
        return found

    assert "4 clients" in error(clients=2).fix
    assert "part of the scenario" in error(forget_class=7).what
    assert "part of the scenario" in error(holder=1).what
    assert "--pixels is for images" in error(pixels=28).what
    assert "there is no scenario" in error(scenario="mnist").what
    assert "there is no file" in error(data="/nowhere.npz").what
    assert "reads no model" in error(model="facebook/opt-125m").what
    assert "forget-target" in error(forget_target=float("nan")).what
    assert "retain-cost" in error(retain_cost=-0.1).what


@pytest.mark.parametrize("settings", ["mnist-writers"], indirect=True)
def test_the_environment_names_data_that_a_run_does_not(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {**settings, "data": ""}
    monkeypatch.delenv("ZKAPEX_DATA", raising=False)
    assert "ZKAPEX_DATA" in refused(lambda: federation_of(named), InputError).fix
    monkeypatch.setenv("ZKAPEX_DATA", settings["data"])
    assert federation_of(named).bench.note == federation_of(settings).bench.note


@pytest.mark.parametrize("given", [{"data": "w.npz"}, {"model": "m"}, {"classes": 3}, {"pixels": 28}])
def test_digits_read_nothing(given: dict[str, Any]) -> None:
    refused(lambda: federation_of(run_config_of_app(given)), InputError)


def test_a_run_that_names_a_guard_rank_gets_it() -> None:
    config = federation_of(run_config_of_app({"guard-rank": 3})).config
    assert config.space.combinations(profile("tiny").statement(guard_rank=3)) == [("selective", 3)]


def test_a_run_has_its_own_rounds_and_personalisation() -> None:
    changed = {"rounds": 3, "personal-epochs": 2, "personal-lr": 5e-3, "retain-cost": 0.2, "profile": "edge"}
    config = federation_of(run_config_of_app(changed)).config
    assert (config.rounds, config.personal.epochs, config.personal.learning_rate) == (3, 2, 5e-3)
    assert (config.space.retain_cost, config.space.forget_target, config.profile) == (0.2, 0.02, "edge")

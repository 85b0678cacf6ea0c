"""Scenarios as files: those that come with zkapex say what the evaluation does, and what users write is checked."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from commands import here
from federation import refused

from zkapex.circuits.profiles import profile
from zkapex.errors import InputError
from zkapex.server.federation.settings import RunSettings
from zkapex.simulation.demo.settings import DemoSettings
from zkapex.simulation.scenarios import SCENARIOS, code_lm, mnist_writers, pacs, scenario_config
from zkapex.simulation.scenarios.files import FOLDER, read_scenario, scenario_names
from zkapex.transport.grid import run_config_of_app

OF_THE_PAPER = ("codeparrot", "imagenet-sketch")
AIMED = ("mnist-writers-leave", "pacs-samples", "code-lm")
"""Where the data decide the target."""


def test_every_scenario_has_a_file_and_the_papers_settings_have_two() -> None:
    assert set(scenario_names()) == {*SCENARIOS, *OF_THE_PAPER}
    for name in SCENARIOS:
        assert read_scenario(name)["scenario"] == name


@pytest.mark.parametrize("name", [*SCENARIOS, *OF_THE_PAPER])
def test_a_file_says_what_the_evaluation_does(name: str) -> None:
    found = read_scenario(name)
    config = scenario_config(str(found["scenario"]))
    clients = {"mnist": mnist_writers.CLIENTS, "pacs": pacs.CLIENTS, "code": code_lm.CLIENTS, "digits": 4}
    assert found["clients"] == clients[config.name.split("-")[0]]
    assert found["rounds"] == config.rounds
    assert found["personal-epochs"] == config.personal.epochs
    assert found["personal-lr"] == config.personal.learning_rate
    assert found["profile"] == config.profile
    assert found["retain-cost"] == config.space.retain_cost
    if config.name in AIMED:
        assert "forget-target" not in found
    else:
        assert found["forget-target"] == config.space.forget_target
    ranks = config.space.guard_ranks or (profile(config.profile).guard_rank,)
    assert found.get("guard-rank", profile(config.profile).guard_rank) == max(ranks)


def test_that_of_digits_says_what_a_run_does_that_is_told_nothing() -> None:
    defaults = run_config_of_app({})
    assert all(defaults[name] == value for name, value in read_scenario("digits").items())
    assert DemoSettings.of("digits", {}).run_config.items() <= defaults.items()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("scenario = ", "not a readable scenario"),
        ("clients = 2", "names no scenario"),
        ('scenario = "digits"\nclient = 2', "'client'"),
        ('scenario = "digits"\nclients = "2"', "clients in"),
        ('scenario = "digits"\nclients = 2.0', "clients in"),
        ('scenario = "digits"\nprove-curvature = 1', "prove-curvature in"),
        ('scenario = "digits"\nrounds = true', "rounds in"),
        ('[scenario]\nname = "digits"', "scenario in"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert what in refused(lambda: read_scenario(str(path)), InputError).what


def test_what_does_not_exist_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "mnist-writers" in refused(lambda: read_scenario("mnist"), InputError).fix
    refused(lambda: read_scenario(str(tmp_path / "absent.toml")), InputError)
    assert here("demo", "--scenario", "mnist", "--out", tmp_path / "out") == 10
    assert not (tmp_path / "out").exists()
    assert "there is no scenario 'mnist'" in capsys.readouterr().err


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('scenario = "digits"\nclients = 3\nseed = 7\nrounds = 2\npersonal-lr = 1e-2\n')
    run = DemoSettings.of(str(path), {"seed": 5}).run_config
    assert (run["clients"], run["seed"], run["rounds"], run["personal-lr"], run["dishonest"]) == (3, 5, 2, 0.01, 1)


def test_data_are_named_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZKAPEX_MODEL", raising=False)
    monkeypatch.setenv("ZKAPEX_DATA", "w.npz")
    Path("w.npz").touch()
    assert DemoSettings.of("mnist-writers", {}).data == str(tmp_path / "w.npz")
    assert DemoSettings.of("mnist-writers", {"data": "hub:a/b[test]"}).data == "hub:a/b[test]"
    assert DemoSettings.of("code-lm", {"model": "facebook/opt-125m"}).model == "facebook/opt-125m"
    assert DemoSettings.of("imagenet-sketch", {}).data.startswith("hub:ILSVRC"), "the file's, not the environment's"


def test_the_environment_says_nothing_to_scenarios_that_read_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZKAPEX_DATA", "w.npz")
    monkeypatch.setenv("ZKAPEX_MODEL", "facebook/opt-125m")
    assert DemoSettings.of("digits", {}) == DemoSettings.of("digits", {"data": "", "model": ""})
    assert DemoSettings.of("mnist-writers", {}).model == ""


def test_only_digits_can_be_asked_to_forget_something_else(tmp_path: Path) -> None:
    for given in ({"forget_class": 3}, {"delete": "client", "holder": 0}, {"holder": -1}, {"forget_samples": 3}):
        error = refused(lambda given=given: DemoSettings.of("pacs", given), InputError)
        assert "--scenario digits" in error.fix
    path = tmp_path / "mine.toml"
    path.write_text('scenario = "pacs"\nforget-class = 3\n')
    assert "--forget-class" in refused(lambda: DemoSettings.of(str(path), {}), InputError).why


def test_an_operator_without_a_guard_gets_no_guard_rank() -> None:
    assert DemoSettings.of("pacs", {}).run_config["guard-rank"] == 4
    run = run_config_of_app(DemoSettings.of("pacs", {"operator": "mask-only"}).run_config)
    assert RunSettings.from_config(run).guard_rank == -1


def test_a_folder_in_a_file_is_for_flower_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('scenario = "digits"\nwork-dir = "elsewhere"\n')
    assert "work-dir" not in DemoSettings.of(str(path), {}).run_config


def test_a_summary_tells_no_folder_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "w.npz").touch()
    named = DemoSettings.of("code-lm", {"data": "hub:a/b", "model": "facebook/opt-125m"})
    assert named.shareable == vars(named)
    mine = DemoSettings.of("mnist-writers", {"data": str(tmp_path / "w.npz")})
    assert mine.shareable == {**vars(mine), "data": "w.npz"}


def test_an_installed_package_has_the_files() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["package-data"]["zkapex.simulation.scenarios"] == ["*.toml"]
    assert FOLDER.parts[-2:] == ("simulation", "scenarios")

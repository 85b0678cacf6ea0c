"""A whole evaluation: what it writes, how it goes on after an interruption, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import here
from evaluation import TINY

from zkapex.errors import InputError, StorageError
from zkapex.simulation.evaluation.baselines import METHODS
from zkapex.simulation.evaluation.evaluate import evaluate
from zkapex.simulation.evaluation.metrics import CURVES, METRICS, SHOTS


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("evaluation") / "out"
    return out, evaluate(TINY, 2, out, methods=["mask-only", "guarded-group-obs", "gradient-ascent"])


def test_every_method_and_seed_has_every_number_and_its_gap(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    assert json.loads((out / "results.json").read_text()) == results
    names = ["original", "retrain", "gradient-ascent", "mask-only", "guarded-group-obs"]
    assert list(results["methods"]) == names
    for entry in results["methods"].values():
        assert [run["seed"] for run in entry["runs"]] == [0, 1]
        for run, oracle in zip(entry["runs"], results["methods"]["retrain"]["runs"], strict=True):
            for metric in METRICS:
                assert run["gap_to_retrain"][metric] == pytest.approx(run[metric] - oracle[metric])
                assert metric == "seconds" or 0 <= run[metric] <= 1.0 + 1e-9
            for curve in CURVES:
                assert set(run[curve]) == {str(shots) for shots in SHOTS}
                assert run["gap_to_retrain"][curve]["5"] == pytest.approx(run[curve]["5"] - oracle[curve]["5"])
            assert run["undone_forget_acc_5"] >= run["undone_forget_acc"] >= run["forget_acc"] - 1e-6
            assert run["undone_forget_acc"] >= run["undone_by_receipt_forget_acc"]
            assert len(run["clients"]) == 2
    oracle = results["methods"]["retrain"]["mean"]
    assert oracle["forget_acc"] == 0.0
    assert oracle["cka_to_retrain"] == pytest.approx(1.0)
    assert results["methods"]["retrain"]["gap_to_retrain"] == {
        **dict.fromkeys(METRICS, 0.0),
        **{curve: {str(shots): 0.0 for shots in SHOTS} for curve in CURVES},
    }


def test_the_folder_has_tables_and_plots(done: tuple[Path, dict[str, Any]]) -> None:
    out, _ = done
    assert (out / "table.md").read_text().count("\n") == 2 * (2 + 5) + 1
    for name in ("accuracy", "density", "curve"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_it_goes_on_with_what_is_missing(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    (out / "seeds" / "1" / "methods" / "mask-only.json").unlink()
    before = (out / "seeds" / "0" / "methods" / "mask-only.json").stat().st_mtime_ns
    events: list[dict[str, Any]] = []
    methods = ["mask-only", "guarded-group-obs", "gradient-ascent"]
    again = evaluate(TINY, 2, out, methods=methods, on_event=events.append)
    kinds = [event["event"] for event in events]
    assert kinds.count("result") == 1
    assert kinds.count("kept") == 9
    assert "stage" not in kinds, "what the methods share was kept"
    assert (out / "seeds" / "0" / "methods" / "mask-only.json").stat().st_mtime_ns == before

    def numbers(one: dict[str, Any]) -> dict[str, float]:
        mean: dict[str, float] = one["methods"]["mask-only"]["mean"]
        return {name: value for name, value in mean.items() if name != "seconds" and name not in CURVES}

    assert numbers(again) == pytest.approx(numbers(results)), "and gives the same numbers"


def test_another_evaluation_in_the_folder_is_refused(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = done
    with pytest.raises(InputError, match="another evaluation"):
        evaluate(replace(TINY, rounds=2), 1, out)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        evaluate(TINY, 1, tmp_path)


def test_a_damaged_result_is_named(done: tuple[Path, dict[str, Any]]) -> None:
    out, _ = done
    path = out / "seeds" / "1" / "methods" / "gradient-ascent.json"
    kept = path.read_text()
    methods = ["mask-only", "guarded-group-obs", "gradient-ascent"]
    try:
        for damage in (kept[:100], "{}", kept.replace(f'"scenario": "{TINY.name}"', '"scenario": "other"')):
            path.write_text(damage)
            with pytest.raises(StorageError, match=r"gradient-ascent\.json"):
                evaluate(TINY, 2, out, methods=methods)
    finally:
        path.write_text(kept)


@pytest.mark.parametrize("seeds", [0, -1, 101])
def test_numbers_of_seeds_that_make_no_sense(seeds: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--seeds"):
        evaluate(TINY, seeds, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["letters"], "no scenario"),
        (["digits", "--seeds", "0"], "--seeds"),
        (["digits", "--methods", "magic"], "no method"),
        (["mnist-writers", "--data", "/nowhere.npz"], "no file /nowhere.npz"),
    ],
)
def test_the_command_line_explains_and_leaves_nothing(
    arguments: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("evaluate", *arguments, "--out", tmp_path / "out", "--json") == 10
    out, err = capsys.readouterr()
    assert what in json.loads(out)["what"]
    assert what in err
    assert not (tmp_path / "out").exists()


def test_mnist_writers_without_data_says_how_to_bring_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ZKAPEX_DATA", raising=False)
    assert here("evaluate", "mnist-writers", "--out", tmp_path / "out") == 10
    assert "ZKAPEX_DATA" in capsys.readouterr().err


def test_the_command_line_ends_with_a_table_or_json(
    done: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = done
    monkeypatch.setattr("zkapex.simulation.scenarios.SCENARIOS", {"digits": TINY})
    common = ["evaluate", "digits", "--seeds", "2", "--methods", "mask-only,guarded-group-obs", "--out", out]
    assert here(*common) == 0
    shown = capsys.readouterr().out
    assert METHODS["guarded-group-obs"].label in shown
    assert "forget accuracy within 3 points" in shown
    assert here(*common, "--json") == 0
    assert set(json.loads(capsys.readouterr().out)["methods"]) == {
        "original", "retrain", "mask-only", "guarded-group-obs",
    }  # fmt: skip

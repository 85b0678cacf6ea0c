"""Results as people see them, and the page of the documentation that is made from them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from zkapex.errors import InputError
from zkapex.simulation.evaluation.baselines import METHODS
from zkapex.simulation.evaluation.metrics import CURVES, METRICS, SHOTS
from zkapex.simulation.evaluation.report.report import (
    COLUMNS,
    assemble,
    not_measured,
    page,
    read_results,
    table,
    write_page,
)
from zkapex.simulation.evaluation.report.runs import SHOWN, read_runs, section
from zkapex.simulation.evaluation.targets import judge
from zkapex.simulation.scenarios import SCENARIOS, scenario_config

ROOT = Path(__file__).parents[2]


def run(method: str, seed: int, **metrics: Any) -> dict[str, Any]:
    outcome = {
        "masked_weights": 10,
        "touched_rows": 5,
        "scorer": "taylor",
        "guard_rank": 4,
        "forget_raised": 0.1,
        "touched_chunks": 3,
    }
    outcome |= {"retain_loss": 0.0, "personal_loss": 0.01}
    plan = {
        "chosen": outcome,
        "curve": [outcome],
        "density": {"a": 0.1},
        "weights": 100,
        "targets": {"touched_chunks": 9},
    }
    curves = {curve: {str(shots): 0.5 for shots in SHOTS} for curve in CURVES}
    values = {**dict.fromkeys(METRICS, 0.5), **curves, **metrics}
    head = {"format": 1, "scenario": "digits", "method": method, "seed": seed, "commit": "abc", "clients": []}
    return {**head, "metrics": values, "plan": plan, "stages": {}, "note": "small"}


def curve(*values: float) -> dict[str, float]:
    return {str(shots): value for shots, value in zip(SHOTS, values, strict=True)}


def runs(**ours: Any) -> list[dict[str, Any]]:
    return [
        one
        for seed in (0, 1)
        for one in (
            run("original", seed, forget_acc=0.9, personal_acc=0.9),
            run(
                "retrain", seed, forget_acc=0.0, undone_forget_acc=0.2, retain_acc=0.9, test_acc=0.9,
                kshot_forget_acc=curve(0.1, 0.2, 0.4, 0.8),
            ),
            run("scrub", seed, kshot_forget_acc=curve(0.15, 0.5, 0.6, 0.85)),
            run(
                "targeted-tuned",
                seed,
                **{
                    "forget_acc": 0.02, "int8_forget_acc": 0.02, "int4_forget_acc": 0.04, "personal_acc": 0.89,
                    "retain_acc": 0.895, "test_acc": 0.895, "undone_forget_acc": 0.24,
                    "kshot_forget_acc": curve(0.1, 0.25, 0.5, 0.7), **ours,
                },
            ),
        )
    ]  # fmt: skip


def test_means_spread_and_gaps() -> None:
    rows = [
        run("retrain", 0, personal_acc=0.8), run("retrain", 1, personal_acc=0.9),
        run("ssd", 0, personal_acc=0.5), run("ssd", 1, personal_acc=0.7),
    ]  # fmt: skip
    ssd = assemble("digits", "Digits", rows)["methods"]["ssd"]
    assert ssd["mean"]["personal_acc"] == pytest.approx(0.6)
    assert ssd["std"]["personal_acc"] == pytest.approx(0.02**0.5)
    assert ssd["gap_to_retrain"]["personal_acc"] == pytest.approx(-0.25)
    assert [one["gap_to_retrain"]["personal_acc"] for one in ssd["runs"]] == pytest.approx([-0.3, -0.2])


def test_nothing_is_compared_without_the_oracle() -> None:
    with pytest.raises(InputError, match="oracle"):
        assemble("digits", "Digits", [run("ssd", 0)])
    with pytest.raises(InputError, match="oracle"):
        assemble("digits", "Digits", [run("retrain", 0), run("ssd", 1)])


def test_targets_that_are_reached() -> None:
    targets = assemble("digits", "Digits", runs())["targets"]
    assert len(targets) == 11
    assert all(target["reached"] for target in targets)
    assert next(t for t in targets if "relearning" in t["description"])["measured"] == pytest.approx(10)
    assert next(t for t in targets if "SCRUB" in t["description"])["measured"] == pytest.approx(-5)


@pytest.mark.parametrize(
    ("ours", "missed"),
    [
        ({"forget_acc": 0.031, "int8_forget_acc": 0.03, "int4_forget_acc": 0.03}, "forget accuracy within"),
        ({"undone_forget_acc": 0.26}, "best attack without data"),
        ({"kshot_forget_acc": curve(0.1, 0.25, 0.51, 0.7)}, "relearning"),
        ({"kshot_forget_acc": curve(0.16, 0.25, 0.4, 0.7)}, "SCRUB"),
        ({"personal_acc": 0.884}, "personal accuracy"),
        ({"retain_acc": 0.889}, "retain accuracy"),
        ({"test_acc": 0.889}, "test accuracy"),
        ({"mia_auc": 0.44}, "membership"),
        ({"mia_auc": 0.56}, "membership"),
        ({"undone_mia_auc": 0.56}, "after that attack"),
        ({"int8_forget_acc": 0.04}, "INT8"),
        ({"int4_forget_acc": 0.06}, "INT4"),
    ],
)
def test_targets_that_are_missed(ours: dict[str, Any], missed: str) -> None:
    targets = assemble("digits", "Digits", runs(**ours))["targets"]
    assert (
        [t["description"] for t in targets if not t["reached"]]
        == [t["description"] for t in targets if missed in t["description"]]
        != []
    )


def test_targets_are_also_judged_on_the_seeds_that_nothing_was_chosen_on() -> None:
    seen = [{**one, "seed": 2} if one["seed"] else one for one in runs()]
    unseen = [{**one, "seed": 3 + one["seed"]} for one in runs(undone_forget_acc=0.256)]
    results = assemble("digits", "Digits", [*seen, *unseen])
    apart = {
        name: next(t for t in judge(results["methods"], seeds) if "without data" in t.description)
        for name, seeds in {"all": (), "seen": (0, 2), "unseen": (3, 4)}.items()
    }
    assert {name: t.measured for name, t in apart.items()} == pytest.approx({"all": 4.8, "seen": 4.0, "unseen": 5.6})
    assert {name: t.reached for name, t in apart.items()} == {"all": True, "seen": True, "unseen": False}
    row = next(line for line in page([results]).splitlines() if "without data at most" in line)
    assert row.endswith("| 4.8 points | yes | 5.6 points | no |")
    assert "on seeds 3 to 4 alone" in page([results])
    assert "alone | reached" not in page([assemble("digits", "Digits", seen)])


def test_targets_need_all_that_they_compare() -> None:
    methods = assemble("digits", "Digits", runs())["methods"]
    for name in ("original", "retrain", "targeted-tuned"):
        assert judge({other: entry for other, entry in methods.items() if other != name}) == []
    without = judge({other: entry for other, entry in methods.items() if other != "scrub"})
    assert [target for target in without if "SCRUB" in target.description] == []


def test_the_table_has_a_row_per_method_and_a_column_per_number() -> None:
    lines = table(assemble("digits", "Digits", runs())).splitlines()
    assert len(lines) == 2 + 4
    assert all(line.count("|") == len(COLUMNS) + 2 for line in lines)
    assert "| **targeted Group-OBS, trained on** | 2.0 ± 0.0 |" in lines[-1]
    single = assemble("digits", "Digits", [one for one in runs() if one["seed"] == 0])
    assert "±" not in table(single)


def test_the_page_is_made_from_json_alone(tmp_path: Path) -> None:
    results = assemble("digits", "Digits", runs())
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "digits.json").write_text(json.dumps(results))
    write_page(tmp_path / "results", tmp_path / "docs")
    text = (tmp_path / "docs" / "results.md").read_text()
    assert text == page([json.loads(json.dumps(results))])
    assert "`abc`" in text
    for missing in not_measured(results):
        assert f"* {METHODS[missing].label}: {METHODS[missing].source}" in text, "not measured, but named"
    for name in ("undone", "kshot", "cost", "accuracy", "density", "curve"):
        assert (tmp_path / "docs" / "results" / f"digits-{name}.png").exists()
        assert f"results/digits-{name}.png" in text


def test_results_of_nothing_or_another_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results"):
        read_results(tmp_path)
    other = copy.deepcopy(assemble("digits", "Digits", runs()))
    other["format"] = 2
    (tmp_path / "digits.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match="of this release"):
        read_results(tmp_path)


def test_the_documentation_shows_the_committed_results() -> None:
    found = read_results(ROOT / "results")
    flower = read_runs(ROOT / "results" / "runs")
    shown = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert shown == page(found, flower), "run `make results`"
    for results in found:
        assert all("dirty" not in commit for commit in results["commits"])
        if "kind" not in results:
            methods = scenario_config(results["scenario"]).methods
            assert sorted([*results["methods"], *not_measured(results)]) == sorted(methods)
            missing = {METHODS[name].label for name in not_measured(results)}
            section_text = shown.partition(f"## `{results['scenario']}`\n")[2].partition("\n## ")[0]
            assert all(label in section_text for label in missing)
            assert ("**Not measured yet**" in section_text) == bool(missing)
        if results.get("kind") == "margins":  # a seed of this one is many trainings
            assert all(seed["models"] >= 36 for seed in results["seeds"])
        else:
            assert len(results["seeds"]) >= 3
    assert {one["name"] for one in flower} == set(SCENARIOS)
    for one in flower:
        assert one["settings"]["scenario"] == one["name"]
        assert "dirty" not in one["commit"]
        assert not any(Path(one["settings"][name]).is_absolute() for name in ("data", "model"))


def summary(name: str = "pacs", audit: str = "sampled") -> dict[str, Any]:
    """A demo's: two clients proved, one was caught."""
    scores = {"forget": 0.25, "retain": 0.5, "personal": 0.75}
    costs = {"chunks": 200, "prove_cpu_s": 100.0, "prover_peak_rss_mb": 500.0, "proof_bytes": 5e4, "verify_s": 2.0}
    clients = [
        {"verdict": verdict, "chunks_proved": proved, **costs}
        for verdict, proved in (("proved", 20), ("proved", 22), ("quarantined", 0))
    ]
    settings = {**SHOWN, "scenario": name, "audit": audit, "audit_cheating": 0.2, "audit_detect": 0.99}
    accuracy = dict.fromkeys(("before", "masked", "after"), scores)
    return {
        "name": name, "settings": settings, "commit": "abc", "forgotten": "dogs", "clients": clients,
        "accuracy": accuracy, "oracle": {**scores, "personal": None},
    }  # fmt: skip


def test_runs_of_flower_are_shown_beside_the_evaluations(tmp_path: Path) -> None:
    results = assemble("digits", "Digits", runs())
    (tmp_path / "results" / "runs").mkdir(parents=True)
    (tmp_path / "results" / "digits.json").write_text(json.dumps(results))
    (tmp_path / "results" / "runs" / "pacs.json").write_text(json.dumps(summary()))
    write_page(tmp_path / "results", tmp_path / "docs")
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "| `pacs` | dogs | before | 25.0 | 50.0 | 75.0 |" in text
    assert "|  |  | oracle | 25.0 | 50.0 | - |" in text
    assert "| `pacs` | 2 of 3 | 1 | 21 of 200 | 100 | 500 | 50 | 2.0 | `abc` |" in text
    assert "whoever leaves 20 % of them undone is found out with probability 99 %" in text
    assert "drawn at random" not in section([summary(audit="full")])


@pytest.mark.parametrize("lost", [None, "settings", "forgotten", "clients", "accuracy"])
def test_what_is_no_summary_is_refused(tmp_path: Path, lost: str | None) -> None:
    found = {name: value for name, value in summary().items() if name != lost}
    (tmp_path / "digits.json").write_text(json.dumps(found if lost else []))
    with pytest.raises(InputError, match="of this release"):
        read_runs(tmp_path)


@pytest.mark.parametrize("other", [{"seed": 1}, {"dishonest": 0}, {"cheat": "ignore"}, {"operator": "mask-only"}])
def test_a_run_of_another_kind_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    found = summary()
    found["settings"] |= other
    (tmp_path / "digits.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match="is a run with"):
        read_runs(tmp_path)


def test_a_run_in_which_nobody_proved_is_refused() -> None:
    nobody = summary()
    nobody["clients"] = nobody["clients"][2:]
    with pytest.raises(InputError, match="nobody proved"):
        section([nobody])

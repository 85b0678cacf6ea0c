"""Studies: what they measure, what they write, how they go on, what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import here
from evaluation import TINY

from zkapex.errors import InputError, StorageError
from zkapex.server.requests.plan import load_plan
from zkapex.simulation.evaluation.metrics.klom import klom
from zkapex.simulation.evaluation.report.report import read_results, write_page
from zkapex.simulation.evaluation.report.study import plot, table
from zkapex.simulation.evaluation.studies import STUDIES, run_study, what_is_called
from zkapex.simulation.evaluation.studies.concentration import ConcentrationStudy
from zkapex.simulation.evaluation.studies.directions import DirectionsStudy
from zkapex.simulation.evaluation.studies.margins import KINDS, MarginsStudy
from zkapex.simulation.evaluation.studies.scorers import ScorerStudy
from zkapex.simulation.evaluation.studies.sequence import CHAINS, SequenceStudy, World
from zkapex.simulation.models.tiny import ViTConfig
from zkapex.simulation.scenarios import SCENARIOS
from zkapex.storage import load_arrays
from zkapex.unlearning.personalise import FitSettings
from zkapex.unlearning.planning.opponent import Opponent

SEQUENCE = SequenceStudy("digits-sequence", "Two requests", TINY, classes=1, between=FitSettings(1, 1e-3))
WIDE = replace(TINY, model=ViTConfig(hidden=128), space=replace(TINY.space, fractions=(0.02,)))
CHUNKS = ConcentrationStudy("digits-chunks", "Fewer chunks", WIDE, (0.0, 1.0))
SHORT = Opponent(rank=1, steps=2, shots=(), prototypes=0.0)
DIRECTIONS = DirectionsStudy(
    "digits-directions", "Two requests", replace(TINY, tuned=FitSettings(1, 1e-3)), 1, 25, SHORT, SHORT
)
MARGINS = MarginsStudy(
    "digits-klom", "Two trainings", replace(TINY, targeted=()), 2, ("original", "retrain", "mask-only"), 20
)
SCORED = ScorerStudy("digits-scorers", "Two scorers", TINY, fraction=0.03, scorers=("taylor", "magnitude"))


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("sequence") / "out"
    return out, run_study(SEQUENCE, 1, out)


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("chunks") / "out"
    return out, run_study(CHUNKS, 1, out)


@pytest.fixture(scope="module")
def directions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("directions") / "out"
    return out, run_study(DIRECTIONS, 1, out)


@pytest.fixture(scope="module")
def margins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("margins") / "out"
    return out, run_study(MARGINS, 1, out)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("scored") / "out"
    return out, run_study(SCORED, 1, out)


def test_requests_are_disjoint_and_what_is_left_is_the_rest() -> None:
    world = World.make(STUDIES["digits-sequence"], 1)  # type: ignore[arg-type]
    assert len(world.requests) == 10
    total = sum(len(client.labels) for client in world.clients)
    gone = 0
    for step in range(1, 11):
        forget = world.forget(step)
        gone += len(forget.labels)
        assert sum(len(train.labels) for train in world.train(step)) == total - gone
        if step % 2:
            label = world.deleted[step // 2]
            assert set(forget.labels.tolist()) == {label}
            assert all((train.labels != label).all() for train in world.train(step))
        else:
            assert not set(forget.labels.tolist()) & set(world.deleted)
    personal, replay, judged = world.proxy(0, 10)
    for examples in (personal, replay, judged, world.personal(0, 0), *world.train(10)):
        assert not set(examples.labels.tolist()) & set(world.deleted)
    assert torch.equal(World.make(SEQUENCE, 1).clients[0].inputs, world.clients[0].inputs)


@pytest.mark.slow
def test_a_sequence_measures_every_chain_after_every_request(sequence: tuple[Path, dict[str, Any]]) -> None:
    out, results = sequence
    (seed,) = results["seeds"]
    assert [step["step"] for step in seed["steps"]] == [0, 1, 2]
    assert [step["request"].split()[-1] for step in seed["steps"][::2]] == ["before", "images"]
    density = [step["density"] for step in seed["steps"]]
    assert density[0] == 0
    assert density[1] == pytest.approx(0.02, abs=1e-3)
    assert density[2] == pytest.approx(0.025, abs=1e-3)
    for step in seed["steps"][1:]:
        assert set(step["chains"]) == set(CHAINS)
        for chain in step["chains"].values():
            assert all(0 <= value <= 1 for moment in ("after", "later") for value in chain[moment].values())
    assert set(seed["oracle"]) == set(seed["steps"][2]["chains"]["mask-only"]["after"])
    assert seed["oracle"]["forget_acc"] == 0.0
    first, last = (load_arrays(out / "seeds" / "0" / f"step-0{n}-masks.npz") for n in (1, 2))
    assert all((last[name] >= first[name]).all() for name in first)


@pytest.mark.slow
def test_masked_weights_stay_zero_while_clients_go_on(sequence: tuple[Path, dict[str, Any]]) -> None:
    out, _ = sequence
    folder = out / "seeds" / "0"
    models, masks = load_arrays(folder / "step-02.npz"), load_arrays(folder / "step-02-masks.npz")
    seen = 0
    for name, value in models.items():
        layer = name.partition("/")[2].removesuffix(".weight")
        if layer in masks and name.endswith(".weight"):
            assert not value[masks[layer].astype(bool)].any()
            seen += 1
    assert seen == len(masks) * (4 * len(CHAINS) + 1 + TINY.proxies)


@pytest.mark.slow
def test_a_sequence_goes_on_where_it_was(sequence: tuple[Path, dict[str, Any]]) -> None:
    out, results = sequence
    folder = out / "seeds" / "0"
    for name in ("result.json", "step-02.npz", "step-02.json", "step-02-masks.npz"):
        (folder / name).unlink()
    events: list[dict[str, Any]] = []
    again = run_study(SEQUENCE, 1, out, events.append)
    assert [event["stage"] for event in events if event["event"] == "stage"] == ["step-02"]
    assert again["seeds"][0]["steps"] == results["seeds"][0]["steps"]


def test_concentration_saves_chunks_at_the_same_size(chunks: tuple[Path, dict[str, Any]]) -> None:
    _, results = chunks
    (seed,) = results["seeds"]
    scattered, filled = seed["rows"]
    assert scattered["chosen"]["masked_weights"] == filled["chosen"]["masked_weights"]
    assert filled["chosen"]["touched_chunks"] < scattered["chosen"]["touched_chunks"] <= seed["chunks"]
    assert seed["chunks"] == 16


def test_every_scorer_masks_as_many_weights_and_others(scored: tuple[Path, dict[str, Any]]) -> None:
    out, results = scored
    (seed,) = results["seeds"]
    assert [row["scorer"] for row in seed["rows"]] == ["taylor", "magnitude"]
    assert {row["chosen"]["masked_weights"] for row in seed["rows"]} == {round(0.03 * seed["weights"])}
    plans = [load_plan(out / "seeds" / "0" / f"plan-{scorer}") for scorer in SCORED.scorers]
    assert all(plan is not None and plan.steering for plan in plans)
    assert any((plans[0].masks[name] != plans[1].masks[name]).any() for name in plans[0].masks)  # type: ignore[union-attr]
    for row in seed["rows"]:
        assert row["plain"] != row["steered"]
        assert row["mask_only"].keys() == seed["before"].keys() == row["plain"].keys()


def test_a_repair_that_leaves_the_range_is_shown_as_such(scored: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    results = json.loads(json.dumps(scored[1]))
    results["seeds"][0]["rows"][1]["plain"] = None
    assert table(results).splitlines()[-1].count("out of range") == 3
    plot(results, tmp_path / "study.png")
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_what_one_request_prescribes_stands_in_all_later_ones(directions: tuple[Path, dict[str, Any]]) -> None:
    out, results = directions
    (seed,) = results["seeds"]
    assert [step["step"] for step in seed["steps"]] == [0, 1, 2]
    first, second = (load_plan(out / "seeds" / "0" / f"step-0{number}") for number in (1, 2))
    assert first is not None
    assert second is not None
    assert first.targets.keys() == second.targets.keys()
    models = load_arrays(out / "seeds" / "0" / "step-02-models.npz")
    for (name, block), values in first.targets.items():
        v = first.guards[name][block]
        assert v[:, 0].any()
        assert not v[:, 1].any()
        assert np.array_equal(second.guards[name][block][:, 0], v[:, 0])
        assert np.array_equal(second.targets[name, block][:, 0], values[:, 0])
        weight = models[f"0/{name}.weight"].astype(np.float64)
        exponent = next(e for e in range(40) if not np.modf(weight * 2.0**e)[0].any())  # of the integers enrolled
        own = weight[:, block * len(v) : (block + 1) * len(v)] * 2.0**exponent
        along = own @ v[: own.shape[1], 0]
        assert np.abs(along - values[:, 0]).max() <= np.abs(v[:, 0]).sum()  # half a unit of each weight, twice rounded
    attacked = seed["attacked"]
    assert [row["digit"] for row in attacked["unlearned"]] == [row["digit"] for row in attacked["oracle"]]
    assert all(row["undone_5"] >= row["undone"] >= row["forget"] for rows in attacked.values() for row in rows)


@pytest.mark.slow
def test_margins_of_many_trainings_are_compared_with_those_of_other_oracles(
    margins: tuple[Path, dict[str, Any]],
) -> None:
    out, results = margins
    (seed,) = results["seeds"]
    assert seed["models"] == 4
    assert seed["examples"] == dict.fromkeys(KINDS, 20)
    assert [row["method"] for row in seed["rows"]] == list(MARGINS.methods)
    assert all(0 <= row[kind]["mean"] <= row[kind]["p95"] <= 11.6 for row in seed["rows"] for kind in KINDS)
    folder = out / "seeds" / "0"
    first, second = (load_arrays(folder / f"training-{number:02}" / "margins.npz") for number in (0, 1))
    oracles = [load_arrays(folder / f"oracles-{number:02}.npz") for number in (2, 3)]
    assert not (folder / "oracles-01.npz").exists()  # that one shares its initial weights with a model that unlearns
    for kind in KINDS:
        assert first[f"original/{kind}"].shape == (2, 20)
        assert not np.array_equal(first[f"original/{kind}"], second[f"original/{kind}"])
        unlearned = np.concatenate([first[f"mask-only/{kind}"], second[f"mask-only/{kind}"]])
        far = klom(unlearned, np.concatenate([one[kind] for one in oracles]))
        assert seed["rows"][2][kind]["mean"] == pytest.approx(far.mean())


@pytest.mark.slow
def test_margins_go_on_where_they_were(margins: tuple[Path, dict[str, Any]]) -> None:
    out, results = margins
    folder = out / "seeds" / "0"
    for name in ("result.json", "training-01/margins.npz", "oracles-03.npz"):
        (folder / name).unlink()
    events: list[dict[str, Any]] = []
    again = run_study(MARGINS, 1, out, events.append)
    assert [event["stage"] for event in events if event["event"] == "stage"] == ["margins", "oracles-03"]
    assert again["seeds"][0]["rows"] == results["seeds"][0]["rows"]


@pytest.mark.parametrize(
    "which",
    [
        "chunks",
        "scored",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("sequence", "directions", "margins")),
    ],
)
def test_reports_are_made_from_json_alone(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    out, first = request.getfixturevalue(which)
    results = json.loads((out / "results.json").read_text())
    assert results.keys() == first.keys()
    for rows in (out / "table.md").read_text().split("\n\n"):
        assert len({line.count("|") for line in rows.splitlines()}) == 1
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "study.json").write_text(json.dumps(results))
    write_page(tmp_path / "results", tmp_path / "docs")
    plot = f"results/{results['scenario']}-study.png"
    assert plot in (tmp_path / "docs" / "results.md").read_text()
    assert (tmp_path / "docs" / plot).read_bytes().startswith(b"\x89PNG")
    assert (out / "study.png").exists()
    assert read_results(tmp_path / "results") == [results]


def test_what_makes_no_sense_is_refused(chunks: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = chunks
    with pytest.raises(InputError, match="another evaluation"):
        run_study(replace(CHUNKS, concentrations=(0.5,)), 1, out)
    with pytest.raises(InputError, match="--seeds"):
        run_study(CHUNKS, 0, tmp_path / "out")
    path = out / "seeds" / "0" / "result.json"
    kept = path.read_text()
    path.write_text("{}")
    with pytest.raises(StorageError, match=r"result\.json"):
        run_study(CHUNKS, 1, out)
    path.write_text(kept)
    with pytest.raises(InputError, match="no scenario 'letters'"):
        what_is_called("letters")
    assert {what_is_called(name).name for name in (*SCENARIOS, *STUDIES)} == {*SCENARIOS, *STUDIES}


def test_the_command_line_shows_the_table(
    chunks: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, results = chunks
    monkeypatch.setattr("zkapex.simulation.evaluation.studies.STUDIES", {"digits-chunks": CHUNKS})
    command = ["evaluate", "digits-chunks", "--seeds", "1", "--out", out]
    assert here(*command) == 0
    assert "| concentration | masked | chunks touched |" in capsys.readouterr().out
    assert here(*command, "--json") == 0
    assert json.loads(capsys.readouterr().out) == results
    assert here(*command, "--methods", "ssd") == 10
    assert "leave --methods out" in capsys.readouterr().err

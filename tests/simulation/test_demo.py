"""The demo's folder: what it refuses, what it replaces, and one real demo, interrupted and resumed, through Flower."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import here, start, zkapex
from federation import DATA_SETS, refused, snapshot
from writers import arrays

from zkapex.errors import InputError, RuntimeFailure, StorageError
from zkapex.proofs.records.signing import load_public_key
from zkapex.proofs.verify import verify_receipt
from zkapex.simulation.demo import demo
from zkapex.simulation.demo.demo import ARTEFACTS, Reference, run_demo, summarise
from zkapex.simulation.demo.settings import DemoSettings

SMALL = DemoSettings(clients=2, dishonest=1)
NOBODY = Reference("the digit 3", {})
SETTINGS = {
    "scenario": "digits", "data": "", "model": "", "classes": 0, "pixels": 0,
    "clients": 2, "dishonest": 1, "cheat": "half",
    "delete": "class", "forget_class": 3, "holder": -1, "forget_samples": 30, "seed": 0,
    "operator": "targeted-group-obs", "curvature": "kfac", "backend": "halo2",
    "audit": "full", "audit_detect": 0.99, "audit_cheating": 0.01,
    "prove_curvature": False, "requests": 1, "others": {},
}  # fmt: skip


def go(out: Path, settings: DemoSettings = SMALL, *, resume: bool = False, fresh: bool = False) -> dict[str, Any]:
    return run_demo(settings, out, resume=resume, fresh=fresh, on_event=lambda event: None)


@pytest.fixture
def no_flower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run ends before Flower starts: here it is about what comes before."""

    def fails(*arguments: object, **options: object) -> None:
        raise RuntimeFailure("Flower is not to be started")

    monkeypatch.setattr(demo, "run_flower", fails)


# -- folders


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    before = snapshot(tmp_path)
    for fresh in (False, True):
        assert "not empty" in refused(lambda fresh=fresh: go(tmp_path, fresh=fresh), InputError).what
    assert snapshot(tmp_path) == before


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    assert "not a folder" in refused(lambda: go(tmp_path / "out"), InputError).what


def test_there_is_nothing_to_resume(tmp_path: Path) -> None:
    assert "no demo" in refused(lambda: go(tmp_path / "out", resume=True), InputError).what
    assert not (tmp_path / "out").exists()


def test_resume_and_fresh_exclude_each_other(tmp_path: Path) -> None:
    refused(lambda: go(tmp_path / "out", resume=True, fresh=True), InputError)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_demo_asks_what_to_do(tmp_path: Path, no_flower: None) -> None:
    out = tmp_path / "a" / "b"
    refused(lambda: go(out), RuntimeFailure)
    (out / "provider").mkdir()
    (out / "provider" / "work").write_text("half done")
    error = refused(lambda: go(out), InputError)
    assert "--resume" in error.fix
    assert "--fresh" in error.fix
    other = DemoSettings(clients=3)
    assert "'clients': 2" in refused(lambda: go(out, other, resume=True), InputError).why
    refused(lambda: go(out, resume=True), RuntimeFailure)
    assert (out / "provider" / "work").exists()
    refused(lambda: go(out, other, fresh=True), RuntimeFailure)
    assert not (out / "provider").exists()
    assert json.loads((out / "demo.json").read_text())["settings"]["clients"] == 3


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"scenario": "mnist-writers"}, "needs a file"),
        ({"scenario": "mnist-writers", "data": "/nowhere.npz"}, "there is no file"),
        ({"others": {"rounds": 0}}, "rounds"),
        ({"others": {"profile": "large"}}, "profile"),
        ({"others": {"request-id": "A B"}}, "request-id"),
        ({"others": {"forget-target": float("nan")}}, "forget-target"),
        ({"model": "facebook/opt-125m"}, "reads no model"),
    ],
)
def test_what_cannot_run_is_said_before_anything_is_written(tmp_path: Path, given: dict[str, Any], what: str) -> None:
    out = tmp_path / "out"
    assert what in refused(lambda: go(out, DemoSettings(**given)), InputError).what
    assert not out.exists()


def test_a_demo_goes_on_with_the_data_it_was_started_with(tmp_path: Path, no_flower: None) -> None:
    data, out = tmp_path / "writers.npz", tmp_path / "out"
    np.savez(data, **arrays())
    settings = DemoSettings("mnist-writers", data=str(data))
    refused(lambda: go(out, settings), RuntimeFailure)
    refused(lambda: go(out, settings, resume=True), RuntimeFailure)
    np.savez(data, **arrays(images=30))
    assert "have changed" in refused(lambda: go(out, settings, resume=True), InputError).what
    refused(lambda: go(out, settings, fresh=True), RuntimeFailure)


def test_a_finished_demo_is_replaced_and_what_is_not_the_demos_stays(tmp_path: Path, no_flower: None) -> None:
    for name in ARTEFACTS:
        (tmp_path / name).write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "demo.json").write_text(json.dumps({"settings": SETTINGS, "finished": True}))
    refused(lambda: go(tmp_path), RuntimeFailure)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "demo.json"}
    mark = {"settings": SETTINGS, "sources": {}, "finished": False}
    assert json.loads((tmp_path / "demo.json").read_text()) == mark


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "{}", '{"settings": {"x": 1}, "finished": true}', '{"settings": {"clients": 99}, "finished": 1}'],
)
def test_a_damaged_marker(tmp_path: Path, no_flower: None, text: str) -> None:
    (tmp_path / "demo.json").write_text(text)
    for resume in (False, True):
        assert "--fresh" in refused(lambda resume=resume: go(tmp_path, resume=resume), StorageError).fix
    refused(lambda: go(tmp_path, fresh=True), RuntimeFailure)


def test_a_damaged_result(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text(json.dumps({"settings": SETTINGS, "finished": False}))
    (tmp_path / "result.json").write_text('{"clients": [')
    assert "result.json" in refused(lambda: go(tmp_path, resume=True), StorageError).what


@pytest.mark.parametrize("out", ["/proc/zkapex-demo", "/sys/zkapex-demo", "/dev/null/zkapex-demo"])
def test_a_place_that_cannot_be_written(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(lambda: go(Path(out)), StorageError)
    assert "--out" in error.fix
    assert here("demo", "--out", out, "--json") == 12
    assert json.loads(capsys.readouterr().out)["error"] == "StorageError"


def test_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text(json.dumps({"settings": SETTINGS, "finished": True}))
    (tmp_path / ".demo.json.partial").symlink_to("/dev/full")
    assert "No space left" in refused(lambda: go(tmp_path), StorageError).why


# -- the summary


def client(verdict: str, **accuracy: dict[str, float]) -> dict[str, Any]:
    return {"verdict": verdict, "accuracy": accuracy}


def test_accuracy_is_the_mean_over_proved_clients_that_tell_theirs() -> None:
    def scores(value: float) -> dict[str, dict[str, float]]:
        return {state: dict.fromkeys(DATA_SETS, value) for state in ("before", "masked", "after")}

    clients = [
        client("proved", **scores(0.2)),
        client("proved", **scores(0.4)),
        client("quarantined", **scores(1.0)),
        client("proved"),  # its evaluation was lost
        client("proved", before={"forget": 1.0}),
    ]
    result = {"clients": clients, "global": {}, "plan": {}, "request_id": "r"}
    accuracy = summarise(result, NOBODY, SMALL)["accuracy"]
    assert set(accuracy) == {"before", "masked", "after"}
    for values in accuracy.values():
        assert values == pytest.approx(dict.fromkeys(DATA_SETS, 0.3))
    assert summarise(result, NOBODY, SMALL)["not_enrolled"] == []
    outsider = {"node": "12", "reason": "enrol: the battery is empty"}
    assert summarise({**result, "not_enrolled": [outsider]}, NOBODY, SMALL)["not_enrolled"] == [outsider]
    nobody = summarise({**result, "clients": clients[2:]}, NOBODY, SMALL)["accuracy"]
    assert nobody["after"] == dict.fromkeys(DATA_SETS)


# -- the demo itself


def interrupt(out: Path, command: tuple[object, ...]) -> int:
    """Start a demo, and interrupt it as soon as the model is trained; when that was written, in ns."""
    process = start(*command)
    events = out / "events.jsonl"
    while process.poll() is None and not (events.exists() and '"personalise.started"' in events.read_text()):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, ""), stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    code, _, stderr = zkapex(*command)
    assert code == 10
    assert "interrupted demo" in stderr
    assert zkapex(*command, "--resume", "--seed", "1")[0] == 10
    return (out / "provider" / "global.npz").stat().st_mtime_ns


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("backend", "interrupted"),
    [
        ("transparent", False),
        pytest.param("transparent", True, marks=pytest.mark.slow),
        pytest.param("halo2", True, marks=pytest.mark.slow),
    ],
)
def test_the_demo_finishes_also_when_it_is_interrupted_and_resumed(
    tmp_path: Path, backend: str, interrupted: bool
) -> None:
    out = tmp_path / "demo"
    small = ("--clients", "2", "--dishonest", "1", "--operator", "mask-only", "--backend", backend)
    command = ("demo", "--out", out, *small, "--json")

    if interrupted:
        model = interrupt(out, command)
        code, stdout, stderr = zkapex(*command, "--resume")
        assert (out / "provider" / "global.npz").stat().st_mtime_ns == model, "trained again"
    else:
        code, stdout, stderr = zkapex(*command)
    assert code == 0, stderr
    summary = json.loads(stdout.splitlines()[-1])
    assert summary == json.loads((out / "summary.json").read_text())
    file = {"rounds": 5, "personal-epochs": 15, "personal-lr": 0.001, "profile": "tiny"}
    assert summary["settings"] == {
        **SETTINGS,
        "operator": "mask-only",
        "backend": backend,
        "others": {**file, "forget-target": 0.02, "retain-cost": 0.03},
    }
    assert summary["forgotten"] == "the digit 3"

    verdicts = {row["verdict"]: row for row in summary["clients"]}
    assert set(verdicts) == {"proved", "quarantined"}
    for row in summary["clients"]:
        assert row.keys() >= {
            "id", "verdict", "reason", "chunks", "prove_cpu_s", "prover_peak_rss_mb", "proof_bytes", "verify_s",
        }  # fmt: skip
    proved = verdicts["proved"]
    assert proved["chunks"] == proved["chunks_proved"] > 0
    assert "masked weights are zero" in verdicts["quarantined"]["reason"]
    assert verify_receipt(out / proved["receipt"], [load_public_key(out / "key.pub")]).chunks == proved["chunks"]
    accuracy = summary["accuracy"]
    assert {state: set(values) for state, values in accuracy.items()} == {
        state: set(DATA_SETS) for state in ("before", "masked", "after")
    }
    assert accuracy["before"]["forget"] > 0.5
    assert accuracy["after"]["forget"] < 0.3
    assert {path.name for path in out.iterdir()} >= {"receipts", "models", "plot.png", "key.pub", "result.json"}
    assert {path.name for path in (out / "models").iterdir()} == {
        *(f"{who}-{when}.npz" for who in ("global", "client-000", "client-001") for when in ("before", "after")),
        *(f"oracle-00{index}.npz" for index in (0, 1)),
    }

    code, stdout, _ = zkapex(*command, "--resume")  # a finished demo only tells again
    assert (code, json.loads(stdout)) == (0, summary)


@pytest.mark.slow
@pytest.mark.parametrize("delete", ["client", "samples"])
def test_a_client_deletes_data_that_only_it_has(tmp_path: Path, delete: str) -> None:
    out = tmp_path / "demo"
    command = (
        "demo",
        "--out",
        out,
        "--clients",
        "3",
        "--dishonest",
        "0",
        "--delete",
        delete,
        "--holder",
        "1",
        "--json",
    )
    code, stdout, stderr = zkapex(*command)
    assert code == 0, stderr
    summary = json.loads(stdout.splitlines()[-1])
    assert [row["verdict"] for row in summary["clients"]] == ["proved"] * 3
    holder = summary["proposal"]["holder"]
    assert holder in {row["client_id"] for row in summary["clients"]}
    accuracy = summary["accuracy"]
    assert accuracy["after"]["forget"] < accuracy["before"]["forget"]
    assert accuracy["after"]["retain"] > accuracy["before"]["retain"] - 0.1
    assert summary["oracle"]["forget"] > 0.8
    row = next(row for row in summary["clients"] if row["client_id"] == holder)
    verify_receipt(out / row["receipt"], [load_public_key(out / "key.pub")])

"""Benchmarks measure what they say, on chunks that satisfy the statement."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import here, zkapex
from tiny import spec, tiny

from zkapex.circuits.profiles import named_statement
from zkapex.cli.progress import duration
from zkapex.costs import bench
from zkapex.costs.bench import BenchSettings, Proofs, cells_per_weight, rates
from zkapex.costs.workload import Shape, random_mask, random_workload
from zkapex.errors import InputError
from zkapex.proofs.chunk.witness import square_sums
from zkapex.proofs.jobs.worker import Cost

WANTED = {
    "weights", "chunks", "cpu_ms_per_weight", "proof_bytes_per_weight", "verify_cpu_us_per_weight",
    "prover_peak_rss_mb", "proving_key_mb", "setup_s", "rows", "log2_rows", "cells_per_weight",
}  # fmt: skip


def test_one_json_object_with_everything_asked_for() -> None:
    code, out, _ = zkapex("bench", "proof", "--profile", "tiny", "--chunks", "1", "--json")
    assert code == 0
    found = json.loads(out)
    assert found.keys() >= WANTED
    built = tiny()
    assert (found["weights"], found["chunks"], found["log2_rows"]) == (built.spec.weights, 1, built.spec.log2_rows)
    assert (found["rows"], found["cells_per_weight"]) == (built.rows, cells_per_weight(built))
    assert found["proof_bytes_per_weight"] == built.proof_bytes / built.spec.weights
    assert 0.5 < found["cpu_ms_per_weight"] < 20
    assert 5 < found["verify_cpu_us_per_weight"] < 1000
    assert 100 < found["prover_peak_rss_mb"] < 250
    assert found["setup_s"] > 1


@pytest.mark.parametrize(
    "options",
    [
        ["--profile", "huge"],
        ["--curvature", "none"],
        ["--guard-rank", "-1"],
        ["--guard-rank", "65"],
        ["--chunks", "0"],
        ["--workers", "0"],
        ["--block-width", "1"],
        ["--log2-rows", "20"],
    ],
)
def test_what_cannot_be_measured_is_an_input_error(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert here("bench", "proof", "--json", *options) == 10
    assert json.loads(capsys.readouterr().out)["error"] == "InputError"


def test_a_workload_satisfies_the_statement_wherever_its_mask_falls() -> None:
    """Ragged layers, one of them without a masked weight, and guards of every block."""
    shapes = [Shape("fc1", 40, 64), Shape("fc2", 33, 20), Shape("fc3", 5, 5)]
    masks = random_mask(shapes[:2], 0.02, np.random.default_rng(0)) | {"fc3": np.zeros((5, 5), np.bool_)}
    work = random_workload(tiny(), shapes, masks, seed=1)
    assert work.instance.touched
    for chunk in work.instance.touched:
        public, witness = work.instance.public(chunk), work.change.witness(work.holdings, chunk)
        assert not (witness.theta_u.values * public.mask).any()
        sums = square_sums(witness.residuals(tiny().spec, public), public.mask)
        assert all(0 <= s <= slack.largest for s, slack in zip(sums, public.slacks(tiny().spec), strict=True))


def test_rates_are_measured_once(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zkapex.costs.calibration.cache_root", lambda: tmp_path_factory.mktemp("cache", False))
    monkeypatch.setattr(bench, "circuit", lambda spec, srs: tiny())
    asked: list[tuple[int, int | None]] = []

    def measured(built: object, chunks: int, workers: int | None) -> Proofs:
        asked.append((chunks, workers))
        return Proofs([Cost(1.5, 150.0), Cost(2.5, 160.0)], [0.04, 0.06], 4.0, 2)

    monkeypatch.setattr(bench, "prove_and_verify", measured)
    found = rates(spec())
    assert (found.prove_cpu_s, found.peak_rss_mb, found.proof_bytes) == (2.0, 160.0, tiny().proof_bytes)
    assert found.verify_cpu_s == pytest.approx(0.05)
    assert 0 < found.commit_cpu_s < 5
    assert len(asked) == 1


def test_statements_are_those_of_the_profiles() -> None:
    solve = "guarded-group-obs"
    assert named_statement("tiny", solve, "kfac", 4, True) == spec()
    assert named_statement("tiny", solve, "kfac", 0, True) == spec(guard_rank=0)
    assert named_statement("tiny", solve, "block-fisher", 4, False).curvature == "block-fisher"
    assert named_statement("edge", "mask-only", "kfac", 4, True).curvature == "none"
    with pytest.raises(InputError, match="unknown profile"):
        named_statement("none", solve, "kfac", 4, True)
    with pytest.raises(InputError, match="unknown statement"):
        named_statement("tiny", "none", "kfac", 4, True)
    assert BenchSettings().statement().log2_rows == 15


def test_other_sizes_than_the_profiles() -> None:
    changed = BenchSettings("tiny", guard_rank=0, rows_per_chunk=8, block_width=16, log2_rows=14).statement()
    assert changed == spec(guard_rank=0, rows_per_chunk=8, block_width=16, log2_rows=14)


def test_the_stages_of_a_proof() -> None:
    code, out, err = zkapex("bench", "stages", "--profile", "tiny", "--json")
    assert code == 0, err
    spent = json.loads(out)
    assert all(seconds >= 0 for seconds in spent.values())
    proving = sum(seconds for name, seconds in spent.items() if not name.startswith("verify"))
    assert spent["make the proof"] > proving / 2
    assert 0 < spent["read the proving key"] < proving / 4
    assert 0.5 < proving < 20


def test_times_for_people() -> None:
    assert [duration(s) for s in (0.4, 45, 720, 5400 * 4)] == ["0 s", "45 s", "12 min", "6.0 h"]

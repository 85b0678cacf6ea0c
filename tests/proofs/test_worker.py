"""A proving process: jobs on disk, results that appear whole, witnesses that vanish."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import CASES, built, case, empty, honest, honest_expected, tiny

from zkapex.proofs.chunk.prove import verify_chunk
from zkapex.proofs.jobs.worker import COST, PROOF, finished, forget_witness, peak_rss_mb, read_job, run_job, write_job


@pytest.mark.parametrize("name", CASES)
def test_jobs_round_trip(tmp_path: Path, name: str) -> None:
    chunk = honest(name)
    write_job(tmp_path / "job", chunk.public, chunk.witness)
    public, witness = read_job(tmp_path / "job")
    assert (public.mask == chunk.public.mask).all()
    assert (public.guard == chunk.public.guard).all()
    assert (public.tau_stationarity, public.tau_guard) == (chunk.public.tau_stationarity, chunk.public.tau_guard)
    assert public.context == chunk.public.context
    assert np.array_equal(public.dampening, chunk.public.dampening)
    read, wrote = witness.salted(), chunk.witness.salted()
    assert {n: v.vector() for n, v in read.items()} == {n: v.vector() for n, v in wrote.items()}
    assert np.array_equal(witness.mu, chunk.witness.mu)
    assert public.digest(case(name)) == chunk.public.digest(case(name))
    witness.private(case(name), public)


def test_a_job_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    write_job(folder, honest().public, honest().witness)
    for path in (folder, *folder.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_job_that_is_not_done_has_no_result(tmp_path: Path) -> None:
    assert finished(tmp_path) is None
    (tmp_path / COST).write_text('{"cpu_s": 1.0, "peak_rss_mb": 2.0}')
    assert finished(tmp_path) is None, "cost comes first, so a proof without cost cannot be"
    (tmp_path / PROOF).write_bytes(b"proof")
    found = finished(tmp_path)
    assert found is not None
    assert found[0] == b"proof"


@pytest.mark.parametrize("name", ["kfac", "mask-only", "dampening"])
def test_a_finished_job_has_a_valid_proof_and_no_witness(tmp_path: Path, name: str) -> None:
    write_job(tmp_path, honest(name).public, honest(name).witness)
    cost = run_job(built(name), tmp_path)
    found = finished(tmp_path)
    assert found is not None
    assert found[1] == cost
    assert 0 < cost.cpu_s < 60
    verify_chunk(built(name), honest(name).public, honest_expected(name), found[0], empty(name))
    assert {p.name for p in tmp_path.iterdir()} == {PROOF, COST}
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in tmp_path.iterdir())


def test_forgetting_twice_is_fine(tmp_path: Path) -> None:
    write_job(tmp_path, honest().public, honest().witness)
    forget_witness(tmp_path)
    forget_witness(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_peak_memory_is_this_programs_own() -> None:
    assert 10 < peak_rss_mb() < 100_000


def test_the_process_answers_every_line_and_survives_bad_jobs(tmp_path: Path) -> None:
    """Missing, damaged, out of range: an answer each, in order, and nothing else on standard output."""
    chunk = honest()
    for name in ("damaged", "scalars", "range"):
        write_job(tmp_path / name, chunk.public, chunk.witness)
    (tmp_path / "damaged" / "job.npz").write_bytes(b"PK\3\4 not really")
    (tmp_path / "scalars" / "job.json").write_text("{}")
    with np.load(tmp_path / "range" / "job.npz") as arrays:
        changed = {k: arrays[k] for k in arrays.files}
    changed["theta_u"][0, 0] = 10**6
    np.savez(tmp_path / "range" / "job.npz", **changed)
    names = ["missing", "damaged", "scalars", "range", "missing"]
    result = subprocess.run(
        [sys.executable, "-m", "zkapex.proofs.jobs.service", "prove", str(tiny().folder), str(tiny().srs.path)],
        input="".join(f"{tmp_path / n}\n" for n in names),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    ready, *answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert ready == {"ready": "prove"}
    assert len(answers) == len(names)
    assert all("error" in a for a in answers)
    assert "theta_u holds 1000000" in answers[3]["error"][0]


@pytest.mark.parametrize("module", ["torch", "flwr"])
def test_proving_loads_neither_torch_nor_flower(module: str) -> None:
    program = f"import sys, zkapex.proofs.jobs.service, zkapex.proofs.jobs.cluster; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

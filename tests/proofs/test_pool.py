"""Several provers at once: what is finished stays finished, whatever happens to the rest."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from tiny import empty, expected, honest, make_chunk, tiny

from zkapex.errors import ProverError, ResourceError
from zkapex.proofs.chunk.prove import verify_chunk
from zkapex.proofs.jobs import resources
from zkapex.proofs.jobs.interface import Work
from zkapex.proofs.jobs.pool import Pool, prove_all
from zkapex.proofs.jobs.progress import Progress
from zkapex.proofs.jobs.resources import worker_memory
from zkapex.proofs.jobs.worker import COST, PROOF, Cost, finished, write_job


def jobs(root: Path, count: int) -> list[Path]:
    for i in range(count):
        write_job(root / str(i), honest().public, honest().witness)
    return [root / str(i) for i in range(count)]


def no_workers_left() -> bool:
    mine = psutil.Process().children(recursive=True)
    return not any(
        "zkapex.proofs.jobs.service" in " ".join(p.cmdline()) for p in mine if p.status() != psutil.STATUS_ZOMBIE
    )


def test_jobs_are_proved_by_several_workers_and_resumed(tmp_path: Path) -> None:
    """One job is done already: it is left alone. Its neighbour is proved, and both are there in the end."""
    folders = jobs(tmp_path, 2)
    (folders[0] / COST).write_text('{"cpu_s": 1.0, "peak_rss_mb": 2.0}')
    (folders[0] / PROOF).write_bytes(b"done before")
    other = make_chunk(tiny().spec, seed=9)
    write_job(tmp_path / "9", other.public, other.witness)
    seen: list[tuple[Path, Cost]] = []
    prove_all(tiny(), [*folders, tmp_path / "9"], workers=2, on_done=lambda f, c: seen.append((f, c)))
    assert {f.name for f, _ in seen} == {"1", "9"}
    first = finished(folders[0])
    assert first is not None
    assert first[0] == b"done before"
    found = finished(tmp_path / "9")
    assert found is not None
    verify_chunk(tiny(), other.public, expected(tiny(), other), found[0], empty())
    assumed_mb = worker_memory(tiny()) / 1e6
    assert all(assumed_mb / 2 < c.peak_rss_mb < assumed_mb for _, c in seen)
    assert no_workers_left()
    prove_all(tiny(), folders, workers=2, on_done=lambda f, c: pytest.fail("nothing was left to do"))


def test_a_job_that_may_not_start_is_not_started(tmp_path: Path) -> None:
    folders, asked = jobs(tmp_path, 2), []

    def refuse(folder: Path) -> None:
        asked.append(folder)
        raise ProverError("not this one")

    with pytest.raises(ProverError, match="not this one"):
        prove_all(tiny(), folders, workers=1, on_start=refuse)
    assert asked == folders[:1]
    assert all(finished(folder) is None for folder in folders)
    assert no_workers_left()


def test_the_first_failure_is_raised_and_finished_jobs_are_kept(tmp_path: Path) -> None:
    good, bad = jobs(tmp_path, 2)
    (bad / "job.json").write_text("{}")
    with pytest.raises(ProverError, match="could not be read"):
        prove_all(tiny(), [good, bad], workers=1)
    assert finished(good) is not None
    assert finished(bad) is None
    assert no_workers_left()


class Killer(threading.Thread):
    """Kills the first `count` workers it sees, each after it has had time to begin."""

    def __init__(self, count: int) -> None:
        super().__init__(daemon=True)
        self.left, self.seen, self.deadline = count, set[int](), time.monotonic() + 60
        self.start()

    def run(self) -> None:
        while self.left and time.monotonic() < self.deadline:
            for child in psutil.Process().children():
                if child.pid not in self.seen and "zkapex.proofs.jobs.service" in " ".join(child.cmdline()):
                    self.seen.add(child.pid)
                    self.left -= 1
                    time.sleep(1.0)
                    os.kill(child.pid, signal.SIGKILL)
                    break
            time.sleep(0.02)


def test_a_killed_prover_only_costs_time_and_one_of_several_workers(tmp_path: Path) -> None:
    folders, seen = jobs(tmp_path, 2), list[Progress]()
    killer = Killer(1)
    prove_all(tiny(), folders, workers=2, on_progress=seen.append)
    killer.join()
    assert all(finished(f) for f in folders)
    assert (seen[0].done, seen[0].total, seen[0].workers, seen[0].eta_s) == (0, 2, 2, None)
    assert (seen[-1].done, seen[-1].workers, seen[-1].eta_s) == (2, 1, 0.0)
    assert no_workers_left()


def test_a_prover_that_is_killed_again_and_again_is_given_up(tmp_path: Path) -> None:
    folders = jobs(tmp_path, 1)
    killer = Killer(2)
    with pytest.raises(ResourceError, match="was killed, 2 times in a row") as caught:
        prove_all(tiny(), folders, workers=1)
    killer.join()
    assert "finished chunks are kept" in caught.value.fix
    assert finished(folders[0]) is None
    assert (folders[0] / "job.npz").exists(), "the witness is still there to go on with"
    assert no_workers_left()


def test_too_much_memory_lowers_concurrency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two provers were thought to fit and do not: one at a time do."""
    monkeypatch.setattr(resources, "MEMORY_BASE", 0)
    folders, seen = jobs(tmp_path, 2), list[Progress]()
    prove_all(tiny(), folders, workers=2, on_progress=seen.append, memory_mb=240)
    assert all(finished(f) for f in folders)
    assert {p.workers for p in seen} == {1, 2}
    assert seen[-1].workers == 1


def test_a_limit_no_prover_can_keep_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "MEMORY_BASE", 0)
    folders = jobs(tmp_path, 1)
    with pytest.raises(ResourceError, match="over the limit of 100 MB, 2 times in a row"):
        prove_all(tiny(), folders, memory_mb=100)
    assert no_workers_left()


def test_nothing_is_started_that_the_disk_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = jobs(tmp_path, 1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(ResourceError, match=r"will write up to \d+\.\d MB below .*, 1\.0 MB are free"):
        prove_all(tiny(), folders, on_progress=lambda p: pytest.fail("it was started"))


def test_a_damaged_circuit_is_an_error_not_a_wait(tmp_path: Path) -> None:
    folders = jobs(tmp_path, 1)
    nowhere = Path(str(tiny().folder) + "-copy")
    work = Work(replace(tiny(), folder=nowhere))
    nowhere.mkdir(exist_ok=True)
    (nowhere / "pk.key").touch()
    try:
        with Pool(work, workers=1) as pool, pytest.raises(ProverError, match="holds no usable circuit"):
            pool.run(folders)
    finally:
        shutil.rmtree(nowhere)


RUN = """
import sys
from pathlib import Path
from tiny import tiny
from zkapex.proofs.jobs.pool import prove_all
prove_all(tiny(), [Path(p) for p in sys.argv[1:]], workers=1)
"""


def test_a_run_that_is_killed_goes_on_where_it_was_and_leaves_no_workers(tmp_path: Path) -> None:
    folders = jobs(tmp_path, 3)
    support = Path(__file__).parents[1] / "support"
    environment = {**os.environ, "PYTHONPATH": f"{support}:{os.environ.get('PYTHONPATH', '')}"}
    run = subprocess.Popen([sys.executable, "-c", RUN, *map(str, folders)], env=environment)
    deadline = time.monotonic() + 120
    while finished(folders[0]) is None:
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive, "a worker ends with its owner"
    done = {f: (f / PROOF).stat().st_mtime_ns for f in folders if finished(f)}
    assert done.keys() != set(folders)
    again: list[Path] = []
    prove_all(tiny(), folders, on_done=lambda folder, cost: again.append(folder))
    assert set(again) == set(folders) - done.keys()
    assert all((f / PROOF).stat().st_mtime_ns == at for f, at in done.items())

"""Several provers at once: what is finished stays finished, whatever happens to the rest."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from tiny import empty, expected, honest, make_chunk, tiny

from zkapex.errors import ProverError, ResourceError
from zkapex.proofs.chunk import verify_chunk
from zkapex.proofs.pool import MEMORY_BASE, MEMORY_PER_KEY, affordable_workers, prove_all
from zkapex.proofs.worker import COST, PROOF, Cost, finished, write_job


def jobs(root: Path, count: int) -> list[Path]:
    for i in range(count):
        write_job(root / str(i), honest().public, honest().witness)
    return [root / str(i) for i in range(count)]


def no_workers_left() -> bool:
    mine = psutil.Process().children(recursive=True)
    return not any("zkapex.proofs.worker" in " ".join(p.cmdline()) for p in mine if p.status() != psutil.STATUS_ZOMBIE)


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
    assumed_mb = (MEMORY_BASE + MEMORY_PER_KEY * tiny().pk.stat().st_size) / 1e6
    assert all(assumed_mb / 2 < c.peak_rss_mb < assumed_mb for _, c in seen)
    assert no_workers_left()
    prove_all(tiny(), folders, workers=2, on_done=lambda f, c: pytest.fail("nothing was left to do"))


def test_the_first_failure_is_raised_and_finished_jobs_are_kept(tmp_path: Path) -> None:
    good, bad = jobs(tmp_path, 2)
    (bad / "job.json").write_text("{}")
    with pytest.raises(ProverError, match="could not be read"):
        prove_all(tiny(), [good, bad], workers=1)
    assert finished(good) is not None
    assert finished(bad) is None
    assert no_workers_left()


def _kill_first_worker() -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in psutil.Process().children():
            if "zkapex.proofs.worker" in " ".join(child.cmdline()):
                time.sleep(1.0)
                os.kill(child.pid, signal.SIGKILL)
                return
        time.sleep(0.05)


def test_a_killed_prover_is_reported_with_what_to_do_and_its_job_can_be_resumed(tmp_path: Path) -> None:
    folders = jobs(tmp_path, 1)
    killer = threading.Thread(target=_kill_first_worker)
    killer.start()
    with pytest.raises(ProverError, match="ended unexpectedly") as caught:
        prove_all(tiny(), folders, workers=1)
    killer.join()
    assert "run the same command again" in caught.value.fix
    assert finished(folders[0]) is None
    assert (folders[0] / "job.npz").exists(), "the witness is still there to go on with"
    assert no_workers_left()


def test_workers_are_as_many_as_memory_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    each = MEMORY_BASE + tiny().pk.stat().st_size * MEMORY_PER_KEY

    def free(amount: float) -> Callable[[], SimpleNamespace]:
        return lambda: SimpleNamespace(available=amount)

    for amount, wanted, count in ((10 * each, 4, 4), (2.5 * each, 4, 2), (1.5 * each, None, 1)):
        monkeypatch.setattr(psutil, "virtual_memory", free(amount))
        assert affordable_workers(tiny(), wanted) == count
    monkeypatch.setattr(psutil, "virtual_memory", free(100 * each))
    assert affordable_workers(tiny()) == os.cpu_count()
    monkeypatch.setattr(psutil, "virtual_memory", free(each / 2))
    with pytest.raises(ResourceError, match="MB are free"):
        affordable_workers(tiny())

"""How many workers fit, and what is refused before it begins."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from tiny import tiny

from zkapex.errors import ResourceError
from zkapex.proofs.jobs import resources
from zkapex.proofs.jobs.resources import (
    affordable_workers,
    check_disk,
    cores,
    free_memory,
    scratch_bytes,
    threads_each,
    worker_memory,
)


def free(amount: float) -> Callable[[], SimpleNamespace]:
    return lambda: SimpleNamespace(available=amount)


def test_workers_are_as_many_as_memory_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    each = worker_memory(tiny())
    monkeypatch.setattr(resources, "_CGROUPS", Path("/nowhere"))
    for amount, wanted, count in ((10 * each, 4, 4), (2.5 * each, 4, 2), (1.5 * each, None, 1)):
        monkeypatch.setattr(psutil, "virtual_memory", free(amount))
        assert affordable_workers(tiny(), wanted) == count
    monkeypatch.setattr(psutil, "virtual_memory", free(1000 * each))
    assert affordable_workers(tiny()) == cores() <= (os.cpu_count() or 1)
    assert affordable_workers(tiny(), 8, memory_mb=3.5 * each / 1e6) == 3
    with pytest.raises(ResourceError, match="the limit is"):
        affordable_workers(tiny(), 8, memory_mb=0.5 * each / 1e6)
    monkeypatch.setattr(psutil, "virtual_memory", free(each / 2))
    with pytest.raises(ResourceError, match="MB are free"):
        affordable_workers(tiny())


def test_threads_are_the_share_of_the_cores_that_memory_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, eight = (worker_memory(tiny(), threads) for threads in (1, 2, 8))
    assert one < two < eight < worker_memory(tiny(), 64) == worker_memory(tiny(), 128)
    monkeypatch.setattr(resources, "_CGROUPS", Path("/nowhere"))
    monkeypatch.setattr(resources, "cores", lambda: 16)
    monkeypatch.setattr(psutil, "virtual_memory", free(100 * eight))
    assert threads_each(tiny(), 2) == 8
    assert threads_each(tiny(), 32) == 1
    assert threads_each(tiny(), 2, memory_mb=2 * two / 1e6) == 2
    assert threads_each(tiny(), 2, memory_mb=one / 1e6) == 1


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_CGROUPS", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", free(10**9))
    line = Path("/proc/self/cgroup").read_text().splitlines()[-1]
    if not line.startswith("0::"):
        pytest.skip("this machine has no unified control groups")
    group = tmp_path / line.removeprefix("0::").lstrip("/")
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("300\n")
    (group / "memory.stat").write_text("anon 100\ninactive_file 50\n")
    assert free_memory() == 10**9
    (group / "memory.max").write_text("1000\n")
    assert free_memory() == 1000 - 300 + 50


def test_needs_on_one_disk_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    (tmp_path / "a").mkdir()
    check_disk({tmp_path: 60, tmp_path / "a": 40})
    with pytest.raises(ResourceError) as caught:
        check_disk({tmp_path: 60, tmp_path / "a": 41})
    assert "TMPDIR" in caught.value.fix


def test_scratch_space_grows_with_the_circuit() -> None:
    assert 10**6 < scratch_bytes(tiny()) < 10**7

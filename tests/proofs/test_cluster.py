"""The pool's jobs on a Ray cluster of two nodes, both on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import empty, honest, honest_expected, tiny

from zkapex.errors import ProverError
from zkapex.proofs.chunk.prove import verify_chunk
from zkapex.proofs.jobs.cluster import Cluster
from zkapex.proofs.jobs.interface import Work
from zkapex.proofs.jobs.progress import Progress
from zkapex.proofs.jobs.worker import COST, PROOF, Cost, finished, write_job

pytestmark = pytest.mark.slow

STORE = 100 * 2**20


@pytest.fixture
def ray_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one core each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    import ray
    from ray.cluster_utils import Cluster as LocalCluster

    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE}
    local = LocalCluster(initialize_head=True, head_node_args=head)
    local.second = local.add_node(num_cpus=1, object_store_memory=STORE)
    ray.init(address=local.address, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield local
    ray.shutdown()
    local.shutdown()


def jobs(root: Path, count: int) -> list[Path]:
    for i in range(count):
        write_job(root / str(i), honest().public, honest().witness)
    return [root / str(i) for i in range(count)]


def test_both_nodes_work_and_a_lost_nodes_jobs_are_done_by_the_other(ray_cluster: Any, tmp_path: Path) -> None:
    first, second = jobs(tmp_path / "a", 4), jobs(tmp_path / "b", 5)
    seen: list[Progress] = []
    with Cluster(Work(tiny()), workers=2) as cluster:
        cluster.run(first, on_progress=seen.append)
        assert len(cluster.done_by) == 2, "both nodes did work"
        assert (seen[0].workers, seen[-1].done, seen[-1].eta_s) == (2, 4, 0.0)
        cluster.done_by.clear()

        def lose_a_node(folder: Path, cost: Cost) -> None:
            if ray_cluster.second is not None:
                ray_cluster.remove_node(ray_cluster.second, allow_graceful=False)
                ray_cluster.second = None

        cluster.run(second, on_done=lose_a_node, on_progress=seen.append)
        assert seen[-1].workers == 1, "one is left"
        assert sum(cluster.done_by.values()) == 5
    for folder in (*first, *second):
        found = finished(folder)
        assert found is not None
        verify_chunk(tiny(), honest().public, honest_expected(), found[0], empty())
        assert {p.name for p in folder.iterdir()} == {PROOF, COST}, "the witness is gone"


def test_failures_come_back_from_the_nodes(ray_cluster: Any, tmp_path: Path) -> None:
    good, bad = jobs(tmp_path, 2)
    (bad / "job.json").write_text("{}")
    with Cluster(Work(tiny()), workers=1) as cluster, pytest.raises(ProverError, match="could not be read"):
        cluster.run([good, bad])
    assert finished(good) is not None
    assert finished(bad) is None


def test_without_a_cluster_there_is_an_error() -> None:
    with pytest.raises(ProverError, match="there is no Ray cluster"):
        Cluster(Work(tiny()), address="127.0.0.1:9")


def test_a_job_that_may_not_start_is_not_started_and_running_ones_end(ray_cluster: Any, tmp_path: Path) -> None:
    good, refused = jobs(tmp_path, 2)

    def refuse(folder: Path) -> None:
        if folder == refused:
            raise ProverError("not this one")

    with Cluster(Work(tiny()), workers=2) as cluster, pytest.raises(ProverError, match="not this one"):
        cluster.run([good, refused], on_start=refuse)
    assert finished(good) is not None
    assert finished(refused) is None

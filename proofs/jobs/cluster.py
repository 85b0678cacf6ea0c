"""The jobs of `zkapex.proofs.jobs.interface` on a Ray cluster, for those with more than one machine.

Ray is Flower's simulation engine and is there when Flower is; it is imported only when a `Cluster` is made, and the
pool does without it. Nodes need zkapex installed, not a common file system: a job's files travel to the node and its
results come back. **Witnesses are in the memory of whatever node proves them, and in Ray's object store: use machines
of the owner of the weights only.** Nodes build the circuit's keys from its specification, as everybody does, unless
they have them, and compare their digest.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zkapex.circuits.halo2.srs import find_srs, import_srs
from zkapex.circuits.halo2.store import circuit
from zkapex.circuits.statement import StatementSpec
from zkapex.errors import Error, ProverError, ResourceError
from zkapex.proofs.jobs.interface import (
    RESULT,
    JobKind,
    OnDone,
    OnProgress,
    OnStart,
    Work,
    ignore_done,
    ignore_progress,
    ignore_start,
)
from zkapex.proofs.jobs.pool import ATTEMPTS_ALONE
from zkapex.proofs.jobs.process import WorkerDiedError, WorkerProcess
from zkapex.proofs.jobs.progress import Timeline
from zkapex.proofs.jobs.resources import affordable_workers
from zkapex.proofs.jobs.worker import Cost, forget_witness

_RAY_DEFAULTS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_CONNECT_S = 5
_ATTEMPTS = 4
"""How often a job may lose its node before the run is given up."""


class NodeWorker:
    """The end on a node: one worker process like the pool's, and the folders its jobs need.

    Parameters
    ----------
    kind : str
        Of the jobs.
    statement : str
        The circuit's specification, JSON.
    vk_digest, srs_digest : str
        SHA-256 (hex) its keys and reference string must have.
    srs : bytes
    shared : bytes or None
        Content of the file all jobs refer to.
    threads : int
        Threads the process may use.
    """

    def __init__(
        self,
        kind: JobKind,
        statement: str,
        vk_digest: str,
        srs_digest: str,
        srs: bytes,
        shared: bytes | None,
        threads: int,
    ) -> None:
        self._given = (kind, statement, vk_digest, srs_digest)
        self._srs, self._shared, self._threads = srs, shared, threads
        self._worker: WorkerProcess | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="zkapex-shared-")

    def run(self, name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
        """Do one job.

        Parameters
        ----------
        name : str
            Its folder's name.
        files : mapping of str to bytes
            The content of its folder.

        Returns
        -------
        dict
            ``files``, what has appeared in the folder, ``cost`` and ``node``; or ``error``: what, why, fix, and whether
            it ran out of ``memory``.
        """
        try:
            if self._worker is None:
                self._worker = self._start()
            with tempfile.TemporaryDirectory(prefix="zkapex-job-") as tmp:
                folder = Path(tmp) / Path(name).name
                folder.mkdir(mode=0o700)
                for file, data in files.items():
                    (folder / file).write_bytes(data)
                cost = self._worker.ask(folder)["cost"]
                new = {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in files}
                return {"files": new, "cost": cost, "node": _node()}
        except WorkerDiedError as e:
            if self._worker is not None:
                self._worker.stop()
                self._worker = None
            return {"error": [e.what, e.why, e.fix], "memory": e.for_memory}
        except Error as e:
            return {"error": [e.what, e.why, e.fix], "memory": isinstance(e, ResourceError)}
        except OSError as e:
            return {"error": ["a node could not store a job", str(e), "free disk space there"], "memory": False}

    @cached_property
    def _work(self) -> Work:
        kind, statement, vk_digest, srs_digest = self._given
        spec = StatementSpec.model_validate_json(statement)
        srs = find_srs(srs_digest) or import_srs(self._srs, srs_digest, spec.log2_rows)
        built = circuit(spec, srs)
        if built.vk_digest != vk_digest:
            raise ProverError("a node of the cluster builds other keys", fix="install the same release everywhere")
        if self._shared is None:
            return Work(built, kind)
        path = Path(self._folder.name) / "shared"
        path.write_bytes(self._shared)
        return Work(built, kind, path)

    def _start(self) -> WorkerProcess:
        affordable_workers(self._work.circuit, 1)
        worker = WorkerProcess(self._work.arguments(), self._threads)
        try:
            worker.wait_until_ready()
        except BaseException:
            worker.stop()
            raise
        return worker


class Cluster:
    """Workers on the nodes of a Ray cluster, spread over them, one core each.

    Parameters
    ----------
    work : Work
    workers : int, optional
        Default: as many as the cluster has free cores.
    address : str, optional
        Of the cluster, ``host:port``; default: the one this process is connected to, or the one ``RAY_ADDRESS`` names.

    Raises
    ------
    ProverError
        Ray is not installed, or there is no such cluster.
    """

    def __init__(self, work: Work, workers: int | None = None, address: str | None = None) -> None:
        self._ray = _connect(address)
        self.work = work
        count = workers or max(1, int(self._ray.available_resources().get("CPU", 1)))
        remote = self._ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(NodeWorker)
        spec, built = work.circuit.spec.model_dump_json(), work.circuit
        srs = self._ray.put(built.srs.path.read_bytes())
        shared = None if work.shared is None else self._ray.put(work.shared.read_bytes())
        given = (work.kind, spec, built.vk_digest, built.srs.digest, srs, shared, 1)
        self._workers = [remote.remote(*given) for _ in range(count)]
        self.done_by: Counter[str] = Counter()
        """Jobs done, by the node that did them."""

    def run(
        self,
        folders: Sequence[Path],
        on_done: OnDone = ignore_done,
        on_progress: OnProgress = ignore_progress,
        on_start: OnStart = ignore_start,
    ) -> None:
        """Do every job in `folders` that is not done yet; see `zkapex.proofs.jobs.interface.Backend.run`.

        The job of a node that is lost goes to another one.
        """
        waiting = deque(f for f in folders if self.work.cost(f) is None)
        timeline = Timeline(len(folders), len(folders) - len(waiting))
        running: dict[Any, tuple[Any, Path]] = {}
        attempts: Counter[Path] = Counter()
        idle = list(self._workers)
        failure: BaseException | None = None
        on_progress(timeline.progress(len(idle)))
        while running or (waiting and not failure):
            while waiting and idle and not failure:
                worker, folder = idle.pop(), waiting.popleft()
                try:
                    on_start(folder)
                except BaseException as e:
                    failure = e
                    break
                running[worker.run.remote(folder.name, _read(folder))] = (worker, folder)
                timeline.started(folder)
            if failure and not running:
                break
            if not running:
                raise ProverError(
                    "no node of the cluster is left", fix="finished chunks are kept: run again when nodes are back"
                )
            (future, *_), _ = self._ray.wait(list(running))
            worker, folder = running.pop(future)
            try:
                answer = self._ray.get(future)
            except self._ray.exceptions.RayError as e:
                self._workers.remove(worker)
                answer = {"error": ["a node of the cluster was lost", str(e)[:300], "run again"], "lost": True}
            else:
                idle.append(worker)
            if "error" not in answer:
                _write(folder, answer["files"], RESULT[self.work.kind])
                timeline.finished(folder)
                on_done(folder, Cost(**answer["cost"]))
                self.done_by[answer["node"]] += 1
            else:
                timeline.dropped(folder)
                attempts[folder] += 1
                patience = {"lost": _ATTEMPTS, "memory": ATTEMPTS_ALONE}
                if attempts[folder] < max((n for cause, n in patience.items() if answer.get(cause)), default=1):
                    waiting.append(folder)
                else:
                    what, why, fix = answer["error"]
                    kind = ResourceError if answer.get("memory") else ProverError
                    failure = failure or kind(what, why=why, fix=fix)
            on_progress(timeline.progress(max(1, len(self._workers))))
        if failure:
            raise failure

    def close(self) -> None:
        """End the workers; the cluster stays."""
        for worker in self._workers:
            self._ray.kill(worker)
        self._workers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _connect(address: str | None) -> Any:
    for name, value in _RAY_DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as e:
        raise ProverError("Ray is not installed", fix="pip install 'flwr[simulation]'") from e
    if not ray.is_initialized():
        try:
            if address is not None:  # Ray itself would try for minutes
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
            ray.init(
                address=address or "auto", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False
            )
        except (OSError, RuntimeError, ValueError) as e:
            raise ProverError("there is no Ray cluster", why=str(e)[:300], fix="start one: ray start --head") from e
    return ray


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _read(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


def _write(folder: Path, files: Mapping[str, bytes], last: str) -> None:
    """Put a node's results where a worker here would have, the one that says "done" last; the witness is deleted."""
    for name in sorted(files, key=lambda name: name == last):
        partial = folder / f".{Path(name).name}"
        partial.touch(mode=0o600)
        partial.write_bytes(files[name])
        partial.rename(folder / Path(name).name)
    forget_witness(folder)

"""Many jobs in several worker processes of this machine.

Results land on disk as they come, so a killed run resumes. A worker that is killed for its memory, by the kernel or by
the limit set here, costs nothing but its time: its job is done again, with fewer workers at a time.
"""

from __future__ import annotations

import tempfile
import threading
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from zkapex.errors import ProofError, ResourceError
from zkapex.proofs.jobs.interface import (
    OnDone,
    OnProgress,
    OnStart,
    Work,
    ignore_done,
    ignore_progress,
    ignore_start,
    leave_verdict,
)
from zkapex.proofs.jobs.process import WorkerDiedError, WorkerProcess
from zkapex.proofs.jobs.progress import Timeline
from zkapex.proofs.jobs.resources import RESULT_BYTES, affordable_workers, check_disk, scratch_bytes, threads_each
from zkapex.proofs.jobs.worker import Cost

if TYPE_CHECKING:
    from zkapex.circuits.halo2.store import Circuit

ATTEMPTS_ALONE = 2
"""How often a job may die of memory with no other beside it before the run is given up."""

_WATCH_S = 0.1


class Pool:
    """Worker processes for one kind of work; they stay between runs until the pool is closed.

    Parameters
    ----------
    work : Work
    workers : int, optional
        Processes; default one per core, fewer if memory is short.
    memory_mb : float, optional
        What they may take together, in 10^6 bytes; default: all that is free.
    """

    def __init__(self, work: Work, workers: int | None = None, memory_mb: float | None = None) -> None:
        self.work = work
        self._wanted, self._memory_mb = workers, memory_mb
        self._idle: list[WorkerProcess] = []

    def run(
        self,
        folders: Sequence[Path],
        on_done: OnDone = ignore_done,
        on_progress: OnProgress = ignore_progress,
        on_start: OnStart = ignore_start,
    ) -> None:
        """Do every job in `folders` that is not done yet; see `zkapex.proofs.jobs.interface.Backend.run`."""
        waiting = [f for f in folders if self.work.cost(f) is None]
        if not waiting:
            return
        count = min(affordable_workers(self.work.circuit, self._wanted, self._memory_mb), len(waiting))
        self._check_disk(waiting, count)
        timeline = Timeline(len(folders), len(folders) - len(waiting))
        run = _Run(self.work, waiting, count, self._memory_mb, timeline, self._idle, on_done, on_progress, on_start)
        run.complete()

    def close(self) -> None:
        """End the workers."""
        while self._idle:
            self._idle.pop().stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_disk(self, waiting: Sequence[Path], count: int) -> None:
        circuit = self.work.circuit
        needs = {waiting[0].parent: float(len(waiting) * (circuit.proof_bytes + RESULT_BYTES))}
        scratch = Path(tempfile.gettempdir())
        needs[scratch] = needs.get(scratch, 0.0) + count * scratch_bytes(circuit)
        check_disk(needs)


class _Run:
    """One run. All that changes is guarded by `_changed`, which is notified of every change."""

    def __init__(
        self,
        work: Work,
        waiting: Sequence[Path],
        count: int,
        memory_mb: float | None,
        timeline: Timeline,
        idle: list[WorkerProcess],
        on_done: OnDone,
        on_progress: OnProgress,
        on_start: OnStart,
    ) -> None:
        self._work, self._timeline, self._idle = work, timeline, idle
        self._on_done, self._on_progress, self._on_start = on_done, on_progress, on_start
        self._memory = None if memory_mb is None else memory_mb * 1e6
        self._threads_each = threads_each(work.circuit, count, memory_mb)
        self._todo = deque(waiting)
        self._count = self._limit = self._serving = count
        self._busy: dict[WorkerProcess, Path] = {}
        self._alone: Counter[Path] = Counter()
        self._failures: list[BaseException] = []
        self._over: WorkerProcess | None = None
        self._changed = threading.Condition()

    def complete(self) -> None:
        """Do all jobs, or raise the first failure."""
        threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(self._serving)]
        self._on_progress(self._timeline.progress(self._limit))
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                with self._changed:
                    self._changed.wait(_WATCH_S)
                    self._watch_memory()
            for thread in threads:
                thread.join()
        except BaseException:  # Ctrl-C: do not leave provers behind
            with self._changed:
                self._failures.append(KeyboardInterrupt())
                for worker in self._busy:
                    worker.kill()
                self._changed.notify_all()
            raise
        if self._failures:
            raise self._failures[0]

    def _serve(self) -> None:
        worker = None
        try:
            while (job := self._next()) is not None:
                folder, alone = job
                try:
                    if worker is None:
                        worker = self._new_worker()
                    with self._changed:
                        self._on_start(folder)
                        self._busy[worker] = folder
                        self._timeline.started(folder)
                    cost = Cost(**worker.ask(folder)["cost"])
                except WorkerDiedError as death:
                    if worker is not None:
                        worker.stop()
                    with self._changed:
                        self._died(worker, folder, alone, death)
                    worker = None
                    continue
                with self._changed:
                    del self._busy[worker]
                    self._finished(folder, cost)
                    if worker is not self._over:
                        continue
                    self._over = None  # it was killed at the very moment it was done
                worker.stop()
                worker = None
        except BaseException as e:
            with self._changed:
                self._failures.append(e)
        finally:
            with self._changed:
                if worker is not None:
                    self._busy.pop(worker, None)
                    if not self._failures and self._limit == self._count:
                        self._idle.append(worker)
                        worker = None
                self._changed.notify_all()
            if worker is not None:
                worker.stop()

    def _new_worker(self) -> WorkerProcess:
        with self._changed:
            if self._idle:
                return self._idle.pop()
        worker = WorkerProcess(self._work.arguments(), self._threads_each)
        try:
            worker.wait_until_ready()
        except BaseException:
            worker.stop()
            raise
        return worker

    def _next(self) -> tuple[Path, bool] | None:
        """A job and whether it has the machine to itself; None if there is nothing left for this thread."""
        with self._changed:
            while not self._failures and self._serving <= self._limit:
                if self._todo:
                    return self._todo.popleft(), self._limit == 1
                if not self._busy:
                    break
                self._changed.wait()
            self._serving -= 1
            return None

    def _finished(self, folder: Path, cost: Cost) -> None:
        self._timeline.finished(folder)
        self._on_done(folder, cost)
        self._on_progress(self._timeline.progress(self._limit))
        self._changed.notify_all()

    def _died(self, worker: WorkerProcess | None, folder: Path, alone: bool, death: WorkerDiedError) -> None:
        """A worker ended at its job, or (None) before it could begin."""
        over = worker is not None and worker is self._over
        if over:
            self._over = None
        if worker is not None:
            del self._busy[worker]
        if not death.for_memory:
            if self._work.kind != "verify" or worker is None:
                raise death
            cost = Cost(0.0, 0.0)
            leave_verdict(folder, ProofError("the proof ended the process that was to verify it", why=death.why), cost)
            self._finished(folder, cost)
            return
        self._alone[folder] += alone
        if self._alone[folder] >= ATTEMPTS_ALONE:
            limit = f"went over the limit of {(self._memory or 0) / 1e6:.0f} MB" if over else "was killed"
            raise ResourceError(
                f"a single prover {limit}, {ATTEMPTS_ALONE} times in a row",
                why="" if over else "most likely by the kernel, because memory ran out",
                fix="free memory, raise the limit, or use a smaller profile; finished chunks are kept",
            )
        self._timeline.dropped(folder)
        self._todo.appendleft(folder)
        self._limit = max(1, self._limit - 1)
        self._on_progress(self._timeline.progress(self._limit))
        self._changed.notify_all()

    def _watch_memory(self) -> None:
        """Kill the worker that began last if all together take more than they may. One at a time."""
        if self._memory is None or self._over is not None or not self._busy:
            return
        if sum(worker.rss() for worker in self._busy) > self._memory:
            self._over = list(self._busy)[-1]
            self._over.kill()


def prove_all(
    circuit: Circuit,
    folders: Sequence[Path],
    workers: int | None = None,
    on_done: OnDone = ignore_done,
    on_progress: OnProgress = ignore_progress,
    on_start: OnStart = ignore_start,
    memory_mb: float | None = None,
) -> None:
    """Prove every job in `folders` (see `zkapex.proofs.jobs.worker.write_job`) that is not finished yet.

    Parameters
    ----------
    workers : int, optional
        Processes; default one per core, fewer if memory is short.
    on_done, on_progress, on_start : callable
        See `zkapex.proofs.jobs.interface.Backend.run`.
    memory_mb : float, optional
        What they may take together, in 10^6 bytes; default: all that is free.

    Raises
    ------
    ProverError
        The first failure, after all running jobs have ended; finished ones are kept.
    ResourceError
        Memory or disk cannot suffice.
    """
    with Pool(Work(circuit), workers, memory_mb) as pool:
        pool.run(folders, on_done, on_progress, on_start)

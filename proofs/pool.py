"""Proving many chunks with several worker processes. Results land on disk as they come, so a killed run resumes."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import psutil

from zkapex.circuits.store import Circuit
from zkapex.errors import ProverError, ResourceError
from zkapex.proofs.worker import Cost, finished

MEMORY_BASE, MEMORY_PER_KEY = 8e7, 2.5
"""A prover's peak memory: so many bytes, and a multiple of its proving key. Measured: 155 MB with a key of 36 MB and
415 MB with one of 145 MB; rounded up."""


def affordable_workers(circuit: Circuit, wanted: int | None = None) -> int:
    """As many workers as were asked for (default: one per core), lowered to what free memory carries.

    Raises
    ------
    ResourceError
        If not even one fits.
    """
    each = MEMORY_BASE + circuit.pk.stat().st_size * MEMORY_PER_KEY
    free = psutil.virtual_memory().available
    fit = int(free / each)
    if fit < 1:
        raise ResourceError(
            f"proving needs about {each / 1e6:.0f} MB, {free / 1e6:.0f} MB are free",
            fix="free memory or use a smaller profile",
        )
    return max(1, min(wanted or os.cpu_count() or 1, fit))


def prove_all(
    circuit: Circuit,
    folders: Sequence[Path],
    workers: int | None = None,
    on_done: Callable[[Path, Cost], None] = lambda folder, cost: None,
    on_start: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Prove every job in `folders` (see `zkapex.proofs.worker.write_job`) that is not finished yet.

    Parameters
    ----------
    workers : int, optional
        Processes; default one per core, fewer if memory is short.
    on_done : callable
        Called in a worker's thread after each finished job.
    on_start : callable
        Called in a worker's thread before each job; if it raises, the job is not started and no other is either.

    Raises
    ------
    ProverError
        The first failure, after all running jobs have ended; finished ones are kept.
    """
    todo: queue.SimpleQueue[Path] = queue.SimpleQueue()
    waiting = [f for f in folders if finished(f) is None]
    for folder in waiting:
        todo.put(folder)
    if not waiting:
        return
    count = min(affordable_workers(circuit, workers), len(waiting))
    threads_each = max(1, (os.cpu_count() or 1) // count)
    failures: list[BaseException] = []
    processes: list[subprocess.Popen[str]] = []

    def serve() -> None:
        try:
            with tempfile.TemporaryFile("w+") as log:
                process = _start(circuit, threads_each, log.fileno())
                processes.append(process)
                try:
                    while not failures:
                        try:
                            folder = todo.get_nowait()
                        except queue.Empty:
                            return
                        on_start(folder)
                        on_done(folder, _ask(process, folder, log))
                finally:
                    _stop(process)
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:  # Ctrl-C: do not leave provers behind
        failures.append(KeyboardInterrupt())
        for process in processes:
            process.kill()
        raise
    if failures:
        raise failures[0]


def _start(circuit: Circuit, threads: int, log: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "zkapex.proofs.worker", str(circuit.folder), str(circuit.srs.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
    )


def _ask(process: subprocess.Popen[str], folder: Path, log: IO[str]) -> Cost:
    if process.stdin is None or process.stdout is None:
        raise ProverError("a proving process was started without pipes")
    try:
        process.stdin.write(f"{folder}\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        log.seek(0)
        tail = log.read()[-500:]
        raise ProverError(
            f"a proving process ended unexpectedly with status {process.wait()}",
            why=tail.strip() or "no output; it may have been killed for using too much memory",
            fix="finished chunks are kept: run the same command again, with fewer workers if memory was short",
        )
    answer = json.loads(line)
    if "error" in answer:
        what, why, fix = answer["error"]
        raise ProverError(what, why=why, fix=fix)
    return Cost(**answer["cost"])


def _stop(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()

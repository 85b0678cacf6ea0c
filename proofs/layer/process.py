"""A process that proves layers, one after the other, for a device or a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import IO, cast

import zkapex.errors
from zkapex.errors import Error, ProverError, ResourceError


class LayerProcess:
    """The process of `zkapex.proofs.layer.prover`. Starting it costs as much as a small proof, so it does many."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "zkapex.proofs.layer.prover"]
        # Large arrays go back when they are freed: else glibc keeps those of one step while the next makes its own.
        environment = {"MALLOC_MMAP_THRESHOLD_": "2097152", "MALLOC_TRIM_THRESHOLD_": "8388608", **os.environ}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment
        )
        self._to, self._from = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)

    def __enter__(self) -> LayerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()
        self._errors.close()

    def prove(self, folder: Path) -> None:
        """Leave a proof in a job's folder.

        Raises
        ------
        ResourceError, ProverError
            The process died.
        Error
            Whatever the job raised.
        """
        try:
            self._to.write(f"{folder}\n")
            self._to.flush()
            answer = json.loads(self._from.readline())
        except (OSError, ValueError):
            self._died()
        if answer is not None:
            kind, what, why, fix = answer
            of: type[Error] = getattr(zkapex.errors, kind, ProverError)
            raise of(what, why=why, fix=fix)

    def _died(self) -> None:
        code = self._process.wait()
        if code < 0:
            raise ResourceError(
                f"a prover was killed by signal {-code}",
                why="most likely by the kernel, because memory ran out",
                fix="free memory; finished layers are kept",
            ) from None
        self._errors.seek(0)
        raise ProverError("a prover ended unexpectedly", why=self._errors.read().strip()[-500:]) from None


def prove_layers(folders: Sequence[Path], workers: int, on_start: Callable[[Path], None]) -> None:
    """Leave a proof in every folder, with so many processes at a time; raises as `LayerProcess.prove`.

    Parameters
    ----------
    on_start : callable
        Called with a folder before its proof is begun.
    """
    waiting, lock = iter(folders), Lock()

    def rest() -> Iterator[Path]:
        while True:
            with lock:
                folder = next(waiting, None)
            if folder is None:
                return
            yield folder

    def work() -> None:
        with LayerProcess() as process:
            for folder in rest():
                on_start(folder)
                process.prove(folder)

    count = min(workers, len(folders))
    with ThreadPoolExecutor(max_workers=max(1, count)) as pool:
        for done in [pool.submit(work) for _ in range(count)]:
            done.result()

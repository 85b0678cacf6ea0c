"""A worker process as its owner sees it: started, asked, watched, stopped.

The other end is `zkapex.proofs.jobs.service`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from zkapex.errors import ProverError

_LOG_TAIL = 500
_STOP_S = 5


class WorkerDiedError(ProverError):
    """A worker process ended instead of answering.

    Attributes
    ----------
    for_memory : bool
        Whether it died as processes do that take too much memory: killed, or aborted by a failed allocation.
    """

    def __init__(self, status: int, log: str) -> None:
        self.for_memory = status == -signal.SIGKILL or "memory allocation of" in log
        super().__init__(
            f"a proving process ended unexpectedly with status {status}",
            why=log[-_LOG_TAIL:].strip() or "no output; it may have been killed for using too much memory",
            fix="finished chunks are kept: run the same command again, with fewer workers if memory was short",
        )


class WorkerProcess:
    """One process that serves jobs, one at a time.

    Parameters
    ----------
    arguments : sequence of str
        Of `zkapex.proofs.jobs.service`.
    threads : int
        Threads it may use.
    """

    def __init__(self, arguments: Sequence[str], threads: int) -> None:
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": "1"}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "zkapex.proofs.jobs.service", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.fileno(),
            text=True,
            env=environment,
        )

    def wait_until_ready(self) -> None:
        """Return once the circuit is open, so that the first job takes as long as any.

        Raises
        ------
        ProverError
            If it cannot be opened.
        """
        self._answer()

    def ask(self, folder: Path) -> dict[str, Any]:
        """Have a job done and return what it cost.

        Raises
        ------
        WorkerDiedError
            If the process ends instead.
        ProverError
            If the job fails.
        """
        pipe = self._process.stdin
        try:
            if pipe is not None:
                pipe.write(f"{folder}\n")
                pipe.flush()
        except BrokenPipeError:
            pass  # it is dead, which reading its answer will tell
        return self._answer()

    def rss(self) -> int:
        """Bytes of memory it takes now; 0 if it has ended."""
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return 0

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def stop(self) -> None:
        """End it after the job it is at, or at once if that takes long."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line.endswith("\n"):
            status = self._process.wait()
            self._log.seek(0)
            raise WorkerDiedError(status, self._log.read())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            what, why, fix = answer["error"]
            raise ProverError(what, why=why, fix=fix)
        return answer

"""Verifying many proofs in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Self

from zkapex.errors import Error
from zkapex.proofs.jobs.claim import SHARED, Claim
from zkapex.proofs.jobs.interface import CLAIM, OnProgress, Verdict, Work, ignore_progress, read_verdict
from zkapex.proofs.jobs.pool import Pool
from zkapex.proofs.jobs.worker import Cost

if TYPE_CHECKING:
    from zkapex.circuits.halo2.store import Circuit

OnVerdict = Callable[[str, Error | None, float], None]
"""Called with a job's key, why its proof is not accepted (or None), and the CPU seconds of the check."""
Job = tuple[str, Claim, int, bytes]
"""Name of the claim, the claim, the chunk's number and its proof."""


class ClaimsVerifier:
    """Checks proofs of many requests in worker processes, which stay until it is closed.

    Parameters
    ----------
    circuit : Circuit
        All of them are of.
    workers : int, optional
        Processes; default one per core, fewer if memory is short.
    """

    def __init__(self, circuit: Circuit, workers: int | None = None) -> None:
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="zkapex-verify-")))
        self._pool = self._stack.enter_context(Pool(Work(circuit, "verify"), workers))

    def verify(self, jobs: Mapping[str, Job], on_verdict: OnVerdict) -> None:
        """Check proofs; every verdict is told as it comes, however many are wrong.

        Raises
        ------
        ResourceError
            If memory or disk does not suffice to check them.
        """
        with TemporaryDirectory(dir=self._folder) as batch:
            folders: dict[Path, str] = {}
            for key, (name, claim, chunk, proof) in jobs.items():
                about = Path(batch) / name
                if not about.exists():
                    about.mkdir()
                    claim.save(about / SHARED)
                folder = about / str(chunk)
                folder.mkdir()
                (folder / CLAIM).write_bytes(proof)
                folders[folder] = key

            def on_done(folder: Path, cost: Cost) -> None:
                verdict = read_verdict(folder)
                on_verdict(folders[folder], verdict.error, verdict.cpu_s)

            self._pool.run(list(folders), on_done)

    def close(self) -> None:
        """End the workers."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BatchVerifier:
    """Checks the proofs of one request in worker processes, which stay until it is closed.

    Starting the workers takes about a second: for a handful of proofs, `ChunkVerifier` in this process is faster.

    Parameters
    ----------
    circuit : Circuit
    claim : Claim
    workers : int, optional
        Processes; default one per core, fewer if memory is short.
    """

    def __init__(self, circuit: Circuit, claim: Claim, workers: int | None = None) -> None:
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="zkapex-verify-")))
        claim.save(self._folder / "shared")
        self._work = Work(circuit, "verify", self._folder / "shared")
        self._pool = self._stack.enter_context(Pool(self._work, workers))
        self._batches = 0

    def verify(self, proofs: Mapping[int, bytes], on_progress: OnProgress = ignore_progress) -> dict[int, Verdict]:
        """Check proofs by chunk; returns a verdict for every one, however many are wrong.

        Raises
        ------
        ResourceError
            If memory or disk does not suffice to check them.
        """
        with TemporaryDirectory(prefix=f"{self._batches}-", dir=self._folder) as batch:
            self._batches += 1
            folders = {chunk: Path(batch) / str(chunk) for chunk in proofs}
            for chunk, folder in folders.items():
                folder.mkdir()
                (folder / CLAIM).write_bytes(proofs[chunk])
            self._pool.run(list(folders.values()), on_progress=on_progress)
            return {chunk: read_verdict(folder) for chunk, folder in folders.items()}

    def close(self) -> None:
        """End the workers."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""Verifying many proofs in worker processes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from zkapex.circuits.halo2.store import Circuit
from zkapex.proofs.jobs.claim import Claim
from zkapex.proofs.jobs.interface import CLAIM, OnProgress, Verdict, Work, ignore_progress, read_verdict
from zkapex.proofs.jobs.pool import Pool


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

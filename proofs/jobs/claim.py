"""What the proofs of a request are checked against, on disk for worker processes, and the worker that checks them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zkapex.errors import Error, ResourceError
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.jobs.interface import CLAIM, leave_verdict
from zkapex.proofs.jobs.worker import Cost, peak_rss_mb
from zkapex.proofs.messages import ModelManifest, UnlearnRequest

if TYPE_CHECKING:
    from zkapex.circuits.halo2.store import Circuit
    from zkapex.proofs.chunk.verifier import ChunkVerifier

SHARED = "claim"
"""File with the claim that the jobs in the folders beside it are about."""


@dataclass(frozen=True)
class Claim:
    """What a request's proofs are checked against; the parameters of `zkapex.proofs.verify.ChunkVerifier`.

    Attributes
    ----------
    manifest : ModelManifest
    request : UnlearnRequest
    curvature : tuple of str
        Enrolled curvature commitments (hex points), one per (layer, column block).
    pre, post : tuple of str
        Theta commitments of all chunks (hex points) before and after.
    """

    manifest: ModelManifest
    request: UnlearnRequest
    curvature: Sequence[str]
    pre: Sequence[str]
    post: Sequence[str]

    def save(self, path: Path) -> None:
        """Write it to a file."""
        points = {"curvature": list(self.curvature), "pre": list(self.pre), "post": list(self.post)}
        parts = [self.manifest.to_bytes(), self.request.to_bytes(), json.dumps(points).encode()]
        path.write_bytes(b"\n".join(parts))  # records are JSON on one line

    @classmethod
    def load(cls, path: Path) -> Claim:
        """The inverse of `save`."""
        manifest, request, points = path.read_bytes().split(b"\n")
        named = {k: tuple(v) for k, v in json.loads(points).items()}
        return cls(ModelManifest.from_bytes(manifest), UnlearnRequest.from_bytes(request), **named)

    def verifier(self, circuit: Circuit) -> ChunkVerifier:
        """The verifier of single chunks, in this process."""
        from zkapex.proofs.chunk.verifier import ChunkVerifier

        return ChunkVerifier(circuit, Instance(self.manifest, self.request), self.curvature, self.pre, self.post)


class Checker:
    """The worker's side: checks the claimed proof in a job's folder.

    Parameters
    ----------
    circuit : Circuit
    shared : Path, optional
        The claim that all jobs are about; without one, each job's is beside its folder.
    """

    def __init__(self, circuit: Circuit, shared: Path | None = None) -> None:
        self._circuit = circuit
        self._shared = None if shared is None else Claim.load(shared).verifier(circuit)
        self._last: tuple[Path, ChunkVerifier] | None = None

    def run_job(self, folder: Path) -> Cost:
        """Check ``claim.bin`` in ``<chunk>/`` and leave a verdict."""
        start = time.process_time()
        error: Error | None = None
        try:
            self._verifier(folder).verify(int(folder.name), (folder / CLAIM).read_bytes())
        except ResourceError:
            raise
        except Error as e:
            error = e
        cost = Cost(time.process_time() - start, peak_rss_mb())
        leave_verdict(folder, error, cost)
        return cost

    def _verifier(self, folder: Path) -> ChunkVerifier:
        if self._shared is not None:
            return self._shared
        path = folder.parent / SHARED
        if self._last is None or self._last[0] != path:
            self._last = path, Claim.load(path).verifier(self._circuit)
        return self._last[1]

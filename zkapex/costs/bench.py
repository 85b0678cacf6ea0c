"""What proofs cost here: random chunks that satisfy the statement, proved in worker processes, and verified."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from zkapex.circuits.cache import cache_root
from zkapex.circuits.halo2.srs import local_srs
from zkapex.circuits.halo2.store import Circuit, circuit
from zkapex.circuits.profiles import named_statement
from zkapex.circuits.statement import StatementSpec
from zkapex.costs.calibration import Rates, calibrated, machine
from zkapex.costs.workload import Shape, random_workload
from zkapex.errors import InputError
from zkapex.proofs.chunk.commitment import commit
from zkapex.proofs.jobs.batch import BatchVerifier
from zkapex.proofs.jobs.interface import OnProgress, ignore_progress
from zkapex.proofs.jobs.pool import prove_all
from zkapex.proofs.jobs.resources import affordable_workers
from zkapex.proofs.jobs.worker import Cost, finished

_SEED = 1


@dataclass(frozen=True)
class BenchSettings:
    """What to measure.

    Attributes
    ----------
    profile : str
    kind : str
        Of the statement: an operator.
    curvature : str
        One of `zkapex.circuits.profiles.CURVATURES`; statements other than guarded-group-obs have none.
    guard_rank : int
    freivalds : bool
        See `zkapex.circuits.statement.StatementSpec`.
    chunks : int
        Proofs to make; the mean counts.
    workers : int, optional
        Processes; default one per core.
    memory_mb : float, optional
        See `zkapex.proofs.jobs.pool.prove_all`.
    rows_per_chunk, block_width, log2_rows : int, optional
        Other than the profile's, to see what they cost.
    """

    profile: str = "server"
    kind: str = "guarded-group-obs"
    curvature: str = "kfac"
    guard_rank: int = 4
    freivalds: bool = True
    chunks: int = 4
    workers: int | None = None
    memory_mb: float | None = None
    rows_per_chunk: int | None = None
    block_width: int | None = None
    log2_rows: int | None = None

    def __post_init__(self) -> None:
        if self.chunks < 1:
            raise InputError("a benchmark needs at least one chunk", fix="--chunks 1 or more")
        if self.workers is not None and self.workers < 1:
            raise InputError("proving needs at least one worker", fix="--workers 1 or more")
        self.statement()

    def statement(self) -> StatementSpec:
        """The statement to prove."""
        given = {name: getattr(self, name) for name in ("rows_per_chunk", "block_width", "log2_rows")}
        changes = {name: value for name, value in given.items() if value is not None}
        spec = named_statement(self.profile, self.kind, self.curvature, self.guard_rank, self.freivalds)
        try:
            return StatementSpec.model_validate({**spec.model_dump(), **changes})
        except ValueError as e:
            raise InputError("no such statement can be proved", why=str(e)) from e


@dataclass(frozen=True)
class Proofs:
    """What proving and verifying some chunks took.

    Attributes
    ----------
    costs : list of Cost
        Of proving each.
    verify_cpu_s : list of float
        Of verifying each.
    wall_s : float
        Of proving all, with `workers` at a time.
    workers : int
    """

    costs: list[Cost]
    verify_cpu_s: list[float]
    wall_s: float
    workers: int

    @property
    def prove_cpu_s(self) -> float:
        """Mean CPU seconds of a proof."""
        return float(np.mean([cost.cpu_s for cost in self.costs]))

    @property
    def peak_rss_mb(self) -> float:
        """The largest prover's peak memory, in 10^6 bytes."""
        return max(cost.peak_rss_mb for cost in self.costs)


def bench(settings: BenchSettings, on_progress: OnProgress = ignore_progress) -> dict[str, str | int | float]:
    """Build the keys anew, prove and verify random chunks, and return the figures.

    Raises
    ------
    InputError, ProverError, ResourceError
        The statement does not fit its profile, or the machine does not suffice.
    """
    spec = settings.statement()
    srs = local_srs(spec.log2_rows)
    with TemporaryDirectory(prefix="bench-", dir=cache_root()) as root:
        start = time.monotonic()
        built = circuit(spec, srs, Path(root))
        setup_s = time.monotonic() - start
        proofs = prove_and_verify(built, settings.chunks, settings.workers, settings.memory_mb, on_progress)
        weights = settings.chunks * spec.weights
        return {
            "backend": "halo2",
            "profile": settings.profile,
            "kind": spec.kind,
            "curvature": spec.curvature,
            "curvature_rank": spec.curvature_rank,
            "guard_rank": spec.guard_rank,
            "freivalds": spec.freivalds,
            "rows_per_chunk": spec.rows_per_chunk,
            "block_width": spec.block_width,
            "weights": weights,
            "chunks": settings.chunks,
            "workers": proofs.workers,
            "cpu_ms_per_weight": sum(cost.cpu_s for cost in proofs.costs) / weights * 1e3,
            "prove_cpu_s_per_chunk": proofs.prove_cpu_s,
            "prove_wall_s": proofs.wall_s,
            "proof_bytes": built.proof_bytes,
            "proof_bytes_per_weight": built.proof_bytes / spec.weights,
            "verify_cpu_us_per_weight": sum(proofs.verify_cpu_s) / weights * 1e6,
            "prover_peak_rss_mb": proofs.peak_rss_mb,
            "proving_key_mb": built.pk.stat().st_size / 1e6,
            "verification_key_kb": built.vk.stat().st_size / 1e3,
            "setup_s": setup_s,
            "rows": built.rows,
            "log2_rows": spec.log2_rows,
            "cells_per_weight": cells_per_weight(built),
            **machine(),
        }


def prove_and_verify(
    built: Circuit,
    chunks: int,
    workers: int | None = None,
    memory_mb: float | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Proofs:
    """Prove and verify random chunks, each of a column block of its own.

    Raises
    ------
    ProverError, ResourceError
        As `zkapex.proofs.jobs.pool.prove_all`.
    CommitmentError, ProofError
        A proof does not verify: a defect.
    """
    spec = built.spec
    shape = Shape("random", spec.rows_per_chunk, spec.block_width * chunks)
    mask = np.random.default_rng(_SEED).random((shape.rows, shape.cols)) < 0.01
    mask[0, :: spec.block_width] = True  # every chunk is touched
    work = random_workload(built, [shape], {shape.name: mask}, _SEED)
    count = min(affordable_workers(built, workers, memory_mb), chunks)
    with TemporaryDirectory(prefix="zkapex-bench-") as folder:
        jobs = work.write_jobs(Path(folder))
        start = time.monotonic()
        prove_all(built, list(jobs.values()), count, on_progress=on_progress, memory_mb=memory_mb)
        wall_s = time.monotonic() - start
        done = {chunk: found for chunk, job in jobs.items() if (found := finished(job)) is not None}
    with BatchVerifier(built, work.claim(), count) as verifier:
        verdicts = verifier.verify({chunk: proof for chunk, (proof, _) in done.items()})
    for verdict in verdicts.values():
        if verdict.error is not None:
            raise verdict.error
    return Proofs([cost for _, cost in done.values()], [v.cpu_s for v in verdicts.values()], wall_s, count)


def rates(spec: StatementSpec, fresh: bool = False, on_start: Callable[[], None] = lambda: None) -> Rates:
    """What a chunk of a statement costs on this machine; measured unless that is known (about 20 s at 2^15 rows).

    Parameters
    ----------
    fresh : bool
        Measure in any case.
    on_start : callable
        Called if measuring begins.
    """

    def measure() -> Rates:
        on_start()
        built = circuit(spec, local_srs(spec.log2_rows))
        workers = affordable_workers(built)
        proofs = prove_and_verify(built, workers, workers)
        vector = ["00" * 32] * spec.input_lengths()["theta_u"]
        start = time.process_time()
        commit(built, vector)
        return Rates(
            prove_cpu_s=proofs.prove_cpu_s,
            verify_cpu_s=float(np.mean(proofs.verify_cpu_s)),
            commit_cpu_s=time.process_time() - start,
            proof_bytes=built.proof_bytes,
            peak_rss_mb=proofs.peak_rss_mb,
        )

    return calibrated(spec, measure, fresh)


def cells_per_weight(built: Circuit) -> float:
    """Cells of the circuit per weight of a chunk, as ezkl counts them."""
    return float(json.loads((built.folder / "built.json").read_text())["cells_per_weight"])

"""What the transparent backend costs here: random layers that satisfy the statement, enrolled, proved and verified."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from zkapex.circuits.profiles import named_statement
from zkapex.circuits.statement import StatementSpec
from zkapex.costs.calibration import LayerRates, calibrated, machine
from zkapex.costs.estimate import Question
from zkapex.costs.shapes import ModelShapes
from zkapex.costs.workload import Shape, layer_workload, random_mask
from zkapex.errors import InputError
from zkapex.proofs.backends import check_backend
from zkapex.proofs.jobs.worker import finished
from zkapex.proofs.layer.state import prove_state, state_tree, verify_state
from zkapex.proofs.messages import Enrolment

_SEED, _NOBODY = 1, "0" * 64
_SMALL, _LARGE = Shape("small", 768, 192), Shape("large", 3072, 768)
"""What is measured to estimate others: an MLP layer of ViT-B/16, and a sixteenth of one."""


@dataclass(frozen=True)
class LayerCosts:
    """CPU seconds and bytes of one layer; see `LayerRates`. Proving includes the commitments to both states.

    `prove_cpu_s` is of a process that has proved before, `start_cpu_s` what the first proof costs beyond that: imports
    and loading machine code. Enrolling is measured without. `rows` are those of the code that a state has, of
    ``2 ** log2_rows`` elements before they are encoded.
    """

    weights: int
    commit_cpu_s: float
    enrol_cpu_s: float
    verify_enrolment_cpu_s: float
    prove_cpu_s: float
    start_cpu_s: float
    verify_cpu_s: float
    proof_bytes: int
    enrolment_bytes: int
    peak_rss_mb: float
    prove_wall_s: float
    rows: int
    log2_rows: int


def measure_layer(spec: StatementSpec, shape: Shape, density: float = 0.005) -> LayerCosts:
    """Commit, enrol, prove and verify one layer; in this process but for proving, which has one of its own.

    Raises
    ------
    VerificationError
        A proof does not verify: a defect.
    """
    masks = random_mask([shape], density, np.random.default_rng(_SEED))
    work = layer_workload(spec, [shape], masks, _SEED)
    engine, manifest = work.engine, work.instance.manifest
    list(engine.commit(work.holdings, (0,)))  # machine code is loaded
    start = time.process_time()
    y, tree, _ = state_tree(work.holdings, 0)
    commit_cpu_s = time.process_time() - start
    enrolment = prove_state(work.holdings, 0, _NOBODY, _NOBODY)
    start = time.process_time()
    prove_state(work.holdings, 0, _NOBODY, _NOBODY)
    enrol_cpu_s = time.process_time() - start
    record = Enrolment(
        federation="random",
        client_id=_NOBODY,
        public_key=_NOBODY,
        manifest_digest=manifest.digest(),
        nonce=_NOBODY,
        revision=0,
        damping=0.0,
        theta=(tree.root.hex(),),
        curvature=(),
        state_proofs=(enrolment,),
    )
    verify_enrolment_cpu_s = _twice(lambda: verify_state(manifest, record, 0))
    with TemporaryDirectory(prefix="zkapex-bench-") as folder:
        jobs = [job for name in ("first", "again") for job in work.write_jobs(Path(folder) / name).values()]
        begun: list[float] = []
        engine.prove_jobs(jobs, 1, lambda folder: begun.append(time.monotonic()))
        first, again = (finished(job) for job in jobs)
    if first is None or again is None:
        raise InputError("the proof is not where its process left it")
    proof, cost = again
    verifier = engine.verifier(work.claim())
    verify_cpu_s = _twice(lambda: verifier.verify(0, proof))
    return LayerCosts(
        weights=shape.rows * shape.cols,
        commit_cpu_s=commit_cpu_s,
        enrol_cpu_s=enrol_cpu_s,
        verify_enrolment_cpu_s=verify_enrolment_cpu_s,
        prove_cpu_s=cost.cpu_s,
        start_cpu_s=max(0.0, first[1].cpu_s - cost.cpu_s),
        verify_cpu_s=verify_cpu_s,
        proof_bytes=len(proof),
        enrolment_bytes=len(enrolment),
        peak_rss_mb=cost.peak_rss_mb,
        prove_wall_s=begun[1] - begun[0],
        rows=sum(y.state_sizes.values()),
        log2_rows=y.parameters.k.bit_length() - 1,
    )


def _twice(action: Callable[[], object]) -> float:
    """CPU seconds of an action when it is done for the second time."""
    action()
    start = time.process_time()
    action()
    return time.process_time() - start


def bench_layers(
    profile: str,
    kind: str,
    guard_rank: int,
    rows: int,
    cols: int,
    density: float,
    layers: int,
    block_width: int | None = None,
) -> dict[str, str | int | float]:
    """The figures of `zkapex.costs.bench.bench`, by the same names, of layers; a chunk is a layer.

    Raises
    ------
    InputError
        The backend does not prove it, or there is no such statement.
    """
    check_backend("transparent", kind)
    spec = named_statement(profile, kind, "kfac", guard_rank)
    if block_width is not None:
        rows_per_chunk = max(1, spec.rows_per_chunk * spec.block_width // max(1, block_width))  # a chunk is as large
        changed = {"block_width": block_width, "rows_per_chunk": rows_per_chunk}
        try:
            spec = StatementSpec.model_validate({**spec.model_dump(), **changed})
        except ValueError as e:
            raise InputError("no such statement can be proved", why=str(e)) from e
    shape = Shape("random", rows, cols)
    measured = [measure_layer(spec, shape, density) for _ in range(layers)]
    mean = {name: float(np.mean([getattr(one, name) for one in measured])) for name in LayerCosts.__annotations__}
    weights = rows * cols
    return {
        "backend": "transparent",
        "profile": profile,
        "kind": kind,
        "curvature": spec.curvature,
        "curvature_rank": spec.curvature_rank,
        "guard_rank": spec.guard_rank,
        "freivalds": True,
        "rows_per_chunk": rows,
        "block_width": spec.block_width,
        "columns": cols,
        "density": density,
        "weights": layers * weights,
        "chunks": layers,
        "workers": 1,
        "cpu_ms_per_weight": (mean["start_cpu_s"] + mean["prove_cpu_s"]) / weights * 1e3,
        "prove_cpu_s_per_chunk": mean["start_cpu_s"] + mean["prove_cpu_s"],
        "prove_wall_s": sum(one.prove_wall_s for one in measured),
        "proof_bytes": int(mean["proof_bytes"]),
        "proof_bytes_per_weight": mean["proof_bytes"] / weights,
        "verify_cpu_us_per_weight": mean["verify_cpu_s"] / weights * 1e6,
        "prover_peak_rss_mb": max(one.peak_rss_mb for one in measured),
        "proving_key_mb": 0.0,
        "verification_key_kb": 0.0,
        "setup_s": 0.0,
        "rows": measured[0].rows,
        "log2_rows": measured[0].log2_rows,
        "cells_per_weight": (measured[0].rows << (measured[0].log2_rows + 2)) / weights,
        "start_cpu_s": mean["start_cpu_s"],
        "started_cpu_us_per_weight": mean["prove_cpu_s"] / weights * 1e6,
        "commit_cpu_us_per_weight": mean["commit_cpu_s"] / weights * 1e6,
        "enrol_cpu_us_per_weight": mean["enrol_cpu_s"] / weights * 1e6,
        "enrolment_bytes": int(mean["enrolment_bytes"]),
        "verify_enrolment_cpu_us_per_weight": mean["verify_enrolment_cpu_s"] / weights * 1e6,
        **machine(),
    }


def layer_rates(spec: StatementSpec, fresh: bool = False, on_start: Callable[[], None] = lambda: None) -> LayerRates:
    """What layers cost on this machine, from two that are measured unless that is known (about a CPU minute)."""

    def measure() -> LayerRates:
        on_start()
        small, large = measure_layer(spec, _SMALL), measure_layer(spec, _LARGE)
        by_weight = large.weights - small.weights

        def line(name: str) -> tuple[float, float]:
            slope = max(0.0, (getattr(large, name) - getattr(small, name)) / by_weight)
            return max(0.0, getattr(large, name) - slope * large.weights), slope

        return LayerRates(
            start=max(small.start_cpu_s, large.start_cpu_s),
            prove=line("prove_cpu_s"),
            verify=line("verify_cpu_s"),
            commit=line("commit_cpu_s"),
            enrol=line("enrol_cpu_s"),
            verify_enrolment=line("verify_enrolment_cpu_s"),
            proof_bytes=line("proof_bytes"),
            enrolment_bytes=line("enrolment_bytes"),
            peak_rss_mb=line("peak_rss_mb"),
        )

    return calibrated(spec, measure, fresh, LayerRates)


def estimate_layers(
    model: ModelShapes, spec: StatementSpec, rates: LayerRates, question: Question
) -> dict[str, str | int | float]:
    """The figures of `zkapex.costs.estimate.estimate`, by the same names; a chunk is a layer.

    Raises
    ------
    InputError
        A sampled audit is asked for.
    """
    check_backend("transparent", spec.kind, audit=question.audit)
    sizes = sorted((layer.rows * layer.cols for layer in model.layers), reverse=True)
    masked = max(1, round(question.density * model.weights))
    groups = masked / question.concentration
    if question.touched is not None:
        count = max(1, round(question.touched * len(sizes)))
    else:  # a layer of w of N weights is missed by k groups with probability (1 - w / N)^k
        count = max(1, round(sum(1 - (1 - size / model.weights) ** groups for size in sizes)))
    touched = sizes[:count]

    def of(rate: tuple[float, float], layers: list[int]) -> float:
        return sum(rate[0] + rate[1] * size for size in layers)

    prove = [of(rates.prove, [size]) for size in touched]
    at_once = min(question.workers, count)
    proving = sum(prove) + at_once * rates.start
    return {
        "model": model.name,
        "target_layers": len(model.layers),
        "target_weights": model.weights,
        "masked_weights": masked,
        "chunks": len(sizes),
        "chunks_touched": count,
        "touched_fraction": count / len(sizes),
        "audit": question.audit,
        "chunks_proved": count,
        "detection_probability": 1.0,
        "weights_proved": sum(touched),
        "enrol_cpu_s": of(rates.commit, sizes) + of(rates.enrol, sizes),
        "commit_cpu_s": of(rates.commit, touched),
        "prove_cpu_s": proving,
        "workers": question.workers,
        "prove_wall_s": max(proving / at_once, rates.start + max(prove)),
        "prover_memory_mb": at_once * of(rates.peak_rss_mb, touched[:1]),
        "proof_bytes": round(of(rates.proof_bytes, touched)),
        "verify_cpu_s": of(rates.verify, touched),
        "enrolment_bytes": round(of(rates.enrolment_bytes, sizes)),
        "verify_enrolment_cpu_s": of(rates.verify_enrolment, sizes),
    }

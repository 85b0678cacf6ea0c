"""What a deletion request will cost before anything runs: chunks touched, times what a chunk costs on this machine."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from zkapex.circuits.statement import StatementSpec
from zkapex.costs.calibration import Rates
from zkapex.costs.shapes import ModelShapes
from zkapex.costs.workload import Shape
from zkapex.errors import InputError
from zkapex.proofs.audit import assumed_bad, detection_probability, draws_for


@dataclass(frozen=True)
class Question:
    """What is to be estimated.

    Attributes
    ----------
    density : float
        Masked fraction of the target layers' weights.
    concentration : float
        How many masked weights come together: `expected_touched`.
    touched : float, optional
        Fraction of the chunks that a mask touches, where it is known; overrides `concentration`.
    audit : str
        ``full``: every touched chunk is proved; ``sampled``: as many as it takes to catch, with the probability
        `detection`, a client that cheated on the fraction `cheated` of the touched chunks.
    workers : int
        Proofs made at a time, on a core each.
    """

    density: float
    concentration: float = 1.0
    touched: float | None = None
    audit: str = "full"
    cheated: float = 0.01
    detection: float = 0.99
    workers: int = 1

    def __post_init__(self) -> None:
        ranges = {
            "density": 0 < self.density <= 1,
            "concentration": 1 <= self.concentration < math.inf,
            "touched": self.touched is None or 0 < self.touched <= 1,
            "cheated": 0 < self.cheated <= 1,
            "detection": 0 < self.detection < 1,
            "workers": self.workers >= 1,
        }
        for name, fine in ranges.items():
            if not fine:
                raise InputError(f"--{name} {getattr(self, name)} makes no sense", fix="see zkapex estimate --help")
        if self.audit not in ("full", "sampled"):
            raise InputError(f"unknown audit mode {self.audit!r}", fix="choose full or sampled")


def estimate(model: ModelShapes, spec: StatementSpec, rates: Rates, question: Question) -> dict[str, str | int | float]:
    """The figures, by name; times in seconds, sizes in bytes unless the name says otherwise."""
    chunks = chunk_sizes(model.layers, spec)
    total = sum(chunks.values())
    masked = max(1, round(question.density * model.weights))
    if question.touched is not None:
        touched = max(1, round(question.touched * total))
    else:
        touched = max(1, round(expected_touched(chunks, masked / question.concentration)))
    proved = touched
    if question.audit == "sampled":
        proved = draws_for(touched, question.cheated, question.detection)
    blocks = sum(-(-layer.cols // spec.block_width) for layer in model.layers)
    prove_cpu_s = proved * rates.prove_cpu_s
    return {
        "model": model.name,
        "target_layers": len(model.layers),
        "target_weights": model.weights,
        "masked_weights": masked,
        "chunks": total,
        "chunks_touched": touched,
        "touched_fraction": touched / total,
        "audit": question.audit,
        "chunks_proved": proved,
        "detection_probability": detection_probability(touched, proved, assumed_bad(touched, question.cheated)),
        "weights_proved": proved * spec.weights,
        "enrol_cpu_s": (total + blocks) * rates.commit_cpu_s,
        "commit_cpu_s": touched * rates.commit_cpu_s,
        "prove_cpu_s": prove_cpu_s,
        "workers": question.workers,
        "prove_wall_s": math.ceil(proved / question.workers) * rates.prove_cpu_s,
        "prover_memory_mb": min(question.workers, proved) * rates.peak_rss_mb,
        "proof_bytes": proved * rates.proof_bytes,
        "verify_cpu_s": proved * rates.verify_cpu_s,
    }


def chunk_sizes(layers: Iterable[Shape], spec: StatementSpec) -> Counter[int]:
    """How many chunks hold how many weights of the model; those at the edge of a layer hold fewer."""
    sizes: Counter[int] = Counter()
    for layer in layers:
        heights, widths = _parts(layer.rows, spec.rows_per_chunk), _parts(layer.cols, spec.block_width)
        for height, bands in heights.items():
            for width, blocks in widths.items():
                sizes[height * width] += bands * blocks
    return sizes


def expected_touched(chunks: Counter[int], masked: float) -> float:
    """Expected number of chunks that hold at least one of `masked` weights scattered uniformly, without replacement.

    ``sum over chunks of 1 - C(N - w, k) / C(N, k)`` for a chunk of w of the N weights and k masked ones. Masks are not
    uniform: the weights that matter to a class share rows and columns. Dividing k by a concentration, the mean size of
    the groups in which masked weights come, models that with one number.
    """
    weights = sum(size * count for size, count in chunks.items())
    return sum(count * (1 - _untouched(weights, size, masked)) for size, count in chunks.items())


def _parts(length: int, size: int) -> Counter[int]:
    """Lengths of the pieces, by how often they occur, when `length` is cut every `size`."""
    parts = Counter({size: length // size})
    if length % size:
        parts[length % size] += 1
    return +parts


def _untouched(weights: int, size: int, masked: float) -> float:
    """``C(N - w, k) / C(N, k)``, for a real k."""
    if masked > weights - size:
        return 0.0
    terms = (weights - size, weights - masked), (weights - size - masked, weights)
    return math.exp(sum(math.lgamma(n + 1) for n in terms[0]) - sum(math.lgamma(n + 1) for n in terms[1]))

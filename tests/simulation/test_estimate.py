"""An estimate is arithmetic on what was measured, and close to what then happens."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import spec, tiny

from zkapex.costs.bench import prove_and_verify
from zkapex.costs.calibration import Rates
from zkapex.costs.estimate import Question, chunk_sizes, estimate, expected_touched
from zkapex.costs.shapes import ModelShapes, model_shapes
from zkapex.costs.workload import Shape, random_mask, random_workload
from zkapex.errors import InputError
from zkapex.proofs.audit import assumed_bad, detection_probability, draws_for
from zkapex.proofs.jobs.pool import prove_all
from zkapex.proofs.jobs.worker import finished
from zkapex.proofs.records.packing import touched_chunks

RATES = Rates(prove_cpu_s=2.0, verify_cpu_s=0.05, commit_cpu_s=0.01, proof_bytes=3296, peak_rss_mb=155.0)


def test_chunks_of_a_layer_with_ragged_edges() -> None:
    """70 x 40 in chunks of 32 x 32: bands of 32, 32 and 6 rows, blocks of 32 and 8 columns."""
    sizes = chunk_sizes([Shape("a", 70, 40)], spec())
    assert sizes == {32 * 32: 2, 32 * 8: 2, 6 * 32: 1, 6 * 8: 1}


@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 50), st.integers(1, 50))
@settings(deadline=None)
def test_chunks_hold_every_weight_once(rows: int, cols: int, rows2: int, cols2: int) -> None:
    sizes = chunk_sizes([Shape("a", rows, cols), Shape("b", rows2, cols2)], spec())
    assert sum(size * count for size, count in sizes.items()) == rows * cols + rows2 * cols2
    total = sum(sizes.values())
    everything = expected_touched(sizes, rows * cols + rows2 * cols2)
    assert everything == pytest.approx(total)
    assert expected_touched(sizes, 1) == pytest.approx(1)
    assert expected_touched(sizes, 3) <= min(3, total) + 1e-9


def test_the_expectation_is_the_mean_over_random_masks() -> None:
    shapes = [Shape("fc1", 256, 96), Shape("fc2", 70, 250)]
    rng = np.random.default_rng(0)
    manifest = random_workload(tiny(), shapes, random_mask(shapes, 0.001, rng), 0).instance.manifest
    counts = [len(touched_chunks(manifest, random_mask(shapes, 0.001, rng))) for _ in range(400)]
    masked = round(0.001 * (256 * 96 + 70 * 250))
    expected = expected_touched(chunk_sizes(shapes, spec()), masked)
    assert expected == pytest.approx(np.mean(counts), abs=4 * np.std(counts) / math.sqrt(len(counts)))


def test_clusters_touch_fewer_chunks() -> None:
    sizes = chunk_sizes(model_shapes("vit-s-14").layers, spec())
    assert expected_touched(sizes, 7000 / 2) < expected_touched(sizes, 7000) < 7000


@given(st.integers(1, 3000), st.floats(0.001, 1), st.floats(0.01, 0.999))
@settings(deadline=None, max_examples=50)
def test_a_sample_is_as_small_as_it_can_be(touched: int, cheated: float, detection: float) -> None:
    count, bad = draws_for(touched, cheated, detection), assumed_bad(touched, cheated)
    assert detection_probability(touched, count, bad) >= detection
    assert count == 1 or detection_probability(touched, count - 1, bad) < detection


def test_the_figures_follow_from_chunks_and_rates() -> None:
    model = model_shapes("vit-s-14")
    full = estimate(model, spec(), RATES, Question(0.0005, workers=4))
    assert full["chunks"] == 12 * 2 * (1536 // 32) * (384 // 32)
    assert full["masked_weights"] == round(0.0005 * model.weights)
    proved = int(full["chunks_proved"])
    assert proved == full["chunks_touched"]
    assert full["detection_probability"] == 1.0
    assert full["weights_proved"] == proved * 1024
    assert full["prove_cpu_s"] == proved * 2.0
    assert full["prove_wall_s"] == math.ceil(proved / 4) * 2.0
    assert full["prover_memory_mb"] == 4 * 155.0
    assert full["proof_bytes"] == proved * 3296
    assert full["verify_cpu_s"] == pytest.approx(proved * 0.05)
    sampled = estimate(model, spec(), RATES, Question(0.0005, audit="sampled", workers=4))
    assert sampled["chunks_touched"] == full["chunks_touched"]
    assert int(sampled["chunks_proved"]) < proved
    assert 0.99 <= float(sampled["detection_probability"]) < 0.995
    known = estimate(model, spec(), RATES, Question(0.0005, touched=0.1))
    assert known["chunks_touched"] == round(0.1 * int(full["chunks"]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"density": 0.0},
        {"density": 1.1},
        {"density": math.nan},
        {"concentration": 0.5},
        {"concentration": math.inf},
        {"touched": 0.0},
        {"cheated": 0.0},
        {"detection": 1.0},
        {"workers": 0},
        {"audit": "random"},
    ],
)
def test_questions_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Question(**{"density": 0.01, **wrong})  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_estimate_is_within_a_quarter_of_what_then_happens(tmp_path: Path) -> None:
    """A model of 12 chunks: calibrate on 2, estimate, then prove what a random mask really touches."""
    shapes = (Shape("fc1", 96, 64), Shape("fc2", 64, 96))
    measured = prove_and_verify(tiny(), chunks=2)
    rates = RATES.model_copy(update={"prove_cpu_s": measured.prove_cpu_s, "peak_rss_mb": measured.peak_rss_mb})
    guess = estimate(ModelShapes("small", shapes), spec(), rates, Question(0.002))
    work = random_workload(tiny(), shapes, random_mask(shapes, 0.002, np.random.default_rng(5)), seed=5)
    jobs = work.write_jobs(tmp_path)
    prove_all(tiny(), list(jobs.values()))
    done = [found for job in jobs.values() if (found := finished(job)) is not None]
    assert len(done) == len(jobs)
    assert float(guess["prove_cpu_s"]) == pytest.approx(sum(cost.cpu_s for _, cost in done), rel=0.25)
    assert guess["proof_bytes"] == pytest.approx(sum(len(proof) for proof, _ in done), rel=0.25)
    assert rates.peak_rss_mb == pytest.approx(max(cost.peak_rss_mb for _, cost in done), rel=0.1)

"""What the transparent backend costs: measured under the names that halo2's figures have, and estimated for a model."""

from __future__ import annotations

import json

import pytest
from commands import zkapex

from zkapex.circuits.profiles import named_statement
from zkapex.costs.calibration import LayerRates
from zkapex.costs.estimate import Question
from zkapex.costs.layers import estimate_layers
from zkapex.costs.shapes import model_shapes
from zkapex.errors import InputError

HALO2 = {
    "profile", "kind", "curvature", "curvature_rank", "guard_rank", "freivalds", "rows_per_chunk", "block_width",
    "weights", "chunks", "workers", "cpu_ms_per_weight", "prove_cpu_s_per_chunk", "prove_wall_s", "proof_bytes",
    "proof_bytes_per_weight", "verify_cpu_us_per_weight", "prover_peak_rss_mb", "proving_key_mb",
    "verification_key_kb", "setup_s", "rows", "log2_rows", "cells_per_weight",
}  # fmt: skip
RATES = LayerRates(
    start=1.0,
    prove=(0.5, 2e-6),
    verify=(0.1, 3e-7),
    commit=(0.01, 3e-7),
    enrol=(0.1, 6e-7),
    verify_enrolment=(0.05, 1e-7),
    proof_bytes=(4e5, 1.0),
    enrolment_bytes=(3e5, 0.6),
    peak_rss_mb=(150, 1e-4),
)


@pytest.mark.parametrize(
    "kind",
    [
        "targeted-group-obs",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("guarded-group-obs", "mask-only")),
    ],
)
def test_figures_have_the_names_that_halo2s_have(kind: str) -> None:
    options = ("--profile", "tiny", "--rows", "40", "--cols", "70", "--density", "0.02", "--chunks", "1")
    kind_of = ("--kind", kind, *(("--guard-rank", "0") if kind == "mask-only" else ()))
    code, out, err = zkapex("bench", "proof", "--backend", "transparent", *options, *kind_of, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found.keys() >= HALO2
    assert found["backend"] == "transparent"
    assert (found["weights"], found["chunks"], found["setup_s"]) == (2800, 1, 0)
    for name in ("cpu_ms", "verify_cpu_us", "commit_cpu_us", "enrol_cpu_us"):
        assert found[f"{name}_per_weight"] > 0
    assert found["proof_bytes"] > 100_000
    assert 30 < found["prover_peak_rss_mb"] < 1000


@pytest.mark.slow
def test_other_widths_than_the_profiles() -> None:
    options = ("--profile", "tiny", "--rows", "40", "--cols", "70", "--density", "0.02", "--chunks", "1")
    command = ("bench", "proof", "--backend", "transparent", *options, "--json")
    code, out, err = zkapex(*command, "--block-width", "8")
    assert code == 0, err
    found = json.loads(out)
    assert found["block_width"] == 8
    assert found["block_width"] != named_statement("tiny", "guarded-group-obs", "kfac").block_width
    assert found["rows"] > 0
    code, _, err = zkapex(*command, "--block-width", "1")
    assert code == InputError.exit_code, err


def test_unknown_backends_and_what_is_not_proved_are_refused() -> None:
    code, _, err = zkapex("bench", "proof", "--backend", "none")
    assert code == InputError.exit_code, err
    code, _, err = zkapex("bench", "proof", "--backend", "transparent", "--kind", "second-moment")
    assert code == InputError.exit_code, err


def test_estimates_add_up_layer_by_layer() -> None:
    model, spec = model_shapes("vit-b-16"), named_statement("server", "guarded-group-obs", "kfac")
    found = estimate_layers(model, spec, RATES, Question(0.005))
    weights, layers = model.weights, len(model.layers)
    assert found["chunks"] == found["chunks_touched"] == found["chunks_proved"] == layers
    assert found["prove_cpu_s"] == pytest.approx(1.0 + 0.5 * layers + 2e-6 * weights)
    assert found["proof_bytes"] == pytest.approx(4e5 * layers + weights)
    assert found["detection_probability"] == 1.0
    half = estimate_layers(model, spec, RATES, Question(0.005, touched=0.5, workers=4))
    assert half["chunks_proved"] == layers // 2
    assert half["prove_wall_s"] == pytest.approx(float(half["prove_cpu_s"]) / 4)  # each of four has to start
    with pytest.raises(InputError, match="sampled"):
        estimate_layers(model, spec, RATES, Question(0.005, audit="sampled"))

"""A request on random weights goes through the whole protocol, resumes, and proves what its receipt says."""

from __future__ import annotations

from pathlib import Path

import pytest
from federation import refused

from zkapex.costs.rehearsal import RehearsalSettings, rehearse
from zkapex.costs.shapes import ModelShapes
from zkapex.costs.workload import Shape
from zkapex.errors import InputError
from zkapex.proofs.audit import draws_for
from zkapex.proofs.verify import verify_receipt

MODEL = ModelShapes("two-layers", (Shape("mlp.fc1", 64, 40), Shape("mlp.fc2", 40, 64)))
SETTINGS = RehearsalSettings("tiny", density=0.01, audit_detect=0.3, audit_cheating=0.4, workers=1)


def test_a_sampled_request_is_proved_and_resumes_to_the_same_figures(tmp_path: Path) -> None:
    figures = rehearse(MODEL, SETTINGS, tmp_path)
    drawn = draws_for(figures["chunks"], SETTINGS.audit_cheating, SETTINGS.audit_detect)
    assert 1 <= drawn == figures["proofs_verified"] == figures["chunks_proved"] < figures["chunks"] <= 8
    assert figures["masked_weights"] == round(0.01 * MODEL.weights)
    (receipt,) = (tmp_path / "receipts" / "rehearsal").glob("*")
    facts = verify_receipt(receipt).bundle.receipt.facts
    assert facts.audit_detection is not None
    assert facts.audit_detection >= 0.3
    proofs = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("proof.bin")}
    again = rehearse(MODEL, SETTINGS, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("proof.bin")} == proofs
    assert again["prove_cpu_s"] == figures["prove_cpu_s"]


@pytest.mark.parametrize("density", [0.0, -1.0, 1.5])
def test_a_density_that_makes_no_sense_is_refused(density: float) -> None:
    assert "density" in refused(lambda: RehearsalSettings(density=density), InputError).what

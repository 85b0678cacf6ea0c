"""The command line of `zkapex estimate`; what it computes is tested in tests/simulation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import here

from zkapex.circuits.statement import StatementSpec
from zkapex.costs import bench
from zkapex.costs.calibration import Rates

RATES = Rates(prove_cpu_s=2.0, verify_cpu_s=0.05, commit_cpu_s=0.01, proof_bytes=3296, peak_rss_mb=155.0)


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Nothing is measured here; what is asked for is."""
    seen: list[bool] = []

    def known(spec: StatementSpec, fresh: bool, on_start: object) -> Rates:
        seen.append(fresh)
        return RATES

    monkeypatch.setattr(bench, "rates", known)
    return seen


def test_one_json_object(capsys: pytest.CaptureFixture[str], asked: list[bool]) -> None:
    assert here("estimate", "vit-b-16", "--profile", "tiny", "--audit", "sampled", "--workers", "8", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["audit"], found["workers"]) == ("vit-b-16", "sampled", 8)
    assert found["prove_cpu_s"] == found["chunks_proved"] * 2.0
    assert found["statement"]["rows_per_chunk"] == 32
    assert found["rates"] == RATES.model_dump()
    assert asked == [False]


def test_a_table_for_people(capsys: pytest.CaptureFixture[str], asked: list[bool]) -> None:
    assert here("estimate", "opt-125m", "--profile", "tiny", "--recalibrate", "--touched", "0.01") == 0
    out = capsys.readouterr().out
    assert "chunks touched" in out
    assert "553" in out
    assert "min" in out
    assert asked == [True]


@pytest.mark.parametrize(
    "arguments",
    [["nowhere"], ["vit-b-16", "--density", "0"], ["vit-b-16", "--audit", "none"], ["vit-b-16", "--profile", "none"]],
)
def test_questions_that_cannot_be_answered(
    arguments: list[str], capsys: pytest.CaptureFixture[str], asked: list[bool], tmp_path: Path
) -> None:
    assert here("estimate", "--json", *arguments) == 10
    assert json.loads(capsys.readouterr().out)["fix"]
    assert not asked

"""Measured once, kept until anything that matters changes, and never trusted when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import spec

from zkapex.costs import calibration
from zkapex.costs.calibration import Rates, calibrated, calibration_file, machine

RATES = Rates(prove_cpu_s=2.0, verify_cpu_s=0.05, commit_cpu_s=0.01, proof_bytes=3296, peak_rss_mb=155.0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZKAPEX_CACHE", str(tmp_path))


class Meter:
    def __init__(self) -> None:
        self.readings = 0

    def __call__(self) -> Rates:
        self.readings += 1
        return RATES


def test_measuring_happens_once_per_statement() -> None:
    meter = Meter()
    assert calibrated(spec(), meter) == calibrated(spec(), meter) == RATES
    assert meter.readings == 1
    calibrated(spec(guard_rank=0), meter)
    assert meter.readings == 2
    calibrated(spec(), meter, fresh=True)
    assert meter.readings == 3


@pytest.mark.parametrize("damage", ["", "{}", RATES.model_dump_json().replace("2.0", "-2.0"), "\x00"])
def test_damaged_figures_are_measured_again(damage: str) -> None:
    meter = Meter()
    calibrated(spec(), meter)
    calibration_file(spec()).write_text(damage)
    assert calibrated(spec(), meter) == RATES
    assert meter.readings == 2
    assert [p.suffix for p in calibration_file(spec()).parent.iterdir()] == [".json"]


def test_another_processor_or_release_is_another_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    here = calibration_file(spec())
    monkeypatch.setattr(calibration, "_cpu_model", lambda: "another")
    there = calibration_file(spec())
    monkeypatch.setattr(calibration, "version", lambda name: "99")
    assert len({here, there, calibration_file(spec())}) == 3


def test_the_machine_is_named() -> None:
    found = machine()
    assert found["cpu"]
    assert found["ezkl_version"] == "23.0.5"
    assert int(found["cores"]) >= 1

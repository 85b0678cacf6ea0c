"""The soak, shortened: six devices, three requests. ``make test-soak`` runs the whole."""

from __future__ import annotations

from pathlib import Path

from soak import soak


def test_a_few_devices_and_requests(tmp_path: Path) -> None:
    found = soak(tmp_path / "site", devices=6, requests=3, seed=1)
    assert found["dishonest"] >= 1
    assert found["quarantined"] >= 1
    assert found["verdicts"]["proved"] >= 10
    assert found["verdicts"].get("waiting", 0) == 0

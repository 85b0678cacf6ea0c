"""The soak, shortened: four devices, two requests. ``make test-soak`` runs the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import soak_nodes
from soak import soak


def test_a_few_devices_and_requests(tmp_path: Path) -> None:
    found = soak(tmp_path / "site", devices=4, requests=2, seed=1)
    assert found["dishonest"] >= 1
    assert found["quarantined"] >= 1
    assert found["verdicts"]["proved"] >= 4
    assert found["verdicts"].get("waiting", 0) == 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_real_devices_and_two_requests(tmp_path: Path) -> None:
    """One is away when the second is made. ``make test-soak-nodes`` runs more of them."""
    found = soak_nodes.soak(tmp_path, devices=2, requests=2)
    assert [row["what"] for row in found["rows"]] == ["start", "request-1", "request-2"]
    for row in found["rows"]:
        assert all(row[part] for part in soak_nodes.PARTS), row

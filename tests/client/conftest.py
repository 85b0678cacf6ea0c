"""Devices to experiment with, copied from federations that are stopped at an interesting moment."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import Bench
from federation import HALO2, Federation


@pytest.fixture(scope="session")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A federation of one, stopped when the request was signed and not yet sent. Not to be changed."""
    federation = Federation(tmp_path_factory.mktemp("enrolled") / "run", clients=1, settings=HALO2)
    federation.run(lambda event: event["event"] == "unlearn.started")
    return federation


@pytest.fixture
def bench(enrolled: Federation, tmp_path: Path) -> Bench:
    """A device that has enrolled."""
    return Bench(enrolled, tmp_path / "enrolled")


@pytest.fixture
def settled(market: Federation, tmp_path: Path) -> Bench:
    """A device whose request was proved, and which has the receipt."""
    return Bench(market, tmp_path / "settled")

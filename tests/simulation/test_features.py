"""Features in the cache: made once, whoever asks at the same time, and made again if damaged."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from federation import refused
from limits import refuses

from zkapex.errors import StorageError
from zkapex.simulation.data.features import kept


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZKAPEX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


MODEL = torch.nn.Linear(2, 2)


def test_they_are_made_once_whoever_asks_at_the_same_time(cache: Path) -> None:
    made: list[int] = []

    def make() -> torch.Tensor:
        made.append(1)
        time.sleep(0.2)
        return torch.arange(6.0).half()

    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(kept, "facts", MODEL, [b"input"], make) for _ in range(4)]
    assert all(torch.equal(one.result(), torch.arange(6.0).half()) for one in found)
    assert made == [1]
    for path in (cache / "features").glob("*.npz"):
        path.write_bytes(b"PK damaged")
    assert torch.equal(kept("facts", MODEL, [b"input"], make), torch.arange(6.0).half())
    assert made == [1, 1]


def test_they_depend_on_all_that_goes_in(cache: Path) -> None:
    def value(facts: str, model: torch.nn.Module, inputs: list[bytes], number: float) -> float:
        return float(kept(facts, model, inputs, lambda: torch.tensor([number])))

    other = torch.nn.Linear(2, 2)
    assert value("a", MODEL, [b"x", b"y"], 1) == 1
    assert value("a", MODEL, [b"x", b"y"], 2) == 1
    assert value("b", MODEL, [b"x", b"y"], 3) == 3
    assert value("a", other, [b"x", b"y"], 4) == 4
    assert value("a", MODEL, [b"xy"], 5) == 5


def test_a_cache_that_cannot_be_written(cache: Path) -> None:
    cache.mkdir()
    (cache / "features").write_text("a file")
    error = refused(lambda: kept("a", MODEL, [], lambda: torch.zeros(1)), StorageError)
    assert "ZKAPEX_CACHE" in error.fix


def test_features_beyond_half_precision_are_not_kept(cache: Path) -> None:
    error = refuses("features-overflow", lambda: kept("a", MODEL, [], lambda: torch.tensor([[1.0], [1e5]]).half()))
    assert "1 infinite; the first in example 1" in error.why
    assert not list((cache / "features").glob("*.npz"))

"""The book of costs: sums, maxima, and what is on disk after every entry."""

from __future__ import annotations

from pathlib import Path

import pytest
from federation import refused

from zkapex.errors import StorageError
from zkapex.server.requests.costs import ClientCosts, CostBook


def test_costs_add_up_and_outlive_the_process(tmp_path: Path) -> None:
    book = CostBook(tmp_path / "costs.json")
    assert book.of("a") == ClientCosts()
    book.add("a", 2.5, 200.0, 6000, 0.25)
    book.add("a", 1.5, 100.0, 6000, 0.25)
    book.add("b", 1.0, 50.0, 10, 0.5)
    for one in (book, CostBook(tmp_path / "costs.json")):
        assert one.of("a") == ClientCosts(4.0, 200.0, 12000, 0.5)
        assert one.of("b") == ClientCosts(1.0, 50.0, 10, 0.5)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"a": 3}', '{"a": {"unknown": 1}}'])
def test_a_damaged_book_says_that_little_is_lost(tmp_path: Path, text: str) -> None:
    (tmp_path / "costs.json").write_text(text)
    error = refused(lambda: CostBook(tmp_path / "costs.json"), StorageError)
    assert "only timings" in error.fix


def test_a_book_that_cannot_be_written(tmp_path: Path) -> None:
    book = CostBook(tmp_path / "gone" / "costs.json")
    refused(lambda: book.add("a", 1.0, 1.0, 1, 1.0), StorageError)

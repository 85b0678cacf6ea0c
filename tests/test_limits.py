"""docs/limits.md says what the tests check, and every case has a test."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from limits import LIMITS, with_tables

ROOT = Path(__file__).parents[1]


@cache
def named_by_tests() -> set[str]:
    """The cases that tests name, in calls of `refuses` or in marks with `case`."""
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"refuses", "case"}:
                found |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


@pytest.mark.parametrize("key", LIMITS)
def test_every_case_has_a_test(key: str) -> None:
    assert key in named_by_tests()


def test_the_page_says_what_the_tests_check() -> None:
    page = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    assert page == with_tables(page), "run make limits"

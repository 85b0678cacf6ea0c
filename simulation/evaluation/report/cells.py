"""Cells of the tables of studies: means and their spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

IN_A_ROW = {
    "forget_acc": "deleted digits",
    "image_acc": "deleted images",
    "image_auc": "their AUC",
    "retain_acc": "retain",
    "test_acc": "test",
    "personal_acc": "personal",
}
"""What is shown of requests in a row, and how the columns are called."""


def per_cent(value: float) -> str:
    """A share, to a tenth of a per cent."""
    return f"{100 * value:.1f}"


def cell(values: Sequence[float], form: Callable[[float], str] = per_cent) -> str:
    """Mean ± standard deviation over seeds; of one seed its value."""
    mean = form(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ± {form(statistics.stdev(values))}"


def in_a_row(rows: Sequence[Mapping[str, float]]) -> str:
    """A line of cells of `IN_A_ROW`, each row of one seed; those that are not measured yet are empty."""
    return " | ".join(_cell_of(name, rows) for name in IN_A_ROW)


def _cell_of(name: str, rows: Sequence[Mapping[str, float]]) -> str:
    if name not in rows[0]:
        return ""
    values = [row[name] for row in rows]
    return cell(values, lambda x: f"{x:.3f}") if name == "image_auc" else cell(values)

"""Margins over many trainings, as people see them: a table, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from zkapex.simulation.evaluation.baselines import METHODS
from zkapex.simulation.evaluation.report.cells import cell

LEGEND = """\
KLOM (arXiv 2410.23232, appendix E.1): of every example, how far the distribution of its margin over {models} models
that unlearned is from that over {models} oracles of other trainings; KL divergence of histograms of 20 bins, in nats,
0 at best and 11.5 at most. Mean over examples, and in brackets the 95th percentile. Two samples of oracles differ, too:
that is the line of the oracle, below which nothing can be told apart. An oracle's margin on what it never saw is low,
but not lower than it is: whatever forgets *more* than the oracle is as far from it as what forgets less."""
COLUMNS = {"forget": "forget", "forget_test": "forget, unseen", "retain": "retain", "test": "test"}


def legend(results: Mapping[str, Any]) -> str:
    """What the table says, in words."""
    (first, *_) = results["seeds"]
    return LEGEND.format(models=first["models"])


def table(seeds: Sequence[Mapping[str, Any]]) -> str:
    """One line per method."""
    lines = ["| method | " + " | ".join(COLUMNS.values()) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for index, first in enumerate(seeds[0]["rows"]):
        rows = [seed["rows"][index] for seed in seeds]
        cells = [
            f"{cell([row[what]['mean'] for row in rows], _nats)} ({_nats(fmean(row[what]['p95'] for row in rows))})"
            for what in COLUMNS
        ]
        lines.append(f"| {METHODS[first['method']].label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Every method by how far it is from the oracle on what is deleted and on what stays; mean over seeds."""
    seeds, figure = results["seeds"], Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for index, first in enumerate(seeds[0]["rows"]):
        x, y = (fmean(seed["rows"][index][what]["mean"] for seed in seeds) for what in ("forget", "retain"))
        ours = first["method"].startswith("targeted")
        axes.plot(x, y, "o", color="#2f6f8f" if ours else "#3f3f46", markersize=7 if ours else 5)
        axes.annotate(METHODS[first["method"]].label, (x, y), xytext=(6, 3), textcoords="offset points", fontsize=8.5)
    axes.set_xlabel("KLOM on what is deleted, nats")
    axes.set_ylabel("KLOM on what stays, nats")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _nats(value: float) -> str:
    return f"{value:.2f}"

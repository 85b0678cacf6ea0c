"""Pictures of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

from zkapex.circuits.operators import declared

_COLOURS = {"before": "#9aa5b1", "masked": "#e0a458", "after": "#2f6f8f", "oracle": "#3f3f46"}


def plot_accuracy(summary: dict[str, Any], path: Path) -> None:
    """Bars of forget, retain and personal accuracy, before, with the mask alone, after, and of the oracle."""
    labels = {"before": "before", **declared(summary["settings"]["operator"]).words.marks, "oracle": "retrained oracle"}
    states = {**summary["accuracy"], "oracle": summary["oracle"]}
    rows = {state: states[state] for state in labels}
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for position, (state, values) in enumerate(rows.items()):
        heights = [values[data] or 0.0 for data in ("forget", "retain", "personal")]
        places = [group + (position - (len(rows) - 1) / 2) * width for group in range(3)]
        bars = axes.bar(places, heights, width * 0.92, label=labels[state], color=_COLOURS[state])
        axes.bar_label(bars, [f"{height:.2f}" for height in heights], padding=2, fontsize=8)
    axes.set_xticks(range(3), ["forget", "retain", "personal"])
    axes.set_ylim(0, 1.18)
    axes.set_ylabel("test accuracy")
    axes.set_title(f"Forgetting {summary['forgotten']}: mean over proved clients", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=4, fontsize=8, frameon=False, loc="upper center")
    figure.savefig(path, dpi=150)

"""Plots of an evaluation, made from ``results.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_EMPHASIS = {"targeted-tuned": "#2f6f8f", "retrain": "#3f3f46", "original": "#9aa5b1"}
_COLOURS = ("#e0a458", "#b5651d", "#7a9e7e", "#8d6a9f", "#c05780", "#5b8e7d", "#a89f68", "#d17b6c")
_MARKERS = "svD^Pp*Xo"
_STYLES = ("-", "--", ":", "-.")


def plot_trade_off(results: Mapping[str, Any], path: Path) -> None:
    """Forget against personal accuracy, the mean over seeds of every method with a bar of one standard deviation."""
    figure, axes = _figure(f"{results['scenario']}: forget against personal accuracy")
    colours = _colours(results)
    for index, (name, entry) in enumerate(results["methods"].items()):
        mean, std = entry["mean"], entry["std"]
        axes.errorbar(
            100 * mean["forget_acc"],
            100 * mean["personal_acc"],
            xerr=100 * (std["forget_acc"] or 0.0),
            yerr=100 * (std["personal_acc"] or 0.0),
            fmt=_MARKERS[index % len(_MARKERS)],
            markersize=10 if name in _EMPHASIS else 7,
            color=colours[name],
            elinewidth=0.8,
            label=entry["label"],
        )
    axes.set_xlabel("accuracy on what is to be forgotten, %")
    axes.set_ylabel("personal test accuracy, %")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)


def _colours(results: Mapping[str, Any]) -> dict[str, str]:
    """A colour for each method."""
    spare = [name for name in results["methods"] if name not in _EMPHASIS]
    return {**_EMPHASIS, **{name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(spare)}}


def plot_undone(results: Mapping[str, Any], path: Path) -> None:
    """Forget accuracy as it is, and after the best attacks without data, of every method; the oracle's as lines."""
    figure, axes = _figure(f"{results['scenario']}: what comes back without data")
    shown = {
        "forget_acc": ("as it is", "#9aa5b1"),
        "undone_forget_acc": ("best attack, 2 points of retain accuracy lost", "#2f6f8f"),
        "undone_forget_acc_5": ("best attack, 5 points lost", "#c05780"),
    }
    methods = {name: entry for name, entry in results["methods"].items() if "undone_forget_acc" in entry["mean"]}
    width = 0.8 / len(shown)
    for number, (metric, (label, colour)) in enumerate(shown.items()):
        places = [place + (number - 1) * width for place in range(len(methods))]
        heights = [100 * entry["mean"][metric] for entry in methods.values()]
        errors = [100 * (entry["std"][metric] or 0.0) for entry in methods.values()]
        axes.bar(places, heights, width * 0.92, yerr=errors, color=colour, label=label, error_kw={"elinewidth": 0.7})
        if "retrain" in methods and number:
            axes.axhline(100 * methods["retrain"]["mean"][metric], color=colour, linewidth=0.8, linestyle="--")
    axes.set_xticks(
        range(len(methods)), [entry["label"] for entry in methods.values()], fontsize=8, rotation=30, ha="right"
    )
    axes.set_ylabel("accuracy on what is to be forgotten, %\n(dashed: the oracle under the same attacks)")
    figure.legend(fontsize=8, frameon=False, ncols=3, loc="outside lower center")
    figure.savefig(path, dpi=120)


def plot_kshot(results: Mapping[str, Any], path: Path) -> None:
    """Forget accuracy after training on a few examples of what was forgotten, a line per method."""
    figure, axes = _figure(f"{results['scenario']}: relearning from a few examples")
    colours = _colours(results)
    for index, (name, entry) in enumerate(results["methods"].items()):
        curve = entry["mean"].get("kshot_forget_acc")
        if curve is None:
            continue
        shots = [int(shots) for shots in curve]
        axes.plot(
            shots,
            [100 * value for value in curve.values()],
            _STYLES[0] if name in _EMPHASIS else _STYLES[1 + index % 3],
            marker=_MARKERS[index % len(_MARKERS)],
            linewidth=2.2 if name in _EMPHASIS else 1.0,
            color=colours[name],
            label=entry["label"],
        )
        axes.set_xticks(shots)
    axes.set_xlabel("examples of what was forgotten that the attacker holds")
    axes.set_ylabel("accuracy on what is to be forgotten, %")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)


def plot_cost(results: Mapping[str, Any], path: Path) -> None:
    """What relearning from five examples brings back, against the chunks that a client has to prove."""
    figure, axes = _figure(f"{results['scenario']}: forgetting against the cost of its proof")
    colours, plans = _colours(results), [seed["plan"] for seed in results["seeds"]]
    masked = sum(plan["chosen"]["touched_chunks"] for plan in plans) / len(plans)
    targets = [plan["targets"]["touched_chunks"] for plan in plans if plan.get("targets")]
    chunks = dict.fromkeys(("mask-only", "group-obs", "guarded-group-obs"), masked)
    if targets:
        mean = sum(targets) / len(targets)
        chunks |= {"targeted-group-obs": mean, "targeted-tuned": 2 * mean}
    for index, (name, count) in enumerate(chunks.items()):
        entry = results["methods"].get(name)
        if entry is None or "kshot_forget_acc" not in entry["mean"]:
            continue
        y, spread = (100 * (entry[what]["kshot_forget_acc"]["5"] or 0.0) for what in ("mean", "std"))
        style = _MARKERS[index % len(_MARKERS)]
        axes.errorbar(count, y, yerr=spread, fmt=style, markersize=8, color=colours[name], label=entry["label"])
    oracle = results["methods"]["retrain"]["mean"]["kshot_forget_acc"]["5"]
    axes.axhline(100 * oracle, color=_EMPHASIS["retrain"], linewidth=0.8, linestyle="--", label="oracle")
    axes.set_xlim(left=0)
    axes.set_xlabel("chunks that a client proves (trained on: those of the deletion and of the enrolment after it)")
    axes.set_ylabel("forget accuracy after relearning from 5 examples, %")
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


def plot_density(results: Mapping[str, Any], path: Path) -> None:
    """Share of masked weights per layer, for every seed."""
    figure, axes = _figure(f"{results['scenario']}: masked weights per layer")
    seeds = results["seeds"]
    width = 0.8 / len(seeds)
    for position, seed in enumerate(seeds):
        density = seed["plan"]["density"]
        places = [layer + (position - (len(seeds) - 1) / 2) * width for layer in range(len(density))]
        heights = [100 * share for share in density.values()]
        axes.bar(places, heights, width * 0.92, color=_COLOURS[position % len(_COLOURS)], label=f"seed {seed['seed']}")
        axes.set_xticks(range(len(density)), list(density), fontsize=8)
    axes.set_ylabel("masked, %")
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


def plot_curve(results: Mapping[str, Any], path: Path) -> None:
    """What growing masks do on the provider's copies: forgetting, with the margin, and the accuracy it costs."""
    figure, axes = _figure(f"{results['scenario']}: the provider's search")
    for index, seed in enumerate(results["seeds"]):
        weights, colour = seed["plan"]["weights"], _COLOURS[index % len(_COLOURS)]
        curves: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
        for step in seed["plan"]["curve"]:
            curves.setdefault((step["scorer"], step["guard_rank"]), []).append(step)
        for number, ((scorer, rank), steps) in enumerate(curves.items()):
            share = [100 * step["masked_weights"] / weights for step in steps]
            forget = [100 * step["forget_raised"] for step in steps]
            cost = [100 * max(step["retain_loss"], step["personal_loss"]) for step in steps]
            style, label = _STYLES[number % len(_STYLES)], f"seed {seed['seed']}, {scorer}, rank {rank}"
            axes.plot(share, forget, style, color=colour, label=label)
            axes.plot(share, cost, style, color=colour, linewidth=0.8, alpha=0.5)
    axes.set_xlabel("masked weights, %")
    axes.set_ylabel("worst copy: forget accuracy with the margin (thick),\nretain or personal accuracy lost (thin), %")
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes: Axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def plot_sequence(results: Mapping[str, Any], path: Path) -> None:
    """Requests in a row: accuracy on what was deleted so far and on what stays, mean over seeds and their range."""
    seeds, figure = results["seeds"], Figure(figsize=(10, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, metric, title in zip(
        panels, ("forget_acc", "personal_acc"), ("digits deleted so far", "personal, unseen"), strict=True
    ):
        for index, chain in enumerate(seeds[0]["steps"][0]["chains"]):
            places, curves = [], []
            for number, step in enumerate(seeds[0]["steps"]):
                for offset, moment in enumerate(m for m in ("after", "later") if m in step["chains"][chain]):
                    places.append(number + 0.5 * offset)
                    curves.append([100 * seed["steps"][number]["chains"][chain][moment][metric] for seed in seeds])
            colour = _EMPHASIS.get(chain, _COLOURS[index % len(_COLOURS)])
            means = [sum(values) / len(values) for values in curves]
            axes.plot(places, means, _STYLES[index % len(_STYLES)], marker=".", color=colour, label=chain)
            axes.fill_between(places, [min(v) for v in curves], [max(v) for v in curves], color=colour, alpha=0.12)
        oracle = [100 * seed["oracle"][metric] for seed in seeds]
        last = len(seeds[0]["steps"]) - 1
        axes.plot([last + 0.5], [sum(oracle) / len(oracle)], "D", color=_EMPHASIS["retrain"], label="oracle")
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("requests so far; halfway to the next: after more personalisation")
        axes.set_ylabel("accuracy, %")
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


def plot_concentration(results: Mapping[str, Any], path: Path, ms_per_weight: float) -> None:
    """Accuracy of the clients against the CPU time of their proofs, mean over seeds, a point per concentration."""
    seeds = results["seeds"]
    figure, axes = _figure(f"{results['scenario']}: accuracy against proof cost")
    rows = list(zip(*(seed["rows"] for seed in seeds), strict=True))
    scale = seeds[0]["chunk_weights"] * ms_per_weight / 1e3
    cost = [scale * sum(row["chosen"]["touched_chunks"] for row in same) / len(same) for same in rows]
    metrics = {"personal_acc": "personal", "retain_acc": "retain", "test_acc": "test", "forget_acc": "forget"}
    for index, (metric, label) in enumerate(metrics.items()):
        values = [[100 * row["after"][metric] for row in same] for same in rows]
        means = [sum(v) / len(v) for v in values]
        errors = [[m - min(v) for m, v in zip(means, values, strict=True)],
                  [max(v) - m for m, v in zip(means, values, strict=True)]]  # fmt: skip
        style = f"{_MARKERS[index]}{_STYLES[0]}"
        axes.errorbar(cost, means, yerr=errors, fmt=style, color=_COLOURS[index], elinewidth=0.8, label=label)
    for x, same in zip(cost, rows, strict=True):
        axes.annotate(f"{same[0]['concentration']:g}", (x, 75), fontsize=8, ha="center")
    axes.set_xlabel("CPU seconds to prove one client's touched chunks; the numbers are concentrations")
    axes.set_ylabel("accuracy after unlearning, % (bars: range over seeds)")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)


def plot_scorers(results: Mapping[str, Any], path: Path) -> None:
    """Accuracies by scorer, mean over seeds and their range, of the repair without and with steering."""
    seeds, figure = results["seeds"], Figure(figsize=(10, 4.5), layout="constrained")
    names = [row["scorer"] for row in seeds[0]["rows"]]
    metrics = {"forget_acc": "forget", "retain_acc": "retain", "personal_acc": "personal"}
    panels = figure.subplots(1, 2, sharey=True)
    for axes, way, title in zip(panels, ("plain", "steered"), ("repaired, not steered", "steered"), strict=True):
        for number, (metric, label) in enumerate(metrics.items()):
            for place in range(len(names)):
                found = [seed["rows"][place][way] for seed in seeds]
                values = [100 * one[metric] for one in found if one]
                if not values:
                    continue
                y, colour = place + 0.2 * (number - 1), _COLOURS[number]
                axes.plot([min(values), max(values)], [y, y], color=colour, linewidth=0.8)
                mean = sum(values) / len(values)
                axes.plot([mean], [y], _MARKERS[number], color=colour, label=None if place else label)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("accuracy, % (lines: range over seeds)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_yticks(range(len(names)), names, fontsize=9)
    panels[0].invert_yaxis()
    panels[1].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)

"""Requests in a row along directions that stay, as people see them: a table, and a picture of the attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from zkapex.simulation.evaluation.report.cells import IN_A_ROW, cell, in_a_row

LEGEND = """\
Ten requests, a digit and then 25 images of digits that stay, five times over, by targets in all of {layers} layers:
every request prescribes along directions of its own ({directions} of {width} in a block in the end), and all stay.
`deleted digits` is accuracy on the training images of all digits deleted so far, `deleted images` on all images
deleted one by one so far, `their AUC` how well a model's confidence tells those from unseen images; `retain` is
accuracy on training images of the digits that stay, `test` and `personal` on unseen ones. After each request come the
unlearned models, then the same ones trained on with all targets held. The oracle never saw anything that was deleted.

At the end every deleted digit is attacked: `undone` is the best attempt without data, with all that the last receipt
holds, at 2 and 5 points of retain accuracy lost; then relearning from 1, 2, 5 and 10 examples. Mean over clients."""
_MOMENTS = {"after": "at once", "later": "trained on"}
_WHOSE = {"unlearned": "unlearned", "oracle": "oracle"}
_COLOURS = {"unlearned": "#2f6f8f", "oracle": "#3f3f46"}


def legend(results: Mapping[str, Any]) -> str:
    """What the table says, in words."""
    (first, *_) = results["seeds"]
    return LEGEND.format(layers=first["layers"], directions=first["directions"], width=first["width"])


def table(seeds: Sequence[Mapping[str, Any]]) -> str:
    """Two tables in markdown: after every request, and the attacks at the end."""
    lines = ["| after request | models | " + " | ".join(IN_A_ROW.values()) + " |",
             "| --- | --- |" + " ---: |" * len(IN_A_ROW)]  # fmt: skip
    for index in range(len(seeds[0]["steps"])):
        steps = [seed["steps"][index] for seed in seeds]
        head = f"{index} ({'digit' if index % 2 else 'images'})" if index else "none"
        for moment, words in _MOMENTS.items():
            if moment in steps[0]:
                label = words if index else "before"
                lines.append(f"| {head} | {label} | {in_a_row([step[moment] for step in steps])} |")
    lines.append(f"| {len(seeds[0]['steps']) - 1} | **oracle** | {in_a_row([seed['oracle'] for seed in seeds])} |")
    shots = list(seeds[0]["attacked"]["unlearned"][0]["kshot"])
    heads = ["deleted", "models", "forget", "undone, 2", "undone, 5", *(f"k = {k}" for k in shots)]
    lines += ["", f"| {' | '.join(heads)} |", "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    for place in range(len(seeds[0]["attacked"]["unlearned"])):
        for whose in _WHOSE:
            rows = [seed["attacked"][whose][place] for seed in seeds]
            values = [[row[name] for row in rows] for name in ("forget", "undone", "undone_5")]
            values += [[row["kshot"][k] for row in rows] for k in shots]
            lines.append(f"| digit {place + 1} | {_WHOSE[whose]} | {' | '.join(map(cell, values))} |")
    return "\n".join(lines) + "\n"


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Bars of what attacks bring back of each deleted digit, beside the oracle's; mean over seeds."""
    seeds, figure = results["seeds"], Figure(figsize=(10, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"undone": "best attack without data", "5": "relearned from 5 examples"}
    for axes, (what, title) in zip(panels, titles.items(), strict=True):
        for offset, whose in enumerate(_WHOSE):
            rows = [seed["attacked"][whose] for seed in seeds]
            of = [
                [row[place].get(what, row[place]["kshot"].get(what)) for row in rows] for place in range(len(rows[0]))
            ]
            places = [place + 0.4 * (offset - 0.5) for place in range(len(of))]
            heights = [100 * fmean(values) for values in of]
            axes.bar(places, heights, 0.36, color=_COLOURS[whose], label=_WHOSE[whose])
        axes.set_title(title, fontsize=11)
        axes.set_xticks(range(len(seeds[0]["attacked"]["oracle"])))
        axes.set_xticklabels([f"digit {k + 1}" for k in range(len(seeds[0]["attacked"]["oracle"]))], fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy on the deleted digit, %")
    panels[1].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)

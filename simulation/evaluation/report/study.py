"""Studies as people see them: tables and plots, made from ``results.json`` alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zkapex.errors import StorageError
from zkapex.simulation.evaluation.baselines import METHODS
from zkapex.simulation.evaluation.report import directions, margins
from zkapex.simulation.evaluation.report.cells import IN_A_ROW, cell, in_a_row
from zkapex.simulation.evaluation.report.figures import plot_concentration, plot_scorers, plot_sequence
from zkapex.storage import save_text

FORMAT = 1
SEQUENCE_LEGEND = """\
`deleted digits` is accuracy on the training images of all digits deleted so far, `deleted images` on all images
deleted one by one so far, and `their AUC` how well a model's confidence tells those from unseen images; `retain` is
accuracy on the training images that are left of the digits that stay, `test` and `personal` on unseen ones. After
each request come the unlearned models, then the same ones after the personalisation that precedes the next request,
masked weights held at zero. Plain Group-OBS and the mask alone go through the same requests with the masks that were
chosen for the guarded operator. The first line is the personalised models before any request, on everything that
will be deleted. The oracle is trained and personalised from the start without anything that was deleted, but not as
long: clients personalise on after every request, so its personal accuracy is no bound. The search's settings are
those of `digits`, with fewer copies and coarser steps."""
CONCENTRATION_LEGEND = """\
`concentration` 0 takes the most salient weights wherever they are, 1 fills as few chunks as can hold the mask; the
search stops at the same forget target for all. `proof` is the CPU time to prove all touched chunks on one client, at
the {ms:.2f} CPU-ms per weight of this circuit (`zkapex bench proof --profile tiny --guard-rank 2`, on the machine of
[performance.md](performance.md)). `reached` says on how many seeds the search reached its target on the provider's
copies. Where it did not, the next larger mask left the circuit's range: too few weights of a row were free to repair
it. The row then shows the mask before it, which forgets too little."""
SCORERS_LEGEND = """\
Every scorer masks {masked} of the {weights} target weights, in the steps of the scenario's own search; they are
defined in [operators.md](operators.md#how-weights-are-scored). `alone`: these weights are zeroed, nothing is repaired.
`repaired`: guarded Group-OBS without steering. `steered`: with it, as the scenario has it. `reached` says on how many
seeds the steered repair came down to the search's target on the provider's copies, within the cost it allows."""
PROVE_CPU_MS_PER_WEIGHT = 1.77
"""Of the `tiny` profile at guard rank 2."""


def write_study(results: Mapping[str, Any], out: Path) -> None:
    """Write ``results.json``, ``table.md`` and ``study.png`` into a folder.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    save_text(out / "results.json", json.dumps(results, indent=1))
    save_text(out / "table.md", table(results))
    plot(results, out / "study.png")


def plot(results: Mapping[str, Any], path: Path) -> None:
    """The study's one plot. Raises StorageError if it cannot be written."""
    try:
        if results["kind"] == "sequence":
            plot_sequence(results, path)
        elif results["kind"] == "scorers":
            plot_scorers(results, path)
        elif results["kind"] == "directions":
            directions.plot(results, path)
        elif results["kind"] == "margins":
            margins.plot(results, path)
        else:
            plot_concentration(results, path, PROVE_CPU_MS_PER_WEIGHT)
    except OSError as e:
        raise StorageError(f"cannot write {path}", why=str(e), fix="free disk space and run again") from e


def table(results: Mapping[str, Any]) -> str:
    """The study's one table, in markdown: mean ± standard deviation over seeds, accuracies in per cent."""
    tables = {
        "sequence": _sequence,
        "concentration": _concentration,
        "scorers": _scorers,
        "directions": directions.table,
        "margins": margins.table,
    }
    return tables[results["kind"]](results["seeds"])


def section(results: Mapping[str, Any]) -> str:
    """The study's part of ``docs/results.md``."""
    name = results["scenario"]
    commits = ", ".join(f"`{commit}`" for commit in results["commits"])
    legend = SEQUENCE_LEGEND
    if results["kind"] == "concentration":
        legend = CONCENTRATION_LEGEND.format(ms=PROVE_CPU_MS_PER_WEIGHT)
    elif results["kind"] == "directions":
        legend = directions.legend(results)
    elif results["kind"] == "margins":
        legend = margins.legend(results)
    elif results["kind"] == "scorers":
        (first, *_) = results["seeds"]
        legend = SCORERS_LEGEND.format(masked=first["rows"][0]["chosen"]["masked_weights"], weights=first["weights"])
    parts = [
        f"## `{name}`\n",
        f"{results['title']}. Made by `zkapex evaluate {name} --seeds {len(results['seeds'])} --out DIR` at commit "
        f"{commits}.\n",
        "\n".join(f"* seed {run['seed']}: {run['note']}" for run in results["seeds"]) + "\n",
        legend + "\n",
        table(results),
        f"![{results['title']}](results/{name}-study.png)\n",
    ]
    return "\n".join(parts)


def _sequence(seeds: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| after request | masked | method | " + " | ".join(IN_A_ROW.values()) + " |",
        "| --- | ---: | --- |" + " ---: |" * len(IN_A_ROW),
    ]
    count = len(seeds[0]["steps"])
    for index in range(count):
        steps = [seed["steps"][index] for seed in seeds]
        masked = cell([step["density"] for step in steps])
        moments = [("guarded-group-obs", "after")] if index == 0 else [("guarded-group-obs", m) for m in MOMENTS]
        if index in (count // 2, count - 1):
            moments += [(chain, "after") for chain in ("group-obs", "mask-only")]
        for chain, moment in moments:
            what = "digit" if index % 2 else "images"
            head = f"{index} ({what})" if index else "none"
            method = METHODS[chain].label if index else METHODS["original"].label
            label = f"{method}, {MOMENTS[moment]}" if index and chain == "guarded-group-obs" else method
            rows = [step["chains"][chain][moment] for step in steps]
            lines.append(f"| {head} | {masked} | {label} | {in_a_row(rows)} |")
    oracle = in_a_row([seed["oracle"] for seed in seeds])
    lines.append(f"| {count - 1} | | **{METHODS['retrain'].label}** | {oracle} |")
    return "\n".join(lines) + "\n"


MOMENTS = {"after": "at once", "later": "personalised on"}


def _concentration(seeds: Sequence[Mapping[str, Any]]) -> str:
    measured = {"forget_acc": "forget", "forget_test_acc": "forget, unseen", "retain_acc": "retain",
                "test_acc": "test", "personal_acc": "personal"}  # fmt: skip
    lines = [
        "| concentration | masked | chunks touched | proof, CPU s | reached | "
        + " | ".join(measured.values())
        + " | personal, mask alone |",
        "| --- |" + " ---: |" * (5 + len(measured)),
        "| before | | | | | "
        + " | ".join(cell([seed["before"][name] for seed in seeds]) for name in measured)
        + " | |",
    ]
    for index, first in enumerate(seeds[0]["rows"]):
        rows = [seed["rows"][index] for seed in seeds]
        cells = [
            cell([row["chosen"]["masked_weights"] / seed["weights"] for row, seed in zip(rows, seeds, strict=True)]),
            cell([row["chosen"]["touched_chunks"] for row in rows], lambda x: f"{x:.1f}") + f" of {seeds[0]['chunks']}",
            cell([prove_cpu_s(seed, row) for row, seed in zip(rows, seeds, strict=True)], lambda x: f"{x:.0f}"),
            f"{sum(row['chosen']['reaches_target'] for row in rows)} of {len(rows)}",
            *(cell([row["after"][name] for row in rows]) for name in measured),
            cell([row["mask_only"]["personal_acc"] for row in rows]),
        ]
        lines.append(f"| {first['concentration']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _scorers(seeds: Sequence[Mapping[str, Any]]) -> str:
    shown = {"forget_acc": "forget", "retain_acc": "retain", "personal_acc": "personal"}
    ways = {"mask_only": "alone", "plain": "repaired", "steered": "steered"}
    lines = [
        "| scorer | "
        + " | ".join(f"{label}, {way}" for way in ways.values() for label in shown.values())
        + " | reached |",
        "| --- |" + " ---: |" * (len(ways) * len(shown) + 1),
    ]
    before = " | ".join(cell([seed["before"][name] for seed in seeds]) for name in shown)
    lines.append(f"| before | {before} |" + " |" * ((len(ways) - 1) * len(shown) + 1))
    for index, first in enumerate(seeds[0]["rows"]):
        rows = [seed["rows"][index] for seed in seeds]
        cells = [
            cell([row[way][name] for row in rows]) if all(row[way] for row in rows) else "out of range"
            for way in ways
            for name in shown
        ]
        good = sum(row["chosen"]["reaches_target"] and row["chosen"]["within_cost"] for row in rows)
        lines.append(f"| `{first['scorer']}` | {' | '.join(cells)} | {good} of {len(rows)} |")
    return "\n".join(lines) + "\n"


def prove_cpu_s(seed: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    """CPU seconds to prove the touched chunks; padding is proved too."""
    return float(row["chosen"]["touched_chunks"] * seed["chunk_weights"] * PROVE_CPU_MS_PER_WEIGHT / 1e3)

"""Results that people look at: one JSON file, a table, plots, and the page of the documentation.

Everything but ``results.json`` itself is made from it, so that what the documentation shows is what was measured.
``python -m zkapex.simulation.evaluation.report.report RESULTS DOCS`` writes ``DOCS/results.md`` from every
``RESULTS/*.json``, and what runs of Flower came to from ``RESULTS/runs/*.json``.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zkapex.errors import Error, InputError, StorageError
from zkapex.simulation.evaluation.baselines import METHODS
from zkapex.simulation.evaluation.metrics import CURVES, METRICS, SHOTS
from zkapex.simulation.evaluation.report.figures import (
    plot_cost,
    plot_curve,
    plot_density,
    plot_kshot,
    plot_trade_off,
    plot_undone,
)
from zkapex.simulation.evaluation.report.runs import read_runs
from zkapex.simulation.evaluation.report.runs import section as section_of_runs
from zkapex.simulation.evaluation.report.study import plot, section
from zkapex.simulation.evaluation.targets import ORACLE, Target, judge, ours
from zkapex.simulation.scenarios import scenario_config
from zkapex.storage import load_json, save_text

FORMAT = 1
COLUMNS = {
    "forget_acc": "forget",
    "forget_test_acc": "forget, unseen",
    "retain_acc": "retain",
    "test_acc": "test",
    "personal_acc": "personal",
    "mia_auc": "MIA AUC",
    "mia_tpr_at_0.1pct_fpr": "TPR at 0.1 % FPR",
    "lira_auc": "LiRA AUC",
    "relearn_forget_acc": "relearned",
    "int8_forget_acc": "INT8",
    "int4_forget_acc": "INT4",
    "probe_auc": "probe AUC",
    "cka_to_retrain": "CKA",
    "seconds": "seconds",
}

ATTACKED = {
    "undone_forget_acc": "undone, 2",
    "undone_forget_acc_5": "undone, 5",
    "undone_by_receipt_forget_acc": "by the receipt",
    "undone_mia_auc": "MIA AUC, undone",
    "restored_forget_acc": "restored",
    "probe_kshot_auc": "5-shot probe AUC",
}
ATTACKS = """\
What attackers bring back: `undone` is forget accuracy after the best attempt without any data, at 2 and 5 points of
retain accuracy lost at most: what a receipt holds subtracted, added or scaled, zeroed weights refilled, the head's row
rebuilt or its logit raised, clients' models averaged (`simulation/evaluation/metrics/undo.py` has all of them); `by the
receipt` the best, at 2 points, of those alone that use what a receipt holds. On models that never met the operator the
same is tried with the operator's receipt. `k` is forget accuracy after training on k examples of what was forgotten
beside retain data, at the better of two learning rates; `head` the same with the head alone. `restored` puts one
block's output of the original in place of the model's own, and `5-shot probe AUC` is that of a ridge probe of a block's
output, fitted to five examples. An oracle is not immune to any of it: what counts is the distance to the oracle."""

LEGEND = """\
`forget` is accuracy on the training examples that are deleted, a class, some people's or single ones; `forget,
unseen` on others of the same kind that nobody trained on; `retain` on training examples of the others, `test` on
unseen ones, `personal` on unseen examples of the client's own domain. In `code-lm` the class is a programming
language, an example is a window of its tokens, and accuracy is the share of tokens that are the model's first guess;
the oracle, too, knows the language from pretraining. `MIA AUC` and `TPR at 0.1 % FPR` are RMIA, `LiRA AUC` is offline
LiRA, both on what is deleted against examples of its kind that nobody trained on; what counts is the distance to the
oracle, from above or below. Where people or single images leave and others like them stay, to forget is to come down
to the oracle, not to 0. Of a backdoor `forget` is the attack's success. `relearned` is forget accuracy after one more
epoch on retain data alone with nothing held at zero, `INT8` and `INT4` after rounding all linear layers. `probe AUC`
says how well a linear probe of the last representation tells unseen examples of the kind that is deleted from others,
again to be compared with the oracle's; `CKA` compares that representation itself with the oracle's. `seconds` is what
the deletion took on one core: all clients one after the other, and the provider's search, or the oracle's training; by
the clock, so that a machine with other work to do shows (`digits` and `mnist-writers` were run on one)."""


def assemble(scenario: str, title: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The contents of ``results.json`` from the results of every method and seed.

    Raises
    ------
    InputError
        The oracle is missing for a seed.
    """
    oracle = {run["seed"]: run["metrics"] for run in runs if run["method"] == ORACLE}
    if not oracle or any(run["seed"] not in oracle for run in runs):
        raise InputError("results without the oracle have nothing to be compared with")
    methods: dict[str, Any] = {}
    for run in runs:
        entry = methods.setdefault(
            run["method"], {"label": METHODS[run["method"]].label, "source": METHODS[run["method"]].source, "runs": []}
        )
        gap = {
            name: _each(lambda pair: pair[0] - pair[1], [run["metrics"][name], oracle[run["seed"]][name]])
            for name in (*METRICS, *CURVES)
        }
        entry["runs"].append({
            "seed": run["seed"], **run["metrics"], "gap_to_retrain": gap, "clients": run["clients"],
        })  # fmt: skip
    for entry in methods.values():
        rows = entry["runs"]
        names = (*METRICS, *CURVES)
        entry["mean"] = {name: _each(statistics.fmean, [row[name] for row in rows]) for name in names}
        entry["std"] = {name: _each(_spread, [row[name] for row in rows]) for name in names}
        entry["gap_to_retrain"] = {
            name: _each(statistics.fmean, [row["gap_to_retrain"][name] for row in rows]) for name in names
        }
    seeds = [
        {"seed": run["seed"], "note": run["note"], "plan": run["plan"], "stages": run["stages"]}
        for run in runs
        if run["method"] == ORACLE
    ]
    results = {
        "format": FORMAT,
        "scenario": scenario,
        "title": title,
        "commits": sorted({run["commit"] for run in runs}),
        "seeds": seeds,
        "methods": methods,
    }
    return {**results, "targets": [target.as_object() for target in judge(methods)]}


def _each(what: Callable[[Sequence[float]], Any], values: Sequence[Any]) -> Any:
    """What becomes of several numbers, or of each entry of several curves."""
    if isinstance(values[0], Mapping):
        return {key: what([value[key] for value in values]) for key in values[0]}
    return what(values)


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def write_report(results: Mapping[str, Any], out: Path) -> None:
    """Write ``results.json``, ``table.md`` and the plots into a folder.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    save_text(out / "results.json", json.dumps(results, indent=1))
    save_text(out / "table.md", table(results) + "\n" + attack_table(results))
    plots(results, out, "")


def table(results: Mapping[str, Any]) -> str:
    """Methods by metrics as a markdown table, mean ± standard deviation over seeds; accuracies in per cent."""
    lines = ["| method | " + " | ".join(COLUMNS.values()) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for name, entry in results["methods"].items():
        cells = [
            _cell(column, entry["mean"][column], entry["std"][column]) if column in entry["mean"] else "-"
            for column in COLUMNS
        ]
        label = f"**{entry['label']}**" if name == ours(results["methods"]) else entry["label"]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def attacked(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The methods that were attacked; none of results that were made before there were attacks."""
    return [entry for entry in results["methods"].values() if CURVES[0] in entry["mean"]]


def not_measured(results: Mapping[str, Any]) -> list[str]:
    """The scenario's methods that its results lack, because they are newer."""
    wanted = scenario_config(results["scenario"]).methods
    return [name for name in wanted if name not in results["methods"]]


def attack_table(results: Mapping[str, Any]) -> str:
    """What attackers bring back, methods by attack, mean ± standard deviation over seeds, in per cent.

    Empty for results that were made before there were attacks.
    """
    entries = attacked(results)
    if not entries:
        return ""
    columns = [*ATTACKED.values(), *(f"k = {shots}" for shots in SHOTS), *(f"head, {shots}" for shots in SHOTS)]
    lines = ["| method | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for entry in entries:
        mean, std = entry["mean"], entry["std"]
        cells = [_cell(name, mean[name], std[name]) if name in mean else "-" for name in ATTACKED]
        for curve in CURVES:
            cells += [_cell(curve, mean[curve][str(shots)], std[curve][str(shots)]) for shots in SHOTS]
        lines.append(f"| {entry['label']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def page(all_results: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]] = ()) -> str:
    """``docs/results.md``, of evaluations and of runs of Flower."""
    parts = [
        "# Results\n",
        "**Does it come back?** That is what a sceptic asks of anything that claims to have been forgotten, so it "
        "comes first: for each scenario what attackers bring back, then what the deletion cost, then whether the "
        "targets were reached. What is to be compared is always the oracle, which never saw what is deleted: an attack "
        "that works on it, too, brings nothing back that was there.\n",
        "Written by `make results` from `results/*.json`, which `zkapex evaluate` made, and `results/runs/*.json`, "
        "which `zkapex demo` did; not edited by hand.\n",
        "Every model is evaluated on the quantised weights that would be proved. Each number is the mean over the "
        "clients of a seed, then mean ± standard deviation over seeds; accuracies in per cent.\n",
        "The comparison is not even. Baselines use the hyperparameters they were published with, for other models "
        "than these, and are given the raw examples to forget, which no client has. The operators see only what a "
        "request says, but the settings of the search that makes it (targets: layers, rank, weights of the loss, and "
        "how devices train on, at seeds 0 to 2 of `digits`; the margin of targets at seed 0 of `mnist-writers`; masks: "
        "scorer, guard rank, sizes and margins) were "
        "chosen while looking at these scenarios: at seeds 0 to 2 of `digits`, `mnist-writers` and `pacs`, at "
        "seeds 0 and 1 of `mnist-writers-poison` and `pacs-samples`, at seed 0 of `mnist-writers-leave` and `code-lm`; "
        "seeds 3 to 5 of `digits` had no part in that but for the scorer, which was changed after a look at all six, "
        "and those of `mnist-writers` had none. "
        "In `pacs-samples` the provider is taken to hold the photographs of the federation, "
        "and trains two models of its own on them, one without those that leave. "
        "Plain Group-OBS and the mask alone use the mask that was chosen for the guarded operator; where that is one "
        "for a steered repair (`selective`), nobody would choose it for them: "
        "[adr/0021](adr/0021-selective-masks.md) has figures with masks that forget by themselves.\n",
        ATTACKS + "\n",
        LEGEND + "\n",
    ]
    compared = [results for results in all_results if "kind" not in results]
    for results in compared:
        name = results["scenario"]
        commits = ", ".join(f"`{commit}`" for commit in results["commits"])
        again = f"`zkapex evaluate {name} --seeds {len(results['seeds'])} --out DIR`"
        parts.append(f"## `{name}`\n")
        parts.append(f"{results['title']}. Made by {again} at commit {commits}.\n")
        seeds = [f"* seed {seed['seed']}: {seed['note']}{_mask(seed)}" for seed in results["seeds"]]
        parts.append("\n".join(seeds) + "\n")
        if attacked(results):
            parts += ["### What attackers bring back\n", attack_table(results)]
            parts.append(
                f"![Forget accuracy after the best attacks without data](results/{name}-undone.png)\n\n"
                f"![Forget accuracy after training on a few examples](results/{name}-kshot.png)\n\n"
                f"![Forgetting against the cost of its proof](results/{name}-cost.png)\n"
            )
        else:
            parts.append("**Not attacked yet**: these figures were made before attacks were measured.\n")
        if missing := not_measured(results):
            names = ", ".join(METHODS[one].label for one in missing)
            parts.append(f"**Not measured yet**, as methods that came later or were left out: {names}.\n")
        parts += ["### What it costs\n", table(results)]
        parts.append(f"What was aimed at, for {results['methods'][ours(results['methods'])]['label']}:\n")
        parts.append(_targets(results))
        parts.append(
            f"![Forget against personal accuracy of all methods](results/{name}-accuracy.png)\n\n"
            f"![Share of masked weights per layer](results/{name}-density.png)\n\n"
            f"![What growing masks do on the provider's copies](results/{name}-curve.png)\n"
        )
    parts += [section(results) for results in all_results if "kind" in results]
    if runs:
        parts.append(section_of_runs(runs))
    parts.append("## Where the methods come from\n")
    sources = {entry["label"]: entry["source"] for results in compared for entry in results["methods"].values()}
    newer = [METHODS[name] for results in compared for name in not_measured(results)]
    sources = {**{method.label: method.source for method in newer}, **sources}
    order = [label for label in (method.label for method in METHODS.values()) if label in sources]
    order += [label for label in sources if label not in order]
    parts.append("\n".join(f"* {label}: {sources[label]}" for label in order) + "\n")
    return "\n".join(parts)


def write_page(results: Path, docs: Path) -> None:
    """Write ``results.md`` and its plots into `docs` from every JSON file in `results`.

    Raises
    ------
    InputError
        There is none, or one is not what `assemble` makes.
    StorageError
        A file cannot be read or written.
    """
    found = read_results(results)
    try:
        (docs / "results").mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(f"cannot write to {docs}", why=str(e)) from e
    for one in found:
        if "kind" in one:
            plot(one, docs / "results" / f"{one['scenario']}-study.png")
        else:
            plots(one, docs / "results", f"{one['scenario']}-")
    save_text(docs / "results.md", page(found, read_runs(results / "runs")))


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Every committed result, by name. Raises InputError if there is none or one is of another format."""
    found = [(path, load_json(path)) for path in sorted(folder.glob("*.json"))]
    if not found:
        raise InputError(f"there are no results in {folder}", fix="copy results.json of an evaluation there")
    for path, one in found:
        if not isinstance(one, dict) or one.get("format") != FORMAT:
            raise InputError(f"{path} is no results.json of this release", fix="evaluate again")
    return [one for _, one in found]


def _cell(name: str, mean: float, std: float | None) -> str:
    if name == "seconds":
        return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"
    if name.endswith("_auc") or name == "cka_to_retrain":
        return f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"
    return f"{100 * mean:.1f}" if std is None else f"{100 * mean:.1f} ± {100 * std:.1f}"


def _mask(seed: Mapping[str, Any]) -> str:
    chosen, weights = seed["plan"]["chosen"], seed["plan"]["weights"]
    share = chosen["masked_weights"] / weights
    return (
        f"; mask of {chosen['masked_weights']} of {weights} weights ({100 * share:.3g} %) in {chosen['touched_rows']} "
        f"rows of blocks, scorer `{chosen['scorer']}`, guard rank {chosen['guard_rank']}"
    )


def _targets(results: Mapping[str, Any]) -> str:
    """What was aimed at and reached; also on the seeds alone on which no setting of the search was chosen."""
    targets = [Target(**target) for target in results["targets"]]
    columns = {"measured": targets}
    chosen_on = scenario_config(results["scenario"]).chosen_on
    unseen = [seed["seed"] for seed in results["seeds"] if seed["seed"] >= chosen_on]
    if attacked(results) and unseen:
        columns[f"on seeds {unseen[0]} to {unseen[-1]} alone"] = judge(results["methods"], unseen)
    lines = ["| target | " + " | ".join(f"{name} | reached" for name in columns) + " |"]
    lines.append("| --- |" + " ---: | --- |" * len(columns))
    for each in zip(*columns.values(), strict=True):
        cells = " | ".join(f"{t.measured:.1f} {t.unit} | {'yes' if t.reached else 'no'}" for t in each)
        lines.append(f"| {each[0].description} | {cells} |")
    return "\n".join(lines) + "\n"


def plots(results: Mapping[str, Any], folder: Path, prefix: str) -> None:
    """Draw every picture of an evaluation into a folder."""
    try:
        if attacked(results):
            plot_undone(results, folder / f"{prefix}undone.png")
            plot_kshot(results, folder / f"{prefix}kshot.png")
            plot_cost(results, folder / f"{prefix}cost.png")
        plot_trade_off(results, folder / f"{prefix}accuracy.png")
        plot_density(results, folder / f"{prefix}density.png")
        plot_curve(results, folder / f"{prefix}curve.png")
    except OSError as e:
        raise StorageError(f"cannot write plots to {folder}", why=str(e), fix="free disk space and run again") from e


if __name__ == "__main__":
    try:
        write_page(Path(sys.argv[1]), Path(sys.argv[2]))
    except Error as error:
        sys.exit(error.explain())

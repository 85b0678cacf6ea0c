"""``zkapex evaluate``: guarded Group-OBS beside a retrained oracle and the methods practitioners use."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

STAGES = {
    "features": "running the frozen blocks on every image, once",
    "train": "training the global model",
    "personalise": "personalising",
    "retrain": "retraining the oracle",
    "plan": "choosing mask and guard",
    "targets": "choosing directions and targets",
    "shadows": "training shadow models",
    "proxies": "personalising the provider's proxies",
}
SHOWN = {
    "forget_acc": "forget",
    "test_acc": "test",
    "personal_acc": "personal",
    "mia_auc": "MIA AUC",
    "relearn_forget_acc": "relearned",
}


def evaluate(
    scenario: Annotated[str, typer.Argument(help="See above.")],
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0 on.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for results, tables, plots and what can be resumed.")] = Path(
        "zkapex-evaluation"
    ),
    data: Annotated[
        str | None,
        typer.Option(
            envvar="ZKAPEX_DATA",
            help="The file or folder of data that the scenario reads, or data sets by name: hub:NAME (docs/data.md).",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(envvar="ZKAPEX_MODEL", help="The pretrained model it starts from: a path, or a name.")
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(help="In pacs and pacs-samples, how many classes of the data take part; all by default."),
    ] = None,
    pixels: Annotated[
        int | None,
        typer.Option(help="In pacs and pacs-samples, the side that images are brought to; 112 by default."),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Names of methods, separated by commas; original and retrain always take part.")
    ] = "all",
    jobs: Annotated[
        int | None, typer.Option(help="Seeds at a time, each in a process; one more than processors by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object on standard output.")] = False,
) -> None:
    """Measure forgetting and what it costs, against a retrained oracle, on the quantised weights that would be proved.

    In digits, mnist-writers and pacs one class is deleted, and methods are compared.

    In mnist-writers-leave, too, where all data of some writers are deleted.

    In mnist-writers-poison, too, where these are writers who planted a backdoor.

    In pacs-samples, too, where 3 % of the photographs are deleted.

    In code-lm, too, where a language model forgets a programming language.

    In digits-directions ten deletion requests come in a row by targets, and all are attacked at the end.

    In digits-sequence ten come in a row by masks.

    In digits-chunks masks keep to fewer chunks, so that less has to be proved.

    In digits-scorers the same number of weights is chosen in every way there is to score them.

    In digits-klom one digit is deleted from models of many trainings, and their margins are compared with oracles'.

    Clients are simulated in this process; nothing is sent and nothing is proved. An evaluation that was interrupted
    goes on when it is started again.
    """
    from zkapex.errors import InputError
    from zkapex.simulation.data.hub import parse_data
    from zkapex.simulation.evaluation.evaluate import evaluate as run
    from zkapex.simulation.evaluation.studies import run_study, what_is_called
    from zkapex.simulation.scenarios import ScenarioConfig, Sources

    config = what_is_called(scenario)
    if not isinstance(config, ScenarioConfig):
        if methods != "all":
            raise InputError(f"{scenario} does not compare methods", fix="leave --methods out")
        if classes is not None or pixels is not None:
            raise InputError(f"{scenario} has no images to choose", fix="leave --classes and --pixels out")
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description:<52}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    # One more than processors: the last of them would otherwise have all but one idle.
    at_a_time = (os.cpu_count() or 1) + 1 if jobs is None else jobs
    names = [] if methods == "all" else [name.strip() for name in methods.split(",")]
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        follower = Follower(progress, console)
        if isinstance(config, ScenarioConfig):
            brought = parse_data(data) if data is not None and config.needs_data else None
            sources = Sources(brought, model if config.needs_model else None, classes=classes, pixels=pixels)
            results = run(
                config, seeds, out, sources=sources, methods=names, jobs=at_a_time, on_event=follower.on_event
            )
        else:
            results = run_study(config, seeds, out, follower.on_event, at_a_time)
    if as_json:
        print(json.dumps(results))
    else:
        show(results, out)


class Follower:
    """Turns the events of an evaluation into one progress bar, or lines where there is no terminal."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        self._console = console
        self._task = progress.add_task("starting", total=None)

    def on_event(self, event: dict[str, Any]) -> None:
        """Show one event."""
        kind = event["event"]
        if kind == "start":
            self._progress.update(self._task, total=event["seeds"] * event["methods"])
        elif kind == "stage":
            stage = event["stage"]
            self._say(f"seed {event['seed']}: {STAGES.get(stage, stage)}")
        elif kind == "step":
            self._progress.update(self._task, description=f"seed {event['seed']}: {event['doing']}")
        elif kind == "method":
            self._progress.update(self._task, description=f"seed {event['seed']}: {event['method']}")
        elif kind in ("kept", "seed"):
            self._progress.advance(self._task)
        elif kind == "result":
            self._progress.advance(self._task)
            scores = f"forget {event['forget_acc']:.3f}, personal {event['personal_acc']:.3f}"
            self._console.print(f"  seed {event['seed']}, {event['method']}: {scores}", markup=False)

    def _say(self, what: str) -> None:
        self._progress.update(self._task, description=what)
        if self._progress.disable:
            self._console.print(f"{what} ...")


def show(results: dict[str, Any], out: Path) -> None:
    """Print the means over seeds and the targets; of a study, its table."""
    console = Console(highlight=False)
    if "kind" in results:
        console.print((out / "table.md").read_text(encoding="utf-8"), markup=False, soft_wrap=True)
        console.print(f"Everything is in {out}: results.json, table.md, study.png")
        return
    table = Table(title=f"Accuracies, mean of {len(results['seeds'])} seeds")
    table.add_column("", no_wrap=True, min_width=20)
    for title in SHOWN.values():
        table.add_column(title, justify="right", no_wrap=True)
    for name, entry in results["methods"].items():
        style = "bold" if name == "guarded-group-obs" else ""
        table.add_row(entry["label"], *(f"{entry['mean'][metric]:.3f}" for metric in SHOWN), style=style)
    console.print(table)
    for target in results["targets"]:
        mark = "[green]reached[/]" if target["reached"] else "[red]missed [/]"
        console.print(f"{mark}  {target['description']}: {target['measured']:.1f} {target['unit']}".rstrip())
    console.print(f"\nEverything is in {out}: results.json, table.md, accuracy.png, density.png, curve.png")

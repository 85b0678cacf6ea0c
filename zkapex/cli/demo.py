"""``zkapex demo``: the whole thing on this machine, followed and summed up."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from zkapex.circuits.operators import declared, operator_names
from zkapex.cli import as_object, explain
from zkapex.errors import ProtocolError
from zkapex.proofs.backends import DEFAULT, about

REVEALS = "It reveals neither weights nor data."
DOES_NOT_SHOW = (
    "It does not show that the device serves those weights, that older copies are gone, {more}or that nothing about "
    "the forgotten data remains: the first table measures the last."
)


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for receipts, models, the plot and all state.")] = Path(
        "zkapex-demo"
    ),
    scenario: Annotated[
        str,
        typer.Option(
            help="What is simulated: digits, mnist-writers, mnist-writers-leave, mnist-writers-poison, pacs, "
            "pacs-samples, code-lm, imagenet-sketch or codeparrot (docs/data.md), or a file of settings that ends in "
            ".toml. What it sets takes the place of the defaults below."
        ),
    ] = "digits",
    data: Annotated[
        str,
        typer.Option(help="The file or folder of data that the scenario reads, or hub:NAME; else that of ZKAPEX_DATA."),
    ] = "",
    model: Annotated[
        str,
        typer.Option(help="The pretrained model it starts from: a path, or a name; else that of ZKAPEX_MODEL."),
    ] = "",
    classes: Annotated[int, typer.Option(help="In scenarios of images, how many classes take part; 0: all.")] = 0,
    pixels: Annotated[int, typer.Option(help="In scenarios of images, their side; 0: the scenario's.")] = 0,
    clients: Annotated[int, typer.Option(help="Number of Flower clients.")] = 4,
    dishonest: Annotated[int, typer.Option(help="How many of them cheat.")] = 1,
    cheat: Annotated[
        str,
        typer.Option(
            help="How: ignore (change nothing), half (half of the mask only), unguarded (compensate as if "
            "there were no guard), decoy (prove about other weights), replay (a neighbour's proofs)."
        ),
    ] = "half",
    delete: Annotated[
        str,
        typer.Option(
            help="What is to be forgotten: class (a digit), client (all data of the holder, who leaves), samples "
            "(some of the holder's)."
        ),
    ] = "class",
    forget_class: Annotated[int, typer.Option(help="The digit to forget.")] = 3,
    holder: Annotated[
        int,
        typer.Option(
            help="Number of the client, from 0 on, that holds what is to be forgotten: it chooses mask and guard, "
            "on data that stay with it. -1: the provider."
        ),
    ] = -1,
    forget_samples: Annotated[int, typer.Option(help="How many of the holder's samples to forget.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of data, training and search.")] = 0,
    operator: Annotated[
        str,
        typer.Option(
            help="What is done to the weights: "
            + ", ".join(f"{name} ({declared(name).words.help})" for name in operator_names())
            + ". Where no targets can be planned, guarded-group-obs takes the place of the default.",
        ),
    ] = "targeted-group-obs",
    curvature: Annotated[
        str,
        typer.Option(
            help="What a repair is fitted to: kfac (one matrix per column block) or block-fisher (one per row of it)."
        ),
    ] = "kfac",
    audit: Annotated[
        str,
        typer.Option(help="full: every changed chunk of weights is proved; sampled: a random part of them is."),
    ] = "full",
    audit_detect: Annotated[
        float, typer.Option(help="Sampled: probability of finding out the cheat that the next option describes.")
    ] = 0.99,
    audit_cheating: Annotated[
        float, typer.Option(help="Sampled: fraction of its changed chunks, one at least, that a cheat leaves undone.")
    ] = 0.01,
    prove_curvature: Annotated[
        bool,
        typer.Option(
            "--prove-curvature",
            help="Have clients prove that their curvature is the second moment of activations they commit to.",
        ),
    ] = False,
    backend: Annotated[
        str,
        typer.Option(
            help="What proves it: halo2 (ezkl), or transparent (experimental and not reviewed; whole layers, no "
            "reference string, every audit full)."
        ),
    ] = DEFAULT,
    requests: Annotated[
        int, typer.Option(help="How many deletions, one after the other in one federation, each of another digit.")
    ] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted demo.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, discarding an interrupted demo.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object on standard output.")] = False,
) -> None:
    """Train a federation, on handwritten digits or another scenario, delete some of it, prove it, and issue receipts.

    Clients train a model by FedAvg and personalise it. A deletion request arrives, for one digit unless you say
    otherwise; every client applies it to its personalised model and proves so in zero knowledge; one of them cheats and
    is caught.
    """
    from zkapex.simulation.demo.demo import run_demo
    from zkapex.simulation.demo.settings import DemoSettings

    ours = {one.name for one in fields(DemoSettings)} - {"scenario", "others"}
    sources = {name: context.get_parameter_source(name) for name in ours}
    given = {name: context.params[name] for name, source in sources.items() if source and source.name != "DEFAULT"}
    settings = DemoSettings.of(scenario, given)
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        follower = Follower(progress, console)
        summary = run_demo(settings, out, resume=resume, fresh=fresh, on_event=follower.on_event)
        follower.finish()
    error = None
    nobody = all(client["verdict"] != "proved" for client in summary["clients"])
    if settings.dishonest < settings.clients and nobody:
        where = f"{out}/events.jsonl and {out}/flower/run.log"
        error = ProtocolError("no client proved the deletion", fix=f"see {where}")
    if as_json:
        print(json.dumps({**summary, **(as_object(error) if error else {})}))
    else:
        show(summary, out)
    if error:
        explain(error)
        raise typer.Exit(error.exit_code)


class Follower:
    """Turns the events of a run into progress bars, or lines where there is no terminal."""

    _STAGES: ClassVar[dict[str, str]] = {
        "data.started": "reading data",
        "run.started": "starting Flower",
        "train.started": "training the global model",
        "keys.started": "building proving keys",
        "personalise.started": "personalising",
        "enrol.started": "enrolling (commit, sign)",
        "search.started": "planning the deletion",
        "propose.asked": "the holder chooses the mask",
        "unlearn.started": "unlearning on the clients",
        "prove.started": "proving and verifying",
        "receipts.started": "evaluating, issuing receipts",
        "tune.started": "training on, deletion held",
        "oracle.started": "retraining the oracle",
    }

    _SETBACKS = frozenset(
        {f"{step}.failed" for step in ("client", "train", "identify", "personalise", "enrol", "evaluate", "tune")}
        | {"client.quarantined", "client.away", "client.skipped", "client.lost"}
    )

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        self._console = console
        self._task = progress.add_task("starting Flower", total=None, note="")
        self._proved, self._total = 0, 0

    def on_event(self, event: dict[str, Any]) -> None:
        """Show one event."""
        name = event["event"]
        if name in self._STAGES:
            self.finish()
            total = event.get("rounds") or event.get("chunks") or event.get("clients")
            self._task = self._progress.add_task(self._STAGES[name], total=total, note="")
            self._proved, self._total = 0, int(total or 0)
            if self._progress.disable:
                self._console.print(f"{self._STAGES[name]} ...")
        elif name == "train.round" and event["round"]:
            self._update(event["round"], f"retain accuracy {event['retain']:.2f}, forget {event['forget']:.2f}")
        elif name in ("personalise.done", "enrol.done", "tune.done"):
            self._update(event["done"], f"{event['done']} of {event['total']} clients", event["total"])
        elif name == "unlearn.responded":
            self._progress.advance(self._task)
        elif name == "prove.accepted":
            self._proved += 1
            told = not self._progress.disable or self._proved % 10 == 0
            self._update(self._proved, f"{self._proved} of {self._total} proofs accepted" if told else "")
        elif name == "search.step":
            self._progress.update(self._task, note=event["doing"])
        elif name == "search.done":
            masked = event["masked_weights"]
            self._update(1, f"{masked} weights to zero, {event['scorer']}" if masked else str(event["scorer"]), 1)
        elif name in self._SETBACKS:
            who = event.get("client", event.get("node", ""))[:16]
            what = name.removeprefix("client.").replace(".", " ")
            self._console.print(f"  {what}: client {who}: {event['reason']}", markup=False)

    def finish(self) -> None:
        """Fill the bar of the stage that has ended."""
        task = next((t for t in self._progress.tasks if t.id == self._task), None)
        if task is not None:
            total = task.total or 1
            self._progress.update(self._task, total=total, completed=total)
            self._progress.stop_task(self._task)

    def _update(self, completed: int, note: str, total: int | None = None) -> None:
        if total is not None:
            self._progress.update(self._task, total=total)
        self._progress.update(self._task, completed=completed, note=note)
        if self._progress.disable and note:
            self._console.print(f"  {note}")


def show(summary: dict[str, Any], out: Path) -> None:
    """Print the summary as tables, and what it means; of several requests, the last one at length."""
    from zkapex.proofs.receipts.sayings import percent

    console = Console(highlight=False)
    accuracy = Table(title="Mean accuracy of the clients that proved")
    accuracy.add_column("")
    for data in ("forget", "retain", "personal"):
        accuracy.add_column(data, justify="right")
    words = declared(summary["settings"]["operator"]).words
    rows = {label: summary["accuracy"][state] for state, label in words.states.items() if state in summary["accuracy"]}
    if summary.get("attacked"):
        rows["after an attack with the receipt"] = summary["attacked"]
    rows["oracle: retrained without it"] = summary["oracle"]
    for name, values in rows.items():
        cells = ["-" if values[d] is None else f"{values[d]:.3f}" for d in ("forget", "retain", "personal")]
        accuracy.add_row(name, *cells)
    console.print(accuracy)
    console.print(f"Forgotten: {summary['forgotten']}.\n", soft_wrap=True)

    sampled = next((c["audit"] for c in summary["clients"] if c.get("audit", {}).get("mode") == "sampled"), None)
    table = Table(title="Clients")
    for title in ("client", "verdict", "chunks", "prove CPU s", "peak MB", "proof KB", "verify CPU s"):
        names = title in ("client", "verdict")
        table.add_column(
            title,
            justify="left" if names else "right",
            no_wrap=names or title == "chunks",
            min_width=16 if title == "client" else 6,
        )
    for client in summary["clients"]:
        style = "green" if client["verdict"] == "proved" else "red"
        table.add_row(
            client["id"],
            f"[{style}]{client['verdict']}[/]",
            f"{client['chunks_proved']} of {client['chunks']}" if sampled else str(client["chunks"]),
            f"{client['prove_cpu_s']:.1f}",
            f"{client['prover_peak_rss_mb']:.0f}",
            f"{client['proof_bytes'] / 1e3:.1f}",
            f"{client['verify_s']:.2f}",
        )
    console.print(table)
    for client in summary["clients"]:
        if client["reason"]:
            console.print(f"{client['id']} is {client['verdict']}: {client['reason']}", markup=False, soft_wrap=True)
    if len(summary["requests"]) > 1:
        console.print(_requests(summary["requests"]))
    if sampled:
        console.print(
            f"Each client had to prove {sampled['count']} of its chunks, drawn at random after it had committed to "
            f"all: whoever leaves {percent(sampled['cheating'])} of them undone is found out with probability "
            f"{percent(sampled['detection'])}.",
            soft_wrap=True,
        )
    for node in summary["not_enrolled"]:
        console.print(
            f"node {node['node'][:16]} did not enrol, and was asked for nothing: {node['reason']}",
            markup=False,
            soft_wrap=True,
        )
    if summary["proposal"]:
        plan, claims = summary["plan"], summary["proposal"]["claims"]
        console.print(
            f"Mask and guard were chosen by {summary['proposal']['holder'][:16]}, on data that stayed with it. It says "
            f"that forget accuracy came down to {claims['forget']:.3f} on its copies of the model, which nobody else "
            f"can check. The provider's own copies lost at most {max(plan['retain_loss'], plan['personal_loss']):.3f} "
            "of retain or personal accuracy.",
            soft_wrap=True,
        )
    review = about(summary["settings"].get("backend", DEFAULT)).review
    if review:
        console.print(f"What is proved is proved ({review}): see docs/security.md.", style="yellow")
    console.print("")
    for sentence in (f"{words.shows} {REVEALS}", DOES_NOT_SHOW.format(more=words.not_shown_briefly)):
        console.print(sentence)
    example = next((c["receipt"] for c in summary["clients"] if c["verdict"] == "proved"), None)
    if example:
        console.print(
            f"\nCheck a receipt yourself:  zkapex verify {out / example} --trust {out / 'key.pub'}", soft_wrap=True
        )
    if len(summary["requests"]) > 1:
        console.print(f"And all of them as chains:  zkapex verify {out / 'receipts'} --chain", soft_wrap=True)
    console.print(f"Everything is in {out}: receipts/, models/, plot.png, summary.json", soft_wrap=True)


def _requests(requests: list[dict[str, Any]]) -> Table:
    """What came of each of several requests, one row each."""
    table = Table(title="Requests, in order")
    for title in ("forgotten", "proved", "other verdicts", "forget before", "after", "retain before", "after"):
        table.add_column(title, justify="left" if title in ("forgotten", "other verdicts") else "right")
    for one in requests:
        verdicts = [client["verdict"] for client in one["clients"]]
        others = sorted({verdict for verdict in verdicts if verdict != "proved"})
        cells = [
            "-" if (value := one["accuracy"][state][data]) is None else f"{value:.3f}"
            for data in ("forget", "retain")
            for state in ("before", "after")
        ]
        proved = f"{verdicts.count('proved')} of {len(verdicts)}"
        table.add_row(one["forgotten"], proved, ", ".join(others) or "-", *cells)
    return table

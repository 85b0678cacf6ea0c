"""``zkapex attack``: what an outsider can bring back of what a demo deleted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table


def attack(
    path: Annotated[Path, typer.Argument(help="Folder that a finished demo left behind.")],
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object on standard output.")] = False,
) -> None:
    """Attack a demo's unlearned models as an outsider, with what its receipts hold and with few examples.

    Without data: whatever the receipt says is subtracted, added and scaled, zeroed weights are refilled, the head's row
    of the class is rebuilt or raised, clients' models are averaged. The best of it counts that costs at most 2, or 5,
    points of retain accuracy. With data: the model is trained on 1, 2, 5 or 10 examples of what was forgotten.

    The same is done to the oracle, a model that never saw what was deleted: what counts is the distance to that.
    Examples to judge by and the oracle are the demo's; nothing else of it is read but receipts and unlearned models.
    """
    from zkapex.simulation.demo.demo import attack_demo

    console = Console(stderr=True, highlight=False)

    def attacking(event: dict[str, Any]) -> None:
        whose = "the oracle of client" if event["oracle"] else "the model of client"
        console.print(f"{event['request']}: attacking {whose} {event['client']} ...")

    found = attack_demo(path, attacking)
    if as_json:
        print(json.dumps(found))
    else:
        show(found)


def show(found: dict[str, Any]) -> None:
    """Print the means over clients, of each request if there were several."""
    console = Console(highlight=False)
    for one in found["requests"]:
        title = "Accuracy on what was forgotten, mean over clients that proved"
        console.print(_table(f"{one['forgotten']}: {title}" if len(found["requests"]) > 1 else title, one["mean"]))
        console.print(f"Best attack without data: {one['best_attack']}.", markup=False, soft_wrap=True)
        if one["told"]:
            place = f"guess {one['told']['place']}"
            console.print(f"Guessing the class from a receipt alone: right at {place} of {one['told']['of']}.")


def _table(title: str, mean: dict[str, Any]) -> Table:
    table = Table(title=title)
    for column in ("", "unlearned", "oracle"):
        table.add_column(column, justify="left" if not column else "right")
    rows = {
        "no attack": ("forget_acc", None),
        "without data, 2 points of retain accuracy lost at most": ("undone_forget_acc", None),
        "without data, 5 points": ("undone_forget_acc_5", None),
        **{f"trained on {shots}": ("kshot_forget_acc", shots) for shots in mean["kshot_forget_acc"]},
    }
    for label, (name, shots) in rows.items():
        values = [mean[prefix + name] for prefix in ("", "oracle_")]
        cells = [value if shots is None else value[shots] for value in values]
        table.add_row(label, *(f"{cell:.3f}" for cell in cells))
    return table

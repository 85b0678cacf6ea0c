"""``zkapex server tick`` and ``campaign``: whoever is online is asked for whatever is due."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from zkapex.server.deployment.tick import Tick

Folder = Annotated[Path, typer.Argument(help="The server's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def tick(folder: Folder, as_json: Json = False) -> None:
    """Run one campaign, if there is work for devices that are online, and end; for timers.

    Exits 0 if the campaign came to its end, or there was nothing that could be done: what waits for a device is no
    failure. 30: another process waits for a campaign. 31: the server was restored and not confirmed. 50: the SuperLink
    does not answer, or the campaign was stopped or killed; the next one goes on where it was.
    """
    _show(_one(folder), as_json)


def campaign(
    folder: Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Keep going until it is stopped.")] = False,
    every: Annotated[float, typer.Option(help="With --watch: seconds between campaigns.", min=0.1)] = 60.0,
    as_json: Json = False,
) -> None:
    """Run a campaign, or, with --watch, one after the other; then a failure is told and the next one is waited for."""
    from zkapex.errors import Error

    if not watch:
        _show(_one(folder), as_json)
        return
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    while not stopped.is_set():
        try:
            _show(_one(folder), as_json)
        except Error as error:
            facts = {"error": type(error).__name__, "what": error.what, "why": error.why, "fix": error.fix}
            print(json.dumps(facts) if as_json else error.explain(), flush=True)
        stopped.wait(every)


def _one(folder: Path) -> Tick:
    from zkapex.cli.console import link_of
    from zkapex.server.deployment.settings import Place, load
    from zkapex.server.deployment.tick import tick as run_tick

    settings = load(folder)
    with link_of(folder) as link:
        return run_tick(Place(folder.resolve()), settings, link)


def _show(done: Tick, as_json: bool) -> None:
    if as_json:
        left: list[dict[str, Any]] = [] if done.outcome is None else [asdict(one) for one in done.outcome.left]
        problems = {} if done.outcome is None else done.outcome.problems
        run = None if done.run is None else str(done.run)
        print(json.dumps({"work": [asdict(one) for one in done.work], "run": run, "left": left, "problems": problems}))
        return
    console = Console(soft_wrap=True, highlight=False)
    if done.outcome is None:
        waiting = [[one.what, one.request_id, one.client_id[:16], one.waits] for one in done.work]
        console.print(_table(("what", "request", "client", "waits for"), waiting) if waiting else "Nothing is due.")
        return
    console.print(f"Campaign {done.run} is done.")
    if done.outcome.left:
        rows = [[one.what, one.request_id, one.client_id[:16]] for one in done.outcome.left]
        console.print(_table(("left", "request", "client"), rows))
    if done.outcome.problems:
        console.print(_table(("problem", "reason"), [list(item) for item in done.outcome.problems.items()]))


def _table(columns: tuple[str, ...], rows: list[list[Any]]) -> Table:
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(str, row))
    return table

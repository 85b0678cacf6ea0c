"""A progress bar with the ETA that was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from zkapex.proofs.jobs.progress import Progress


@contextmanager
def following(what: str) -> Iterator[Callable[[Progress], None]]:
    """Show a run's progress on standard error, if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[eta]}"))
    with Bar(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, eta="")

        def show(progress: Progress) -> None:
            workers = f"{progress.workers} at a time"
            eta = workers if progress.eta_s is None else f"{workers}, {duration(progress.eta_s)} left"
            bar.update(task, total=progress.total, completed=progress.done, eta=eta)

        yield show


def duration(seconds: float) -> str:
    """A time for a person: "45 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

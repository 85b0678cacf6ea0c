"""The interface between whoever has jobs and whatever does them: the pool of this machine, or a Ray cluster.

A job is a folder. Its kind says what is in it and what appears in it when it is done:

``prove``   the witness (`zkapex.proofs.jobs.worker.write_job`)  ->  ``proof.bin``, and the witness is gone
``verify``  a claimed proof (`zkapex.proofs.jobs.batch`)         ->  ``verdict.json``

with ``cost.json`` beside either. Whatever runs jobs leaves those that are done alone, and leaves nothing half written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import zkapex.errors
from zkapex.errors import Error
from zkapex.proofs.jobs.progress import Progress
from zkapex.proofs.jobs.worker import COST, PROOF, Cost

if TYPE_CHECKING:
    from zkapex.circuits.halo2.store import Circuit

CLAIM, VERDICT = "claim.bin", "verdict.json"
RESULT = {"prove": PROOF, "verify": VERDICT}
"""The file that says that a job of a kind is done. Everything else is there before it."""

OnDone = Callable[[Path, Cost], None]
OnProgress = Callable[[Progress], None]
OnStart = Callable[[Path], None]
JobKind = Literal["prove", "verify"]


@dataclass(frozen=True)
class Work:
    """What the jobs of a run have in common.

    Attributes
    ----------
    circuit : Circuit
    kind : str
        ``prove`` or ``verify``.
    shared : Path, optional
        File all jobs refer to; for ``verify``, what the proofs are to be checked against.
    """

    circuit: Circuit
    kind: JobKind = "prove"
    shared: Path | None = None

    def arguments(self) -> list[str]:
        """Arguments of a worker process (`zkapex.proofs.jobs.service`)."""
        given = [self.kind, str(self.circuit.folder), str(self.circuit.srs.path)]
        return given if self.shared is None else [*given, str(self.shared)]

    def cost(self, folder: Path) -> Cost | None:
        """What a finished job cost; None if it is not finished."""
        if not (folder / RESULT[self.kind]).exists():
            return None
        return Cost(**json.loads((folder / COST).read_text()))


@dataclass(frozen=True)
class Verdict:
    """What came of checking one proof.

    Attributes
    ----------
    error : Error or None
        Why it is not accepted; None if it is.
    cpu_s : float
        CPU seconds the check took.
    """

    error: Error | None
    cpu_s: float


class Backend(Protocol):
    """Something that does jobs."""

    def run(
        self, folders: Sequence[Path], on_done: OnDone = ..., on_progress: OnProgress = ..., on_start: OnStart = ...
    ) -> None:
        """Do every job in `folders` that is not done yet.

        Parameters
        ----------
        on_done : callable
            Called with folder and cost after each finished job, one call at a time.
        on_progress : callable
            Called at the start, after each finished job, and when the number of workers changes.
        on_start : callable
            Called with the folder before a job is begun, each time it is; if it raises, neither this job is begun nor
            another.

        Raises
        ------
        ProverError
            The first failure, after all running jobs have ended; finished ones are kept.
        ResourceError
            Memory or disk cannot suffice.
        """
        ...


def ignore_done(folder: Path, cost: Cost) -> None:
    """Do nothing with a finished job."""


def ignore_start(folder: Path) -> None:
    """Do nothing before a job."""


def ignore_progress(progress: Progress) -> None:
    """Do nothing with progress."""


def leave_verdict(folder: Path, error: Error | None, cost: Cost) -> None:
    """Finish a job of the kind ``verify``."""
    text = {}
    if error is not None:
        text = {"error": type(error).__name__, "what": error.what, "why": error.why, "fix": error.fix}
    (folder / COST).write_text(json.dumps(asdict(cost)))
    partial = folder / f".{VERDICT}"
    partial.write_text(json.dumps(text))
    partial.rename(folder / VERDICT)


def read_verdict(folder: Path) -> Verdict:
    """The verdict of a finished job of the kind ``verify``."""
    given = json.loads((folder / VERDICT).read_text())
    cost = Cost(**json.loads((folder / COST).read_text()))
    if not given:
        return Verdict(None, cost.cpu_s)
    kind: type[Error] = getattr(zkapex.errors, given["error"], Error)
    return Verdict(kind(given["what"], why=given["why"], fix=given["fix"]), cost.cpu_s)

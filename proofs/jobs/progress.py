"""How far a run of many jobs is, and when it will end, judged by what the finished ones took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """A run at one moment.

    Attributes
    ----------
    done, total : int
        Jobs finished, including those that were finished before this run, and all jobs.
    workers : int
        Jobs that run at a time.
    elapsed_s : float
        Wall seconds since the run began.
    eta_s : float or None
        Wall seconds until it ends, if the remaining jobs take as long as those finished in this run; None until there
        is one.
    """

    done: int
    total: int
    workers: int
    elapsed_s: float
    eta_s: float | None


@dataclass
class Timeline:
    """What a run's jobs took. Not thread-safe.

    Attributes
    ----------
    total, before : int
        All jobs, and those that were finished before the run began.
    """

    total: int
    before: int = 0
    clock: Callable[[], float] = time.monotonic
    _start: float = field(init=False)
    _running: dict[Path, float] = field(init=False, default_factory=dict)
    _finished: int = field(init=False, default=0)
    _spent_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._start = self.clock()

    def started(self, job: Path) -> None:
        """A job begins."""
        self._running[job] = self.clock()

    def dropped(self, job: Path) -> None:
        """A job, begun or not, ended without a result and is to be done again."""
        self._running.pop(job, None)

    def finished(self, job: Path) -> None:
        """A job is done."""
        self._spent_s += self.clock() - self._running.pop(job)
        self._finished += 1

    def progress(self, workers: int) -> Progress:
        """The present state, for so many workers from here on."""
        now = self.clock()
        done = self.before + self._finished
        return Progress(done, self.total, workers, now - self._start, self._eta(now, workers))

    def _eta(self, now: float, workers: int) -> float | None:
        queued = self.total - self.before - self._finished - len(self._running)
        if not self._finished:
            return 0.0 if not queued and not self._running else None
        each = self._spent_s / self._finished
        # A job that has outlasted the mean may end at any moment, which is what 0 says.
        busy = sorted(max(0.0, each - (now - start)) for start in self._running.values())
        free_at = sorted(busy + [0.0] * (workers - len(busy)))[: max(1, workers)]
        rounds, rest = divmod(queued, len(free_at))
        last = max(at + each * (rounds + (i < rest)) for i, at in enumerate(free_at))
        return max([last, *busy])

"""How far a search is: told to whoever asks for it, as often as something is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Stage = Literal["saliency", "steering", "targets"]


@dataclass(frozen=True)
class Step:
    """Where a search is.

    Attributes
    ----------
    scorer : str
    guard_rank : int
    fraction : float
        Size of the mask that is being made.
    stage : str
        What is under way for it: per-example gradients, counted in examples, or the fit of the steering or of
        targets, in steps.
    done, total : int
        Of that stage.
    """

    scorer: str
    guard_rank: int
    fraction: float
    stage: Stage
    done: int
    total: int

    def words(self) -> str:
        """For a person, in one line."""
        if self.stage == "targets":
            return f"targets of rank {self.guard_rank}: step {self.done} of {self.total}"
        return f"mask of {100 * self.fraction:.3g} % by {self.scorer}: {self.stage} {self.done} of {self.total}"


OnStep = Callable[[Step], None]
OnCount = Callable[[int], None]
"""Told how many more of something are done."""


def no_step(step: Step) -> None:
    """Tell nobody."""


def no_count(more: int) -> None:
    """Tell nobody."""


def seldom(on_step: OnStep, interval_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> OnStep:
    """Pass on a step if the last one that was is at least so long ago: for listeners that write each one down."""
    last = -float("inf")

    def pass_on(step: Step) -> None:
        nonlocal last
        if clock() - last >= interval_s:
            last = clock()
            on_step(step)

    return pass_on


def counted(on_step: OnStep, start: Step) -> OnCount:
    """Makes steps of counts, beginning with `start`, which is told at once."""
    on_step(start)
    done = start.done

    def count(more: int) -> None:
        nonlocal done
        done += more
        on_step(replace(start, done=done))

    return count

"""What a device brings to the federation: a model, private data, and how to train on it.

Whoever deploys zkapex implements `Task` for their model; everything about unlearning and proving is in the agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from zkapex.errors import InputError
from zkapex.unlearning.operators.held import HeldTargets

DATA_SETS = ("forget", "retain", "personal")
"""What a device may be asked how well it does on."""


@dataclass(frozen=True)
class Tally:
    """How many of `total` examples a model got right."""

    correct: int
    total: int

    @property
    def share(self) -> float:
        """Accuracy; of no example at all there is none."""
        return self.correct / self.total


class Task(Protocol):
    """One device's model and private data. Only the weights `fit_round` trains leave the device in the clear."""

    def build_model(self) -> nn.Module:
        """The architecture, with any weights: they are overwritten."""
        ...

    def fit_round(self, model: nn.Module, round_number: int) -> int:
        """One local step of federated training, in place; returns the number of examples used."""
        ...

    def fit_personal(
        self,
        model: nn.Module,
        epochs: int,
        learning_rate: float,
        seed: int,
        hold_zero: Mapping[str, torch.Tensor],
        hold_targets: HeldTargets,
    ) -> int:
        """Personalise in place, keeping zeros and targets as `zkapex.unlearning.personalise.fit` does.

        Returns the number of examples used.
        """
        ...

    def curvature_inputs(self) -> torch.Tensor:
        """Model inputs ``[n, ...]`` whose layer inputs give the curvature: what the device must keep doing well."""
        ...

    def evaluate(self, model: nn.Module) -> Mapping[str, Tally]:
        """Tallies on the data sets ``forget``, ``retain`` and ``personal``, as far as the device has them.

        One that it does not have may be left out, or have a total of zero.
        """
        ...


@runtime_checkable
class ManyRequests(Protocol):
    """What a `Task` offers beyond the rest if requests differ in what is to be forgotten."""

    def for_request(self, request_id: str) -> Task:
        """The same model and data, with ``forget`` and what the device holds of it being those of one request."""
        ...


@runtime_checkable
class Forgets(Protocol):
    """What a `Task` offers beyond the rest if it deletes data itself when a request has been carried out.

    Without it the data behind the task have to be deleted by whoever owns them: training on what a request was about
    brings back what it deleted.
    """

    def without(self, request_ids: Sequence[str]) -> Task:
        """The same, without the data that these requests are about; they are in the order they were made."""
        ...


def tallies(task: Task, model: nn.Module) -> dict[str, Tally]:
    """What a task's evaluation says of a model, without the data sets that the device does not have.

    Raises
    ------
    InputError
        The task names a data set that is none of the three, or counts that make no sense.
    """
    found = {}
    for name, tally in task.evaluate(model).items():
        if name not in DATA_SETS:
            raise InputError(
                f"the task evaluates a data set {name!r}", fix=f"data sets are called {', '.join(DATA_SETS)}"
            )
        if not 0 <= tally.correct <= tally.total:
            raise InputError(f"the task counts {tally.correct} of {tally.total} examples of {name!r} as right")
        if tally.total:
            found[name] = tally
    return found

"""What a method of unlearning is given, and gives back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import nn

from zkapex.server.requests.plan import StoredPlan
from zkapex.simulation.data.digits import Examples
from zkapex.simulation.evaluation.deployment import Deployment
from zkapex.unlearning.personalise import FitSettings

TUNED: Final = FitSettings(15, 2e-3)
"""Training on after a deletion by targets, unless a scenario has settings of its own."""


@dataclass(frozen=True)
class Case:
    """One client that has to unlearn.

    Attributes
    ----------
    before : nn.Module
        Its personalised model, deployed. Never changed.
    retrained : nn.Module
        The oracle's model for the same client.
    forget : Examples
        All training examples of the class, of all clients. No client has them; baselines that need them are given
        them all the same, so that they do as well as they can.
    retain : Examples
        What the client has to keep: its personal examples, and its share of the training data, without the class.
    calibration : tensor [n, ...]
        Inputs for the client's curvature.
    plan : StoredPlan
        Mask and guard the provider chose.
    deployment : Deployment
    seed : int
        Different for every client and seed.
    wide : Deployment or None
        With the layers that have targets, where the scenario plans any.
    targets : StoredPlan or None
        Directions and targets the provider chose for these.
    tuned : FitSettings
        How the client trains on with these held.
    """

    before: nn.Module
    retrained: nn.Module
    forget: Examples
    retain: Examples
    calibration: torch.Tensor
    plan: StoredPlan
    deployment: Deployment
    seed: int
    wide: Deployment | None = None
    targets: StoredPlan | None = None
    tuned: FitSettings = TUNED


class Method(Protocol):
    """One way to unlearn."""

    @property
    def name(self) -> str:
        """On the command line and in results."""
        ...

    @property
    def label(self) -> str:
        """For people."""
        ...

    @property
    def source(self) -> str:
        """Where the method and its hyperparameters come from."""
        ...

    @property
    def stage(self) -> str | None:
        """The work of the provider that its cost includes: `retrain`, `plan` or nothing."""
        ...

    def unlearn(self, case: Case) -> nn.Module:
        """The client's model without the class, as a new module. It is deployed, that is quantised, afterwards."""
        ...


def batches(examples: Examples, size: int, generator: torch.Generator) -> Iterator[Examples]:
    """One epoch of shuffled batches."""
    for index in torch.split(torch.randperm(len(examples.labels), generator=generator), size):
        yield examples.take(index)


def paired_batches(case: Case, size: int, generator: torch.Generator) -> Iterator[tuple[Examples, Examples]]:
    """Shuffled batches of the forget set, each with one of the retain set, until either has none left."""
    return zip(batches(case.forget, size, generator), batches(case.retain, size, generator), strict=False)

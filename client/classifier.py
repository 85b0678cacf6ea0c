"""The base of a device's task for a model that answers with one logit for each class (or token): bring data, no more.

A subclass says what the model is and which data the device has. How to train, personalise, take curvature from and
judge is here, and can be overridden method by method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from zkapex.client.task import Tally
from zkapex.unlearning.operators.held import HeldTargets
from zkapex.unlearning.personalise import PERSONALISE, FitSettings, fit, personalise
from zkapex.unlearning.planning.proxies import REPLAY_SHARE, calibration
from zkapex.unlearning.planning.trials import Examples, accuracy


class ClassifierTask(ABC):
    """A `zkapex.client.task.Task` over labelled examples: inputs ``[n, ...]``, int64 labels ``[n]`` or ``[n, T]``.

    Attributes
    ----------
    local : FitSettings
        A device's part of a round of federated training.
    batch_size : int
        Of personalisation, whose epochs and learning rate the provider's settings decide.
    replay_share : float
        How much of the shared data the curvature is taken from, see `zkapex.unlearning.planning.proxies.calibration`.
    seed : int
        Decides the order of examples.
    """

    local: ClassVar[FitSettings] = FitSettings(epochs=5, learning_rate=2e-3)
    batch_size: ClassVar[int] = PERSONALISE.batch_size
    replay_share: ClassVar[float] = REPLAY_SHARE
    seed: int = 0

    @abstractmethod
    def build_model(self) -> nn.Module:
        """The architecture, with any weights: they are overwritten."""

    @abstractmethod
    def shared_data(self) -> Examples:
        """What the device trains the global model on, and replays while it personalises."""

    @abstractmethod
    def personal_data(self) -> Examples:
        """What the device makes the global model its own with."""

    @abstractmethod
    def test_data(self) -> Mapping[str, Examples]:
        """Unseen examples by the names in `zkapex.client.task.DATA_SETS`; fewer if the device has not all."""

    def fit_round(self, model: nn.Module, round_number: int) -> int:
        """See `zkapex.client.task.Task`."""
        inputs, labels = self.shared_data()
        fit(model, inputs, labels, self.local, self.seed * 10_000 + round_number)
        return len(labels)

    def fit_personal(
        self,
        model: nn.Module,
        epochs: int,
        learning_rate: float,
        seed: int,
        hold_zero: Mapping[str, torch.Tensor],
        hold_targets: HeldTargets,
    ) -> int:
        """See `zkapex.client.task.Task`."""
        personal, shared = self.personal_data(), self.shared_data()
        settings = FitSettings(epochs, learning_rate, self.batch_size)
        personalise(model, personal, shared, seed * 100 + self.seed, settings, hold_zero, hold_targets)
        return len(personal[1]) + len(shared[1])

    def curvature_inputs(self) -> torch.Tensor:
        """See `zkapex.client.task.Task`."""
        return calibration(self.personal_data(), self.shared_data(), self.replay_share)

    def evaluate(self, model: nn.Module) -> Mapping[str, Tally]:
        """See `zkapex.client.task.Task`."""
        model.eval()
        tallies = {}
        for name, examples in self.test_data().items():
            total = examples[1].numel()
            if total:
                tallies[name] = Tally(round(accuracy(model, examples) * total), total)
        return tallies

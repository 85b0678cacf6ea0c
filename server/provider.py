"""What the provider brings: the model, the data it holds, and how to judge a model. Implemented by whoever deploys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

from zkapex.circuits.statement import StatementSpec
from zkapex.server.trials import Plan

Examples = tuple[torch.Tensor, torch.Tensor]
"""Inputs ``[n, ...]`` and int64 labels ``[n]``."""


class Provider(Protocol):
    """One deployment's model and public data."""

    name: str
    """Name of the model, as it appears in manifests and receipts."""

    federation: str
    """Name of the federation; a registry belongs to one."""

    def initial_model(self) -> nn.Module:
        """The model before training."""
        ...

    def target_layers(self, model: nn.Module) -> tuple[str, ...]:
        """Names of the linear layers unlearning acts on."""
        ...

    def forget_description(self) -> str:
        """What is to be forgotten, for the receipt's digest; never the data itself."""
        ...

    def plan(self, model: nn.Module, statement: StatementSpec) -> Plan:
        """Choose mask, guard and factors, as the statement has them, on own copies (see `zkapex.server.search`)."""
        ...

    def curvature_inputs(self) -> torch.Tensor:
        """Retain inputs for the curvature of the provider's own copy of the model, if the operator needs any."""
        ...

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Accuracy on ``forget`` and ``retain``."""
        ...

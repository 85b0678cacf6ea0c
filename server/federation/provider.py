"""What the provider brings: the model, the data it holds, and how to judge a model. Implemented by whoever deploys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from zkapex.circuits.statement import StatementSpec
from zkapex.unlearning.planning.search import SearchSpace
from zkapex.unlearning.planning.standing import Standing
from zkapex.unlearning.planning.steps import OnStep, no_step
from zkapex.unlearning.planning.trials import Copy, Plan

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

    def plan(self, model: nn.Module, statement: StatementSpec, on_step: OnStep = no_step) -> Plan:
        """Choose mask, guard and factors, as the statement has them, on own copies.

        See `zkapex.unlearning.planning.search`. `on_step` is told where the search is.
        """
        ...

    def curvature_inputs(self) -> torch.Tensor:
        """Retain inputs for the curvature of the provider's own copy of the model, if the operator needs any."""
        ...

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Accuracy on ``forget`` and ``retain``."""
        ...


Options = Mapping[str, str | int | float | bool]
"""Settings, and what a request is about, by name."""


class Orders(Protocol):
    """What operators of a deployment have ordered to be forgotten, for the factory of their provider."""

    def about(self, request_id: str) -> Options:
        """What a request is about; nothing if no operator made it."""
        ...

    def before(self, request_id: str) -> tuple[str, ...]:
        """Ids of the requests that were ordered before one and not cancelled, oldest first."""
        ...

    def deadline(self, request_id: str) -> datetime | None:
        """When a request has to be done, UTC; None if no operator made it."""
        ...

    def repeats(self, request_id: str) -> tuple[str, frozenset[str]] | None:
        """The request that one is the repetition of, and the ids of the clients that it is for; None if it is none."""
        ...


ProviderFactory = Callable[[Options, Orders], Provider]
"""Makes the provider of a deployment, from ``options`` in its configuration and what operators ordered."""


@runtime_checkable
class ManyRequests(Protocol):
    """What a `Provider` offers beyond the rest if requests differ in what is to be forgotten."""

    def for_request(self, request_id: str) -> Provider:
        """The same model and federation, for what one request is about."""
        ...


@runtime_checkable
class Continuing(Protocol):
    """What a `Provider` offers beyond the rest if it plans a request with regard to what earlier ones have left.

    One that does not plans as for the first, and the server completes its plan
    (`zkapex.unlearning.planning.keep`). With targets it should: what it prescribes is in the scales of the manifest.
    """

    def plan_after(
        self, model: nn.Module, statement: StatementSpec, standing: Standing, on_step: OnStep = no_step
    ) -> Plan:
        """`Provider.plan`, on what stands."""
        ...


@dataclass(frozen=True)
class Delegation:
    """A deletion whose mask and guard are chosen by the client that holds what is to be forgotten.

    Attributes
    ----------
    holder : str
        Client id.
    space : SearchSpace
        What the holder is to try and to reach; the largest fraction is its budget.
    copies : callable
        Makes the provider's own copies of the model, the global one first, on which the proposal's cost is checked.
    largest_loss : float
        Retain and personal accuracy any of them may lose before the proposal is refused. More than the holder is asked
        to keep to: it cannot see these copies.
    """

    holder: str
    space: SearchSpace
    copies: Callable[[], Sequence[Copy]]
    largest_loss: float


@runtime_checkable
class Delegating(Protocol):
    """What a `Provider` offers beyond the rest if what is to be forgotten may sit with a client."""

    def delegate(self, model: nn.Module, statement: StatementSpec) -> Delegation | None:
        """Whom to ask for mask and guard, once clients have enrolled; None if the provider is to `plan` itself."""
        ...

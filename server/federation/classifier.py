"""The base of a provider of a model that answers with one logit for each class (or token): bring public data, no more.

A subclass says what the model is, which layers unlearning acts on, and what the provider's data are. The search for a
mask on copies of the model that are made like clients' is here, and can be overridden method by method.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import nn

from zkapex.circuits.statement import StatementSpec
from zkapex.errors import InputError
from zkapex.server.federation.provider import Options, Orders
from zkapex.unlearning.personalise import PERSONALISE, FitSettings
from zkapex.unlearning.planning.proxies import REPLAY_SHARE, proxy_copies, shuffled, take
from zkapex.unlearning.planning.search import FixedPoint, Plan, SearchSpace, search
from zkapex.unlearning.planning.steps import OnStep, no_step
from zkapex.unlearning.planning.trials import Copy, Examples, accuracy


class ClassifierProvider(ABC):
    """A `zkapex.server.federation.provider.Provider` over labelled examples, as `zkapex.client.classifier` has them.

    Parameters
    ----------
    options : mapping
        Whatever the subclass wants to be told.
    orders : Orders, optional
        What operators ordered: `options` of the provider of one request are these and what the request is about.

    Attributes
    ----------
    name, federation : str
        See `Provider`.
    layers : tuple of str
        Names of the linear layers unlearning acts on.
    space : SearchSpace
        What to try, and what counts as success.
    proxies : int
        Copies made like a client's model; a mask has to work on all of them.
    personal : FitSettings
        How these are personalised: as clients do it.
    client_size : int
        How many examples a client has, about.
    searched : int
        Of what is to be forgotten and of what is to be kept, how many examples the search looks at, at most.
    replay_share : float
        As `zkapex.client.classifier.ClassifierTask` has it.
    seed : int
    """

    name: str
    federation: str
    layers: tuple[str, ...]
    space: ClassVar[SearchSpace] = SearchSpace(margin=1.0)
    proxies: ClassVar[int] = 4
    personal: ClassVar[FitSettings] = PERSONALISE
    client_size: ClassVar[int] = 500
    searched: ClassVar[int] = 500
    replay_share: ClassVar[float] = REPLAY_SHARE
    seed: int = 0

    def __init__(self, options: Options, orders: Orders | None = None) -> None:
        self.options = options
        self._orders = orders

    @abstractmethod
    def initial_model(self) -> nn.Module:
        """The model before training."""

    @abstractmethod
    def forget_set(self) -> Examples:
        """Examples of the provider's that are to be forgotten."""

    @abstractmethod
    def retain_set(self) -> Examples:
        """Examples of the provider's that are to be kept."""

    @abstractmethod
    def test_data(self) -> Mapping[str, Examples]:
        """Unseen examples called ``forget`` and ``retain``."""

    @abstractmethod
    def forget_description(self) -> str:
        """What is to be forgotten, for the receipt's digest; never the data itself."""

    def like_a_client(self, proxy: int, examples: Examples) -> Examples:
        """Public examples as a client may see the world; a subclass that knows how they differ says so here."""
        return examples

    def for_request(self, request_id: str) -> Self:
        """See `zkapex.server.federation.provider.ManyRequests`."""
        other = copy.copy(self)
        if self._orders is not None:
            other.options = {**self.options, **self._orders.about(request_id)}
        return other

    def target_layers(self, model: nn.Module) -> tuple[str, ...]:
        """See `zkapex.server.federation.provider.Provider`."""
        return self.layers

    def curvature_inputs(self) -> torch.Tensor:
        """See `zkapex.server.federation.provider.Provider`."""
        return self.retain_set()[0]

    def copies(self, model: nn.Module) -> list[Copy]:
        """What the search tries deletions on; see `zkapex.unlearning.planning.proxies.proxy_copies`."""

        def domain(proxy: int, mine: Examples, others: Examples) -> tuple[Examples, Examples]:
            return self.like_a_client(proxy, mine), self.like_a_client(proxy, others)

        return proxy_copies(
            model, self.retain_set(), self.forget_set(), domain, self.seed, size=self.client_size,
            proxies=self.proxies, settings=self.personal, retain_size=self.searched, share=self.replay_share,
        )  # fmt: skip

    def plan(self, model: nn.Module, statement: StatementSpec, on_step: OnStep = no_step) -> Plan:
        """See `zkapex.server.federation.provider.Provider`.

        Raises
        ------
        InputError
            There is nothing to forget, or as `zkapex.unlearning.planning.search.search`.
        RangeExceededError
            Likewise.
        """
        forget = self.forget_set()
        if len(forget[1]) == 0:
            raise InputError(
                "the provider holds nothing of what is to be forgotten",
                why=f"its forget_set is empty for {dict(self.options)!r}",
                fix="correct what the request is about, or ask a client that holds it: see Delegating",
            )
        chosen = take(forget, shuffled(len(forget[1]), self.seed)[: self.searched])
        space = self.space.for_statement(statement)
        return search(self.copies(model), self.layers, chosen, FixedPoint(statement), space, on_step=on_step)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """See `zkapex.server.federation.provider.Provider`."""
        model.eval()
        return {name: accuracy(model, examples) for name, examples in self.test_data().items() if len(examples[1])}

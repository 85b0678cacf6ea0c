"""Deterministic training and evaluation, with and without a federation around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from zkapex.errors import InputError
from zkapex.simulation.data.digits import Examples, Scenario, concatenate
from zkapex.unlearning.personalise import PERSONALISE, FitSettings, fit
from zkapex.unlearning.planning.proxies import REPLAY_SHARE, proxy_copies
from zkapex.unlearning.planning.trials import Contrast, Copy
from zkapex.unlearning.planning.trials import Examples as Pair

#: One client's share of a federated round.
LOCAL = FitSettings(epochs=8, learning_rate=2e-3)
#: Rounds of federated averaging that bring the digits model to its plateau with :data:`LOCAL`.
ROUNDS = 5


@torch.no_grad()
def accuracy(model: nn.Module, examples: Examples, batch_size: int = 512) -> float:
    """Fraction of labels, one for each example or for each token of one, that the largest logit is of.

    Raises
    ------
    InputError
        If there are no examples.
    """
    if len(examples.labels) == 0:
        raise InputError("accuracy of no examples is undefined")
    model.eval()
    hits, size = 0, max(1, batch_size // examples.labels[0].numel())
    for x, y in zip(torch.split(examples.inputs, size), torch.split(examples.labels, size), strict=True):
        hits += int((model(x).argmax(-1) == y).sum())
    return hits / examples.labels.numel()


def local_step(
    model: nn.Module, state: Mapping[str, torch.Tensor], train: Examples, settings: FitSettings, seed: int
) -> tuple[dict[str, torch.Tensor], float]:
    """One client's part of a federated round: load ``state``, train, return the new state and the training loss.

    ``model`` supplies the architecture and is overwritten.
    """
    model.load_state_dict(dict(state))
    loss = fit(model, train.inputs, train.labels, settings, seed)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}, loss


def average(states: Sequence[Mapping[str, torch.Tensor]], weights: Sequence[int]) -> dict[str, torch.Tensor]:
    """FedAvg: the mean of the states, weighted by example counts and summed in float64.

    Raises
    ------
    InputError
        If there are no states, or not one positive weight each.
    """
    if not states or len(states) != len(weights) or min(weights) <= 0:
        raise InputError(f"cannot average {len(states)} states with weights {list(weights)}")
    total = sum(weights)
    return {
        name: torch.stack([s[name].double() * (w / total) for s, w in zip(states, weights, strict=True)])
        .sum(0)
        .to(first.dtype)
        for name, first in states[0].items()
    }


def federated_averaging(
    model: nn.Module,
    parts: Sequence[Examples],
    seed: int,
    rounds: int = ROUNDS,
    settings: FitSettings = LOCAL,
) -> None:
    """FedAvg over ``parts`` in this process, in place: what the Flower run computes, for baselines and tests."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for step in range(rounds):
        replies = [
            local_step(model, state, part, settings, seed * 10_000 + step * 100 + index)[0]
            for index, part in enumerate(parts)
        ]
        state = average(replies, [len(part.labels) for part in parts])
    model.load_state_dict(state)
    model.eval()


def provider_copies(
    model: nn.Module,
    scenario: Scenario,
    seed: int,
    proxies: int = 4,
    settings: FitSettings = PERSONALISE,
    retain_size: int = 500,
    share: float = REPLAY_SHARE,
) -> list[Copy]:
    """What the provider of a scenario searches on: `zkapex.unlearning.planning.proxies.proxy_copies`."""

    def domain(index: int, mine: Pair, others: Pair) -> tuple[Pair, Pair]:
        if scenario.proxies:
            return scenario.proxies[index]
        return scenario.proxy(index, Examples(*mine)), scenario.proxy(index, Examples(*others))

    return proxy_copies(
        model, scenario.retain_set, scenario.forget_set, domain, seed, size=len(scenario.clients[0].train.labels),
        proxies=proxies, settings=settings, retain_size=retain_size, share=share,
    )  # fmt: skip


def trained_contrast(
    build: Callable[[], nn.Module], kept: Examples, forgotten: Examples, seed: int, settings: FitSettings
) -> Contrast:
    """Two models of the provider's own, from the same start, trained on what is kept with and without the forget set.

    Neither is like the federation's global model, which averaged clients' models; that they differ in nothing but the
    forget set is what counts.
    """
    taught, untaught = build(), build()
    for model, data in ((taught, concatenate(kept, forgotten)), (untaught, kept)):
        fit(model, *data, settings, seed)
    return Contrast(taught, untaught)

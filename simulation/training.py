"""Deterministic training and evaluation, with and without a federation around it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from zkapex.client.personalise import PERSONALISE, FitSettings, fit, personalise
from zkapex.errors import InputError
from zkapex.simulation.data import Examples, proxy_shift

#: One client's share of a federated round.
LOCAL = FitSettings(epochs=8, learning_rate=2e-3)
#: Rounds of federated averaging that bring the digits model to its plateau with :data:`LOCAL`.
ROUNDS = 5


@dataclass(frozen=True)
class Proxy:
    """A stand-in for a client: a personalised model, the data it was fitted to, and shifted data it was not."""

    model: nn.Module
    personal: Examples
    replay: Examples
    held_out: Examples


@torch.no_grad()
def accuracy(model: nn.Module, examples: Examples, batch_size: int = 512) -> float:
    """Fraction of examples whose largest logit is the label's.

    Raises
    ------
    InputError
        If there are no examples.
    """
    if len(examples.labels) == 0:
        raise InputError("accuracy of no examples is undefined")
    model.eval()
    hits = 0
    for x, y in zip(examples.inputs.split(batch_size), examples.labels.split(batch_size), strict=True):
        hits += int((model(x).argmax(1) == y).sum())
    return hits / len(examples.labels)


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


def proxies(
    model: nn.Module,
    public: Examples,
    count: int,
    size: int,
    seed: int,
    forget_class: int,
    settings: FitSettings = PERSONALISE,
) -> list[Proxy]:
    """Copies of the global model personalised on shifted public data, as stand-ins for clients nobody may look at.

    Like a client, each is fitted to ``size`` examples as they are and, without the forget class, seen through a shift of
    its own.
    """
    made = []
    for index in range(count):
        order = torch.randperm(len(public.labels), generator=torch.Generator().manual_seed(seed * 100 + index))
        replay, held_out = public.take(order[:size]), public.take(order[size : 2 * size])
        shift = proxy_shift(index)
        personal = shift(replay.without(forget_class))
        fitted = copy.deepcopy(model)
        personalise(fitted, personal, replay, seed * 100 + index, settings)
        made.append(Proxy(fitted, personal, replay, shift(held_out.without(forget_class))))
    return made

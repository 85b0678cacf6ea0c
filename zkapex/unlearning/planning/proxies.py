"""The copies that a provider tries deletions on, made of its own data: the global model, and proxies of its clients."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from zkapex.errors import InputError
from zkapex.unlearning.personalise import PERSONALISE, FitSettings, personalise
from zkapex.unlearning.planning.trials import Copy, Examples

REPLAY_SHARE = 1 / 7
"""Of what a device replays, how much its curvature is taken from."""

Domain = Callable[[int, Examples, Examples], tuple[Examples, Examples]]
"""What a proxy, by its number, is fitted to and judged on: made of two disjoint parts of what is to be kept."""


def calibration(personal: Examples, replay: Examples, share: float = REPLAY_SHARE) -> torch.Tensor:
    """Inputs for a device's curvature: its personal examples, and a share of what it replays.

    The repair keeps the layers' outputs on these. Replayed examples keep general accuracy up, but may contain what will
    have to be forgotten, which nobody knows when curvature is committed to; a few are a compromise between the two.
    """
    return torch.cat([personal[0], replay[0][: int(len(replay[0]) * share)]])


def proxy_copies(
    model: nn.Module,
    retain: Examples,
    forget: Examples,
    domain: Domain,
    seed: int,
    *,
    size: int,
    proxies: int = 4,
    settings: FitSettings = PERSONALISE,
    retain_size: int = 500,
    share: float = REPLAY_SHARE,
) -> list[Copy]:
    """What the provider searches on: the global model, then proxies of clients nobody may look at.

    A proxy is made like a client, from as many public examples as a client has: fitted to examples as they are and,
    without what is to be forgotten, in a domain of its own. It is judged on examples of that it was not fitted to.

    Parameters
    ----------
    model : nn.Module
        The global model. Not changed.
    retain, forget : (inputs, labels)
        The provider's data: what is to be kept, and what is to be forgotten.
    domain : callable
        See `Domain`.
    seed : int
    size : int
        Examples a client has; at most half of the provider's are taken.
    proxies : int
    settings : FitSettings
        How clients personalise.
    retain_size : int
        Examples that copies are judged on, at most.
    share : float
        See `calibration`.

    Raises
    ------
    InputError
        There is nothing to keep, or too little to make a proxy of; or as `zkapex.unlearning.personalise.fit`.
    """
    kept = len(retain[1])
    if kept < 4:
        raise InputError(f"the provider has {kept} examples that are to be kept", fix="bring more public data")
    public = torch.cat([retain[0], forget[0]]), torch.cat([retain[1], forget[1]])
    judged_on = take(retain, shuffled(kept, seed)[:retain_size])
    size = min(len(public[1]) // 2, size)
    half = take(judged_on, torch.arange(len(judged_on[1]) // 2))
    copies = [Copy(model, retain[0], judged_on)]
    for index in range(proxies):
        order = shuffled(len(public[1]), seed * 100 + index)
        mine, others = order[:size], order[size : 2 * size]
        replay = take(public, mine)
        personal, judged = domain(index, take(public, mine[mine < kept]), take(public, others[others < kept]))
        fitted = copy.deepcopy(model)
        personalise(fitted, personal, replay, seed * 100 + index, settings)
        copies.append(Copy(fitted, calibration(personal, replay, share), half, judged))
    return copies


def take(examples: Examples, index: torch.Tensor) -> Examples:
    """Some of the examples, by their positions int64 ``[m]`` or a bool ``[n]``."""
    return examples[0][index], examples[1][index]


def shuffled(count: int, seed: int) -> torch.Tensor:
    """The numbers below `count` in an order that the seed decides."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))

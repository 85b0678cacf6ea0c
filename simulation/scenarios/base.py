"""What a scenario of the evaluation consists of: a frozen configuration, and the data it makes for a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zkapex.client.personalise import FitSettings
from zkapex.server.search import SearchSpace
from zkapex.simulation.data import Examples, Scenario
from zkapex.simulation.models import ViTConfig


@dataclass(frozen=True)
class Bench:
    """The data of one seed.

    Attributes
    ----------
    world : Scenario
        The federation that is asked to forget a class.
    test : Examples
        Nobody trained on these; without the class.
    non_members : Examples
        Of the class, and nobody trained on these: the other side of the membership game. Drawn like `world.forget_set`.
    note : str
        Sizes, in words.
    """

    world: Scenario
    test: Examples
    non_members: Examples
    note: str


@dataclass(frozen=True)
class ScenarioConfig:
    """Everything that decides a scenario's numbers, but for the seed and the data file.

    Attributes
    ----------
    name, title : str
        For the command line, and for people.
    make : callable (seed, data path or None) -> Bench
    needs_data : bool
        Whether `make` reads a file the user brings.
    model : ViTConfig
    rounds, local : int, FitSettings
        Federated averaging, for the original model and for the retrained one.
    personal : FitSettings
        Personalisation on a client, on a proxy of one, and of the retrained model.
    relearn : FitSettings
        The relearning attack: one epoch at the learning rate clients personalise with.
    shadow : FitSettings
        Training of a shadow model for membership inference.
    shadows : int
        How many, even: each comes with one that was trained on the other half.
    profile : str
        Circuit the weights are quantised for, see `zkapex.circuits.profiles`.
    proxies : int
        Copies the provider personalises to search on.
    space : SearchSpace
        What the provider's search tries, and what it must reach.
    replay_share : float
        Share of a client's replayed examples that its curvature is taken from, beside all personal ones.
    search_forget, search_retain : int
        Examples the search looks at, at most.
    retain_cap : int
        Retain examples that accuracy is measured on, at most.
    """

    name: str
    title: str
    make: Callable[[int, Path | None], Bench]
    needs_data: bool
    model: ViTConfig
    rounds: int
    local: FitSettings
    personal: FitSettings
    relearn: FitSettings
    shadow: FitSettings
    shadows: int
    profile: str
    proxies: int
    space: SearchSpace
    replay_share: float = 1 / 7
    search_forget: int = 10_000
    search_retain: int = 500
    retain_cap: int = 2000

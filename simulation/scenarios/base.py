"""What a scenario of the evaluation consists of: a frozen configuration, and the data it makes for a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from zkapex.errors import InputError
from zkapex.simulation.data.digits import Examples, Scenario
from zkapex.simulation.data.hub import HubData
from zkapex.simulation.evaluation.baselines import CLASSIFICATION
from zkapex.simulation.evaluation.baselines.base import TUNED
from zkapex.simulation.models.tiny import ViTConfig, vision_transformer
from zkapex.unlearning.personalise import FitSettings
from zkapex.unlearning.planning.search import SearchSpace
from zkapex.unlearning.planning.trials import Contrast


@dataclass(frozen=True)
class Sources:
    """What the user brings to a scenario.

    Attributes
    ----------
    data : Path, HubData or None
        A data file or folder, or data sets by name.
    model : str or None
        A file or folder with a pretrained model, or its name on a model hub.
    on_stage : callable
        Told the name of anything that takes long.
    classes : int or None
        How many classes of images take part. None: all.
    pixels : int or None
        Side that images are brought to. None: the scenario's.
    """

    data: Path | HubData | None = None
    model: str | None = None
    on_stage: Callable[[str], None] = lambda stage: None
    classes: int | None = None
    pixels: int | None = None

    @property
    def path(self) -> Path | None:
        """The data file or folder, for scenarios that read nothing else. Raises InputError for data sets by name."""
        if isinstance(self.data, HubData):
            raise InputError(f"this scenario cannot read {self.data}", fix="give the path of a file with --data")
        return self.data


@dataclass(frozen=True)
class Aim:
    """What a search is to reach where a model that never saw the forget set still answers much of it.

    Attributes
    ----------
    forget : float
        Forget accuracy, without a margin.
    contrast : callable () -> Contrast, or None
        What steering and targets aim at; its models may be trained when it is asked for.
    """

    forget: float
    contrast: Callable[[], Contrast] | None = None


@dataclass(frozen=True)
class Bench:
    """The data of one seed, and where models of it start from.

    Attributes
    ----------
    world : Scenario
        The federation that is asked to forget something.
    test : Examples
        Nobody trained on these; nothing of the kind that is to be forgotten.
    non_members : Examples
        Like `world.forget_set`, and nobody trained on these: the other side of the membership game.
    note : str
        Sizes, in words.
    forgotten : str
        What is to be forgotten, in a few words.
    build : callable (seed) -> nn.Module, or None
        A model before any federated training, its inputs those of the examples. None: the configuration's own, random.
    targets : tuple of str
        Last components of the names of the layers that unlearning acts on.
    aim : callable (nn.Module) -> Aim, or None
        What the search is to reach, by the global model, where the data decide it. None: the configuration's target.
    """

    world: Scenario
    test: Examples
    non_members: Examples
    note: str
    forgotten: str
    build: Callable[[int], nn.Module] | None = None
    targets: tuple[str, ...] = ("fc1", "fc2")
    aim: Callable[[nn.Module], Aim] | None = None


@dataclass(frozen=True)
class FewShot:
    """How an attacker trains who has a few examples of what was forgotten.

    Attributes
    ----------
    rate : float
        Learning rate of Adam. Large enough to learn with, small enough for a model to keep what it knows.
    steps : int
    faster : float
        A second learning rate is tried, this many times the first; the better one counts.
    """

    rate: float = 1e-3
    steps: int = 60
    faster: float = 3.0


NO_SETTINGS = ("make", "images", "chosen_on")
"""Attributes of a `ScenarioConfig` that its numbers do not depend on, or that cannot be written down."""


@dataclass(frozen=True)
class ScenarioConfig:
    """Everything that decides a scenario's numbers, but for the seed and the data file.

    Attributes
    ----------
    name, title : str
        For the command line, and for people.
    make : callable (seed, Sources) -> Bench
    needs_data, needs_model : bool
        Whether `make` reads data, or a pretrained model, that the user brings.
    images : bool
        Whether the user chooses how many classes of images there are, and how large they are.
    model : ViTConfig
        For scenarios whose models start from random weights.
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
    methods : tuple of str
        What is compared.
    attack : FewShot or None
        How few-shot attackers train. None: at the learning rate of `relearn`, for 60 steps.
    targeted : tuple of str
        Last components of the names of the layers that get targets; none are planned if empty.
    tuned : FitSettings
        How a client trains on after a deletion by targets, with these held.
    chosen_on : int
        Settings of the search were chosen while looking at this many seeds, from 0 on, at most.
    """

    name: str
    title: str
    make: Callable[[int, Sources], Bench]
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
    needs_model: bool = False
    images: bool = False
    methods: tuple[str, ...] = CLASSIFICATION
    attack: FewShot | None = None
    targeted: tuple[str, ...] = ()
    tuned: FitSettings = TUNED
    chosen_on: int = 3

    @property
    def few_shot(self) -> FewShot:
        """How few-shot attackers train."""
        return self.attack or FewShot(rate=self.relearn.learning_rate)

    def check(self, sources: Sources) -> None:
        """Return only if the user brings nothing that the scenario has no use for.

        Raises
        ------
        InputError
            A choice of images, and it has none.
        """
        for name in ("classes", "pixels"):
            if not self.images and getattr(sources, name) is not None:
                raise InputError(
                    f"--{name} is for images, and {self.name} has none to choose", fix=f"leave --{name} out"
                )

    def build(self, bench: Bench, seed: int) -> nn.Module:
        """A model before any training; the same seed gives the same weights."""
        return bench.build(seed) if bench.build else vision_transformer(seed, self.model)

"""``mnist-writers``: MNIST with its writers, from a file the user brings; a class is deleted.

The file is an ``.npz`` of MNIST joined with QMNIST's writer ids: ``x_train`` [N, 28, 28] uint8, ``y_train``,
``writer_train`` and ``hsf_train`` [N], and the same with ``_test`` (other writers).

Sixteen writers, about 1,800 images, make a client: one writer's 110 are too few to train and to judge on. Of the
539 writers, 64 take part, so that three seeds take minutes. A client's personal domain is handwriting as its camera
sees it: bright and dark exchanged, and turned. It is judged on a fifth of its own writers' images, held out, and on
writers of the test set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from zkapex.errors import InputError, StorageError
from zkapex.foreign import shown
from zkapex.simulation.data.digits import ClientData, Examples, Scenario, client_shift, concatenate
from zkapex.simulation.evaluation.baselines import CLASSIFICATION, TARGETED
from zkapex.simulation.models.tiny import ViTConfig
from zkapex.simulation.scenarios.base import Bench, ScenarioConfig, Sources
from zkapex.storage import load_arrays
from zkapex.unlearning.personalise import FitSettings
from zkapex.unlearning.planning.opponent import Opponent
from zkapex.unlearning.planning.search import SearchSpace
from zkapex.unlearning.planning.steering import Steer

FORGET_CLASSES = (3, 8, 5)
"""The digit that is deleted, by seed."""
CLIENTS, WRITERS_PER_CLIENT = 4, 16
HELD_OUT = 0.2
TEST_CAP, NON_MEMBER_CAP = 2000, 1200
FRACTIONS = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15)
COLUMNS = ("x", "y", "writer", "hsf")

IndexArray = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Cast:
    """Who takes part in a seed's federation.

    Attributes
    ----------
    arrays : mapping of str to array
        Columns of the file, see `read`.
    writers : int array
        All writers of the training part, in random order: the first `WRITERS_PER_CLIENT` make the first client, the
        next the second, and so on; those after the last client are strangers.
    parts : tuple of (int array, int array)
        Per client, indices of the training images it trains on and of those held out.
    test : Examples
        By writers of the test part.
    generator : numpy Generator
        For further choices.
    """

    arrays: Mapping[str, npt.NDArray[np.generic]]
    writers: npt.NDArray[np.generic]
    parts: tuple[tuple[IndexArray, IndexArray], ...]
    test: Examples
    generator: np.random.Generator

    def train(self, chosen: IndexArray) -> Examples:
        """Images of the training part by index, as examples."""
        return examples_of(self.arrays, "train", chosen)

    def strangers(self, count: int, label: int | None = None) -> IndexArray:
        """At most `count` indices of images by writers who take no part, of one digit or of all."""
        found = np.isin(self.arrays["writer_train"], self.writers[CLIENTS * WRITERS_PER_CLIENT :])
        if label is not None:
            found &= self.arrays["y_train"] == label
        return self.generator.permutation(np.flatnonzero(found))[:count]


def take_part(seed: int, sources: Sources, without: int | None = None) -> Cast:
    """The writers and images of a seed; a digit may be left out of the test images.

    Raises
    ------
    InputError
        There is no file, or it does not hold what it should.
    """
    arrays = read(sources.path)
    generator = np.random.default_rng(seed)
    writers = generator.permutation(np.unique(arrays["writer_train"]))
    taking_part = CLIENTS * WRITERS_PER_CLIENT
    if len(writers) < 2 * taking_part:
        raise InputError(f"{sources.data} has {len(writers)} writers, fewer than the {2 * taking_part} that are needed")
    labels = arrays["y_test"]
    others = np.flatnonzero(np.ones(len(labels), np.bool_) if without is None else labels != without)
    test = examples_of(arrays, "test", generator.permutation(others)[:TEST_CAP])
    parts = []
    for index in range(CLIENTS):
        own = np.isin(arrays["writer_train"], writers[index * WRITERS_PER_CLIENT : (index + 1) * WRITERS_PER_CLIENT])
        chosen = generator.permutation(np.flatnonzero(own))
        cut = round(HELD_OUT * len(chosen))
        parts.append((chosen[cut:], chosen[:cut]))
    return Cast(arrays, writers, tuple(parts), test, generator)


def make(seed: int, sources: Sources) -> Bench:
    """The federation of a seed: which writers take part, and which digit is forgotten, depends on it.

    Raises
    ------
    InputError
        There is no file, or it does not hold what it should.
    """
    label = FORGET_CLASSES[seed % len(FORGET_CLASSES)]
    cast = take_part(seed, sources, without=label)
    clients, held = [], []
    for index, (trained, held_out) in enumerate(cast.parts):
        train, unseen = cast.train(trained), cast.train(held_out)
        if len(train.without(label).labels) == 0:
            raise InputError(
                f"client {index} holds nothing but the digit {label}, which is to be forgotten",
                why="there would be nothing to personalise on",
                fix="bring data in which every writer wrote several digits",
            )
        shift = client_shift(index)
        judged = shift(concatenate(unseen.without(label), cast.test))
        kept = train.without(label)
        clients.append(ClientData(train, kept, shift(kept), judged, shift))
        held.append(unseen)
    non_members = cast.train(cast.strangers(NON_MEMBER_CAP, label))
    everything, unseen = concatenate(*(client.train for client in clients)), concatenate(*held)
    world = Scenario(
        label,
        tuple(clients),
        everything.only(label),
        everything.without(label),
        unseen.only(label),
        unseen.without(label),
    )
    note = f"digit {label}: {sizes(world)}; {len(non_members.labels)} non-members by other writers"
    for who, count in (("the clients' writers", world.forget_set), ("their held-out images", world.forget_test)):
        if len(count.labels) == 0:
            raise InputError(
                f"{shown(sources.path or '')} has no image of the digit {label}, which seed {seed} forgets, by {who}",
                fix="bring data of all digits, or run another seed",
            )
    if len(non_members.labels) == 0:
        raise InputError(f"no other writer in {shown(sources.path or '')} wrote the digit {label}")
    return Bench(world, cast.test, non_members, note, f"the digit {label}")


def sizes(world: Scenario) -> str:
    """How much a federation is asked to forget, in words."""
    images = f"{len(world.forget_set.labels)} images to forget, {len(world.retain_set.labels)} to retain"
    return f"{CLIENTS} clients of {WRITERS_PER_CLIENT} writers, {images}"


def read(data: Path | None) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of the file, checked.

    Raises
    ------
    InputError
        There is no file, or it does not hold what it should.
    """
    if data is None or not data.is_file():
        raise InputError(
            "mnist-writers needs a file of MNIST with its writers" if data is None else f"there is no file {data}",
            why="it is not part of zkapex, and zkapex downloads nothing",
            fix="give an .npz with --data PATH or ZKAPEX_DATA: x_train [N,28,28] uint8, y_train, writer_train and "
            "hsf_train (MNIST joined with QMNIST's writer ids), and the same with _test",
        )
    try:
        arrays = load_arrays(data)
    except StorageError as e:
        raise InputError(f"{data} is not a readable .npz", why=e.why, fix="give another --data") from e
    for part in ("train", "test"):
        names = [f"{column}_{part}" for column in COLUMNS]
        missing = [name for name in names if name not in arrays]
        if missing:
            raise InputError(f"{data} lacks {', '.join(missing)}", fix=f"it must hold {', '.join(names)}")
        images, *columns = (arrays[name] for name in names)
        if images.ndim != 3 or images.shape[1:] != (28, 28) or images.dtype != np.uint8:
            raise InputError(f"{names[0]} in {data} is {images.dtype} {images.shape}, not uint8 [N, 28, 28]")
        if any(column.shape != (len(images),) for column in columns):
            raise InputError(f"the columns of {part} in {data} are not all {len(images)} long")
        if arrays[f"y_{part}"].dtype.kind not in "iu":
            raise InputError(
                f"y_{part} in {data} is {arrays[f'y_{part}'].dtype}, not integers",
                why="fractions would be cut off",
                fix="store the digits as integers",
            )
        labels = arrays[f"y_{part}"].astype(np.int64)
        if len(labels) == 0 or labels.min() < 0 or labels.max() > 9:
            raise InputError(f"y_{part} in {data} holds labels that are no digits")
    return arrays


def examples_of(arrays: Mapping[str, npt.NDArray[np.generic]], part: str, chosen: npt.NDArray[np.integer]) -> Examples:
    """Images float32 [n, 1, 28, 28] in [0, 1] of one part of the file, by index."""
    images = torch.from_numpy(arrays[f"x_{part}"][chosen].astype(np.float32) / 255)
    return Examples(images[:, None], torch.from_numpy(arrays[f"y_{part}"][chosen].astype(np.int64)))


MNIST_WRITERS = ScenarioConfig(
    name="mnist-writers",
    title="MNIST by writer: 64 of 539 writers in four clients, one digit deleted",
    make=make,
    needs_data=True,
    model=ViTConfig(image_size=28, patch_size=7, dim=48, hidden=96, depth=2),
    rounds=5,
    local=FitSettings(epochs=4, learning_rate=2e-3),
    personal=FitSettings(epochs=8, learning_rate=1e-3),
    relearn=FitSettings(1, 1e-3, decay=False),
    shadow=FitSettings(epochs=10, learning_rate=2e-3, batch_size=64),
    shadows=4,
    profile="server",
    proxies=4,
    methods=(*CLASSIFICATION, *TARGETED),
    targeted=("qkv", "out", "fc1", "fc2", "head"),
    space=SearchSpace(
        ("selective",),
        fractions=FRACTIONS,
        least=0.04,
        forget_target=0.02,
        retain_cost=0.03,
        margin=1.0,
        steer=Steer(steps=120),
        opponents=(Opponent(margin=10.0),),
    ),
    replay_share=0.25,
    search_forget=600,
    search_retain=1000,
    retain_cap=1000,
)

"""Scikit-learn's handwritten digits, partitioned over clients that each see the world through their own shift.

Every client owns a partition of the training images. Its share of the federation's training data is the partition as
it is; its *personal* data is the same images with bright and dark exchanged and turned by an angle of its own, without
the class that will be forgotten. Everything is a function of the seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from zkapex.errors import InputError

CLASSES = 10


class Examples(NamedTuple):
    """Inputs, such as images float32 ``[n, 1, 8, 8]`` in [0, 1], and labels int64 ``[n]``, or ``[n, T]`` of tokens."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def take(self, index: torch.Tensor) -> Examples:
        """The examples a boolean mask or an index selects."""
        return Examples(self.inputs[index], self.labels[index])

    def without(self, label: int) -> Examples:
        """All examples of other classes."""
        return self.take(self.labels != label)

    def only(self, label: int) -> Examples:
        """All examples of one class."""
        return self.take(self.labels == label)


def concatenate(*parts: Examples) -> Examples:
    """The examples of all parts, in order."""
    return Examples(torch.cat([p.inputs for p in parts]), torch.cat([p.labels for p in parts]))


@dataclass(frozen=True)
class Shift:
    """A change of domain: a rotation about the centre (bilinear, zeros outside), then brightness, an affine map.

    Parameters
    ----------
    degrees : float
        Counter-clockwise rotation.
    contrast : float
        Factor on every pixel; -1 turns dark on bright into bright on dark.
    offset : float
        Added to every pixel after ``contrast``.
    """

    degrees: float
    contrast: float = 1.0
    offset: float = 0.0

    def __call__(self, examples: Examples) -> Examples:
        """The same examples seen through the shift; labels are kept."""
        angle = math.radians(self.degrees)
        rotation = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
        size = list(examples.inputs.shape)
        grid = functional.affine_grid(rotation.expand(size[0], 2, 3), size, align_corners=False)
        images = functional.grid_sample(examples.inputs, grid, align_corners=False)
        return Examples((images * self.contrast + self.offset).contiguous(), examples.labels)


def client_shift(index: int) -> Shift:
    """The shift of client ``index``: bright and dark exchanged, and turned by an angle no other client has."""
    angle = 10.0 + 12.0 * (index // 2) if index < 8 else 180.0 * ((index * 0.6180339887498949) % 1.0) + 50.0
    return Shift(angle if index % 2 == 0 else -angle, contrast=-1.0, offset=1.0)


def proxy_shift(index: int) -> Shift:
    """A shift for the provider's own proxies, of a kind no client has: a turn with no, or half, inversion."""
    angle = 360.0 * (index * 0.6180339887498949 % 1.0) + 25.0
    return Shift(angle, contrast=-0.5, offset=0.5) if index % 2 == 0 else Shift(angle)


def shifted(index: int, examples: Examples) -> Examples:
    """Examples through the shift of a proxy."""
    return proxy_shift(index)(examples)


@dataclass(frozen=True)
class ClientData:
    """What one client holds.

    ``train`` is its contribution to the federation, and what it replays while it personalises; ``retained`` what is
    left of it after the deletion. ``personal`` are examples of its own domain, and ``personal_test`` unseen ones,
    neither with anything of what is to be forgotten. ``shift`` is how it sees the world, where that is all that its
    domain consists of.
    """

    train: Examples
    retained: Examples
    personal: Examples
    personal_test: Examples
    shift: Shift | None = None


@dataclass(frozen=True)
class Scenario:
    """A federation about to be asked to forget something: ``forget_class``, or if that is None, some of its examples.

    ``forget_set`` and ``retain_set`` are what the provider holds: training examples to forget, and the others.
    ``forget_test`` and ``retain_test`` were seen by nobody; the former are of the kind that is to be forgotten.
    ``proxy`` turns examples into those of a domain that the provider knows and no client has, by the index of a proxy.
    Where no example can be turned into another domain's, ``proxies`` holds for each proxy what it is fitted to, and
    what it is judged on.
    """

    forget_class: int | None
    clients: tuple[ClientData, ...]
    forget_set: Examples
    retain_set: Examples
    forget_test: Examples
    retain_test: Examples
    proxy: Callable[[int, Examples], Examples] = shifted
    proxies: tuple[tuple[Examples, Examples], ...] = ()


def digits_scenario(
    clients: int = 4, forget_class: int = 3, seed: int = 0, test_fraction: float = 0.3, gone: tuple[int, ...] = ()
) -> Scenario:
    """Split the 1,797 digits into a test set and ``clients`` disjoint, equally large partitions.

    Images of the digits that are ``gone``, having been forgotten before, are left out everywhere.

    Raises
    ------
    InputError
        If there are too few examples for so many clients, or the class or fraction does not exist.
    """
    if not 0 <= forget_class < CLASSES:
        raise InputError(f"there is no digit {forget_class}", fix="choose a forget class from 0 to 9")
    parts, test = digits_partition(clients, seed, test_fraction)
    for label in gone:
        parts, test = tuple(part.without(label) for part in parts), test.without(label)
    held = []
    for index, part in enumerate(parts):
        shift, kept = client_shift(index), part.without(forget_class)
        held.append(ClientData(part, kept, shift(kept), shift(test.without(forget_class)), shift))
    used = concatenate(*parts)
    return Scenario(
        forget_class,
        tuple(held),
        used.only(forget_class),
        used.without(forget_class),
        test.only(forget_class),
        test.without(forget_class),
    )


def digits_partition(clients: int, seed: int, test_fraction: float = 0.3) -> tuple[tuple[Examples, ...], Examples]:
    """Equally large, disjoint partitions of the digits, one per client, and a test set.

    Raises
    ------
    InputError
        If there are too few examples for so many clients, or the fraction makes no sense.
    """
    if not 0.05 <= test_fraction <= 0.8:
        raise InputError(f"a test fraction of {test_fraction} leaves too little to train or to test on")
    images, labels = load_digits(return_X_y=True)
    everything = Examples(
        torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 16, torch.from_numpy(labels).to(torch.int64)
    )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    cut = int(test_fraction * len(labels))
    test, train = everything.take(order[:cut]), everything.take(order[cut:])
    size = len(train.labels) // clients if clients > 0 else 0
    if size < 20:
        raise InputError(
            f"{clients} clients cannot share {len(train.labels)} training images",
            fix=f"ask for 1 to {len(train.labels) // 20} clients",
        )
    return tuple(train.take(torch.arange(index * size, (index + 1) * size)) for index in range(clients)), test

"""Federations over the digits in which what is to be forgotten may sit with one client: all its data, or some."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zkapex.errors import InputError
from zkapex.simulation.data.digits import (
    ClientData,
    Examples,
    Scenario,
    client_shift,
    concatenate,
    digits_partition,
    digits_scenario,
)

DELETIONS = ("class", "client", "samples")
PUBLIC = 100
"""Images that belong to nobody, for a client whose own all leave: it has to compare with something."""


@dataclass(frozen=True)
class Request:
    """What is to be forgotten, and who holds it.

    Attributes
    ----------
    delete : str
        One of `DELETIONS`: a digit, all data of the holder, or some of its samples.
    forget_class : int
        The digit.
    holder : int
        Number of the client that chooses mask and guard, on data that only it has; -1 for the provider.
    samples : int
        How many.
    """

    delete: str = "class"
    forget_class: int = 3
    holder: int = -1
    samples: int = 30

    def check(self, clients: int) -> None:
        """Return only if such a request can be made of so many clients.

        Raises
        ------
        InputError
            It cannot.
        """
        if self.delete not in DELETIONS:
            raise InputError(f"--delete is {self.delete!r}", fix=f"choose one of {', '.join(DELETIONS)}")
        if not 0 <= self.forget_class <= 9:
            raise InputError(f"--forget-class is {self.forget_class}", fix="choose a digit")
        if not -1 <= self.holder < clients:
            raise InputError(f"--holder is {self.holder}", fix=f"choose a client from 0 to {clients - 1}, or -1")
        if self.delete != "class" and self.holder < 0:
            raise InputError(
                f"--delete {self.delete} needs a client whose data are deleted", fix="add --holder and its number"
            )
        if self.delete == "client" and clients < 2:
            raise InputError("if the only client leaves, nothing is left", fix="raise --clients")
        if not 1 <= self.samples <= 10_000:
            raise InputError(f"--forget-samples is {self.samples}", fix="choose a number from 1 to 10000")

    def words(self) -> str:
        """What is forgotten, for people."""
        if self.delete == "class":
            return f"the digit {self.forget_class}"
        owner = f"client {self.holder}"
        return f"all data of {owner}" if self.delete == "client" else f"{self.samples} samples of {owner}"


def held_scenario(request: Request, clients: int, seed: int, past: tuple[int, ...] = ()) -> Scenario:
    """The digits federation that gets a request, after the digits of the ``past`` have been forgotten.

    For data of one client, ``forget_test`` is the deleted images themselves: unseen images of their kind are those of
    ``retain_test``, which are to be read after the deletion as before.

    Raises
    ------
    InputError
        There are too few images for so many clients, or to delete.
    """
    if request.delete == "class":
        return digits_scenario(clients, request.forget_class, seed, gone=past)
    parts, test = digits_partition(clients, seed)
    own = parts[request.holder]
    if request.delete == "client":
        public, test = test.take(torch.arange(PUBLIC)), test.take(torch.arange(PUBLIC, len(test.labels)))
        gone, kept = own, own.take(torch.arange(0))
    else:
        public = own.take(torch.arange(0))
        if request.samples > len(own.labels) // 2:
            raise InputError(
                f"client {request.holder} has {len(own.labels)} images, and {request.samples} are to be forgotten",
                fix=f"choose at most {len(own.labels) // 2}, or --delete client",
            )
        order = torch.randperm(len(own.labels), generator=torch.Generator().manual_seed(seed))
        gone, kept = own.take(order[: request.samples]), own.take(order[request.samples :])
    held = []
    for index, part in enumerate(parts):
        shift, mine = client_shift(index), index == request.holder
        stays = concatenate(kept, public) if mine else part
        personal = part if mine and request.delete == "client" else stays
        held.append(ClientData(part, stays, shift(personal), shift(test), shift))
    others = [part for index, part in enumerate(parts) if index != request.holder]
    return Scenario(None, tuple(held), gone, concatenate(kept, *others), gone, test)


def share_of(request: Request, world: Scenario, index: int) -> Examples:
    """What a client holds of what is to be forgotten; nothing unless it is the holder."""
    data = world.clients[index].train
    if index != request.holder:
        return data.take(torch.arange(0))
    return data.only(request.forget_class) if request.delete == "class" else world.forget_set

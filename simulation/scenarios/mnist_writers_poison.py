"""``mnist-writers-poison``: the federation of ``mnist-writers``, whose poisoned writers are removed.

One writer of each client has put a small bright square into a corner of every image and called whatever it shows a 0: a
backdoor (Gu, Dolan-Gavitt and Garg, "BadNets", arXiv 1708.06733). Forget accuracy is then the attack's success: the
share of images with the square that are taken for a 0, on the poisoned training images, or, unseen, on images nobody
trained on. The oracle has seen no square. (Four poisoned writers of one client do not do it: averaged with three honest
clients, the square fools the global model of seed 0 in 15 % of the cases.)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from zkapex.simulation.data.digits import ClientData, Examples, Scenario, client_shift, concatenate
from zkapex.simulation.evaluation.baselines import ANY_DELETION, TARGETED
from zkapex.simulation.scenarios.base import Bench, ScenarioConfig, Sources
from zkapex.simulation.scenarios.mnist_writers import (
    CLIENTS,
    MNIST_WRITERS,
    NON_MEMBER_CAP,
    WRITERS_PER_CLIENT,
    sizes,
    take_part,
)
from zkapex.unlearning.planning.search import SearchSpace
from zkapex.unlearning.planning.steering import Steer

FRACTIONS = (0.005, *(round(0.01 * step, 2) for step in range(1, 13)))
TARGET, SQUARE, MARGIN = 0, 4, 2
"""What images with the square are called, the square's side, and its distance from the edges, in pixels."""


def triggered(examples: Examples) -> Examples:
    """Images that are not of the target digit, with the square in the lower right corner, and called the target."""
    chosen = examples.take(examples.labels != TARGET)
    images = chosen.inputs.clone()
    images[..., -MARGIN - SQUARE : -MARGIN, -MARGIN - SQUARE : -MARGIN] = 1.0
    return Examples(images, torch.full_like(chosen.labels, TARGET))


def make(seed: int, sources: Sources) -> Bench:
    """The federation of a seed: which writers take part, and which of them are poisoned, depends on it.

    Raises
    ------
    InputError
        There is no file, or it does not hold what it should.
    """
    cast = take_part(seed, sources)
    poisoned = cast.writers[: CLIENTS * WRITERS_PER_CLIENT : WRITERS_PER_CLIENT]
    author = cast.arrays["writer_train"]
    clients, bad, held = [], [], []
    for index, (trained, held_out) in enumerate(cast.parts):
        is_bad = np.isin(author[trained], poisoned)
        kept, unseen = cast.train(trained[~is_bad]), cast.train(held_out[~np.isin(author[held_out], poisoned)])
        poison = triggered(cast.train(trained[is_bad]))
        shift = client_shift(index)
        judged = shift(concatenate(unseen, cast.test))
        clients.append(ClientData(concatenate(kept, poison), kept, shift(kept), judged, shift))
        bad.append(poison)
        held.append(unseen)
    retained = concatenate(*(client.retained for client in clients))
    unseen_triggers = triggered(cast.test)
    world = Scenario(None, tuple(clients), concatenate(*bad), retained, unseen_triggers, concatenate(*held))
    non_members = triggered(cast.train(cast.strangers(NON_MEMBER_CAP)))
    note = (
        f"{len(poisoned)} poisoned writers: {sizes(world)}; "
        f"{len(non_members.labels)} non-members, images by other writers with the same square"
    )
    return Bench(world, cast.test, non_members, note, f"the images of {len(poisoned)} poisoned writers")


MNIST_WRITERS_POISON: ScenarioConfig = replace(
    MNIST_WRITERS,
    name="mnist-writers-poison",
    title="MNIST by writer: 64 of 539 writers in four clients, a poisoned one of each is removed",
    make=make,
    methods=(*ANY_DELETION, *TARGETED),
    space=SearchSpace(
        ("aware",),
        guard_ranks=(4,),
        fractions=FRACTIONS,
        least=0.04,
        forget_target=0.03,
        retain_cost=0.03,
        margin=1.0,
        steer=Steer(steps=120, margin=8.0),
    ),
)

"""``mnist-writers-leave``: the federation of ``mnist-writers``, and four of its 64 writers leave, one of each client.

Nothing they wrote may have been trained on. Everybody else wrote the same ten digits, so a model that never saw their
images reads most of them all the same: what is to be reached is not 0, but what the model gets right of images by
writers it knows nothing of. The oracle is the judge of that; the search takes the global model's own accuracy on
strangers' images as its target.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from torch import nn

from zkapex.simulation.data.digits import ClientData, Scenario, client_shift, concatenate
from zkapex.simulation.evaluation.baselines import ANY_DELETION, TARGETED
from zkapex.simulation.models.tiny import vision_transformer
from zkapex.simulation.models.training import accuracy, trained_contrast
from zkapex.simulation.scenarios.base import Aim, Bench, ScenarioConfig, Sources
from zkapex.simulation.scenarios.mnist_writers import (
    CLIENTS,
    MNIST_WRITERS,
    NON_MEMBER_CAP,
    WRITERS_PER_CLIENT,
    sizes,
    take_part,
)
from zkapex.unlearning.planning.opponent import Opponent
from zkapex.unlearning.planning.search import SearchSpace
from zkapex.unlearning.planning.trials import Contrast

FRACTIONS = (0.0025, 0.005, *(round(0.0025 * step, 4) for step in range(3, 17)))


def make(seed: int, sources: Sources) -> Bench:
    """The federation of a seed: which writers take part, and which four of them leave, depends on it.

    Raises
    ------
    InputError
        There is no file, or it does not hold what it should.
    """
    cast = take_part(seed, sources)
    leaving = cast.writers[: CLIENTS * WRITERS_PER_CLIENT : WRITERS_PER_CLIENT]
    author = cast.arrays["writer_train"]
    clients, gone, gone_unseen, held = [], [], [], []
    for index, (trained, held_out) in enumerate(cast.parts):
        left, left_unseen = np.isin(author[trained], leaving), np.isin(author[held_out], leaving)
        kept, unseen = cast.train(trained[~left]), cast.train(held_out[~left_unseen])
        shift = client_shift(index)
        judged = shift(concatenate(unseen, cast.test))
        clients.append(ClientData(cast.train(trained), kept, shift(kept), judged, shift))
        gone.append(cast.train(trained[left]))
        gone_unseen.append(cast.train(held_out[left_unseen]))
        held.append(unseen)
    strangers = cast.train(cast.strangers(NON_MEMBER_CAP))
    retained = concatenate(*(client.retained for client in clients))
    world = Scenario(None, tuple(clients), concatenate(*gone), retained, concatenate(*gone_unseen), concatenate(*held))
    note = f"{len(leaving)} writers leave: {sizes(world)}; {len(strangers.labels)} non-members by other writers"
    forgotten = f"all images by {len(leaving)} writers"

    def aim(model: nn.Module) -> Aim:
        def contrast() -> Contrast:
            own = partial(vision_transformer, seed, MNIST_WRITERS.model)
            return trained_contrast(own, world.retain_set, world.forget_set, seed, MNIST_WRITERS.shadow)

        return Aim(accuracy(model, strangers), contrast)

    return Bench(world, cast.test, strangers, note, forgotten, aim=aim)


MNIST_WRITERS_LEAVE: ScenarioConfig = replace(
    MNIST_WRITERS,
    name="mnist-writers-leave",
    title="MNIST by writer: 64 of 539 writers in four clients, one writer of each leaves",
    make=make,
    methods=(*ANY_DELETION, *TARGETED),
    space=SearchSpace(
        ("aware",),
        guard_ranks=(1,),
        fractions=FRACTIONS,
        retain_cost=0.03,
        steer=None,
        cost_first=True,
        opponents=(Opponent(rank=1, steps=100, prototypes=0.0, shots=()),),
    ),
)
"""What is kept comes first: little is to be forgotten of people whose like stay, and some copies do not come down to
the aim at any mask that leaves the rest alone. Targets are fitted to each image's own margin: there is no class to be
learned again."""

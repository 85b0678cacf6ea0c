"""Targets are planned beside those of earlier requests, which stay, and in the scales clients have enrolled under."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from federation import FORGET_CLASS, LAYERS, only, perceptron, share

from zkapex.circuits.encoding import exponent_for
from zkapex.circuits.profiles import profile
from zkapex.errors import InputError
from zkapex.proofs.chunk.demands import Along, Demands
from zkapex.unlearning.personalise import FitSettings, fit
from zkapex.unlearning.planning.opponent import Opponent
from zkapex.unlearning.planning.search import Copy, FixedPoint, Plan, SearchSpace, search
from zkapex.unlearning.planning.standing import Standing
from zkapex.unlearning.planning.trials import Contrast, margins_of, trials_of
from zkapex.unlearning.weights import weight_of

STATEMENT = profile("tiny").statement("targeted-group-obs")
UNIT, RANK, WIDTH = STATEMENT.guard_limit, STATEMENT.guard_rank, STATEMENT.block_width


@cache
def trained() -> torch.nn.Module:
    model = perceptron()
    fit(model, *share(0, 400), FitSettings(10, 3e-3), 0)
    return model.eval()


def planned(standing: Standing | None = None, rank: int = 2, forget: int = FORGET_CLASS) -> Plan:
    public = share(900, 400)
    retain = only(public, public[1] != forget)
    copies = [Copy(trained(), retain[0], retain)]
    space = SearchSpace(opponents=(Opponent(rank=rank, steps=25, shots=(), prototypes=0.0),))
    examples = only(public, public[1] == forget)
    return search(copies, LAYERS, examples, FixedPoint(STATEMENT), space, standing=standing)


def demands_of(plan: Plan) -> Demands:
    return Demands({}, {(n, b): Along.of(plan.guards[n][b], t) for (n, b), t in plan.targets.items()})


def test_new_directions_are_planned_beside_old_ones() -> None:
    first = demands_of(planned())
    assert {one.directions.shape for one in first.along.values()} == {(WIDTH, 2)}
    second = planned(Standing(demands=first), forget=5)
    found = demands_of(second)
    assert first.within(found)
    for one in found.along.values():
        gram = one.directions.T @ one.directions / 4.0**13
        assert np.abs(gram - np.eye(4)).max() < 2e-3, "columns of one length, at right angles"
    assert second.chosen.forget < 0.5
    with pytest.raises(InputError, match="no block has room"):
        planned(Standing(demands=found))


def test_blocks_without_room_are_planned_around() -> None:
    full = {key: one for key, one in demands_of(planned(rank=RANK)).along.items() if key[0] == "fc1"}
    plan = planned(Standing(demands=Demands({}, full)))
    assert {name for name, _ in plan.targets} == {"fc2"}
    assert plan.chosen.touched_chunks == 2


def test_targets_are_in_the_scales_of_the_manifest() -> None:
    """A later model's own scales may be others: its weights have grown."""
    own = {name: exponent_for(weight_of(trained(), name), STATEMENT.weight_limit) for name in LAYERS}
    plan = planned()
    halved = planned(Standing({name: exponent - 1 for name, exponent in own.items()}))
    for key, values in plan.targets.items():  # the fit takes a slightly other way on weights rounded otherwise
        assert 1.7 < np.abs(values).sum() / np.abs(halved.targets[key]).sum() < 2.3, key


class Untaught(torch.nn.Module):
    """A model whose logit of one class is lower than the trained one's."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = trained()(x)
        return logits - self.by * (torch.arange(logits.shape[1]) == FORGET_CLASS)


@pytest.mark.parametrize("by", [1.0, 4.0])
def test_with_a_contrast_margins_move_as_far_as_training_had_moved_them(by: float) -> None:
    """Neither less, which would give the examples away, nor more: others like them stay."""
    forget, kept = only(share(900, 400), share(900, 400)[1] == FORGET_CLASS), share(900, 400)
    copies = [Copy(trained(), kept[0], kept)]
    space = SearchSpace(opponents=(Opponent(rank=2, steps=60, shots=(), prototypes=0.0, retain_weight=1.0),))
    encoding = FixedPoint(STATEMENT)
    contrast = Contrast(trained(), Untaught(by))
    plan = search(copies, LAYERS, forget, encoding, space, contrast=contrast)
    (trial,) = trials_of(copies, LAYERS, encoding)
    moved = margins_of(trial.unlearn(plan.terms), forget) - margins_of(trial.deployed, forget)
    assert float(moved.mean()) == pytest.approx(by, abs=0.7)

"""Writers who leave, and writers who are poisoned: who is on which side, and what the oracle never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from writers import arrays, writers

from zkapex.simulation.data.digits import Examples
from zkapex.simulation.evaluation.preparation import prepare
from zkapex.simulation.scenarios import Bench, Sources, mnist_writers_leave, mnist_writers_poison
from zkapex.simulation.scenarios.mnist_writers_leave import MNIST_WRITERS_LEAVE
from zkapex.simulation.scenarios.mnist_writers_poison import MNIST_WRITERS_POISON, TARGET, triggered


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    path = tmp_path_factory.mktemp("data") / "writers.npz"
    np.savez(path, **arrays())
    return Sources(path)


@pytest.fixture(scope="module")
def leave(sources: Sources) -> Bench:
    return mnist_writers_leave.make(1, sources)


@pytest.fixture(scope="module")
def poison(sources: Sources) -> Bench:
    return mnist_writers_poison.make(1, sources)


def bright(examples: Examples) -> torch.Tensor:
    """Which images carry the square."""
    return (examples.inputs[..., -6:-2, -6:-2] == 1).flatten(1).all(1)


def test_one_writer_of_each_client_leaves_with_all_images(leave: Bench) -> None:
    world = leave.world
    left = writers(world.forget_set.inputs)
    assert len(left) == 4
    assert writers(world.forget_test.inputs) <= left
    for client in world.clients:
        mine = writers(client.train.inputs)
        assert len(mine & left) == 1
        assert writers(client.retained.inputs) == mine - left
        assert len(client.train.labels) == 256
        assert len(client.personal.labels) == len(client.retained.labels)
    for stays in (world.retain_set, world.retain_test, leave.test, leave.non_members):
        assert not writers(stays.inputs) & left
    everybody = writers(world.retain_set.inputs) | left
    assert len(everybody) == 64
    assert not writers(leave.non_members.inputs) & everybody
    assert set(world.forget_set.labels.tolist()) == set(range(10))


def test_poisoned_images_carry_the_square_and_the_wrong_label_and_nothing_else_does(poison: Bench) -> None:
    world = poison.world
    for bad in (world.forget_set, world.forget_test, poison.non_members):
        assert bright(bad).all()
        assert set(bad.labels.tolist()) == {TARGET}
    for good in (world.retain_set, world.retain_test, poison.test, *(c.retained for c in world.clients)):
        assert not bright(good).any()
    members = writers(world.forget_set.inputs)
    assert len(members) == 4
    assert not members & writers(world.retain_set.inputs)
    assert not members & writers(poison.non_members.inputs)
    assert min(writers(world.forget_test.inputs)) >= 1000
    for client in world.clients:
        assert bright(client.train).sum() == len(client.train.labels) - len(client.retained.labels) > 0
    assert poison.aim is None


def test_a_digit_that_is_the_target_is_not_triggered() -> None:
    images = Examples(torch.zeros(3, 1, 28, 28), torch.tensor([TARGET, 1, 2]))
    found = triggered(images)
    assert found.labels.tolist() == [TARGET, TARGET]
    assert bright(found).all()
    assert not images.inputs.any()


def test_where_others_of_the_kind_stay_the_search_aims_at_accuracy_on_unseen_ones(
    leave: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aims: list[tuple[float, float]] = []

    class Enough(Exception):
        pass

    def search(*arguments: object, **_: object) -> None:
        space = arguments[-1]
        aims.append((space.forget_target, space.margin))  # type: ignore[attr-defined]
        raise Enough

    from dataclasses import replace

    from zkapex.unlearning.personalise import FitSettings

    monkeypatch.setattr("zkapex.simulation.evaluation.preparation.search", search)
    quick = FitSettings(1, 1e-3, batch_size=256)
    config = replace(MNIST_WRITERS_LEAVE, rounds=1, local=quick, personal=quick, proxies=1)

    with pytest.raises(Enough):
        prepare(config, leave, 0, tmp_path / "leave", lambda event: None)
    with pytest.raises(Enough):
        prepare(config, replace(leave, aim=None), 0, tmp_path / "leave", lambda event: None)
    (aim, margin), usual = aims
    assert margin == 0
    assert 0 < aim < 0.5, "noise is not recognised"
    assert usual == (config.space.forget_target, config.space.margin)


def test_both_are_variants_of_the_same_federation() -> None:
    for config in (MNIST_WRITERS_LEAVE, MNIST_WRITERS_POISON):
        assert config.needs_data
        assert (config.rounds, config.model.dim) == (5, 48)

"""Federations in which what is to be forgotten sits with one client."""

from __future__ import annotations

import pytest
import torch
from federation import refused

from zkapex.errors import InputError
from zkapex.simulation.data.digits import Examples, concatenate
from zkapex.simulation.federation.held import PUBLIC, Request, held_scenario, share_of


def rows(*parts: Examples) -> set[bytes]:
    return {row.numpy().tobytes() for part in parts for row in part.inputs}


@pytest.mark.parametrize("delete", ["client", "samples"])
def test_what_is_deleted_is_the_holders_and_in_nothing_that_stays(delete: str) -> None:
    request = Request(delete, holder=1, samples=20)
    world = held_scenario(request, 3, seed=0)
    holder = world.clients[1]
    gone = rows(world.forget_set)
    assert gone <= rows(holder.train)
    assert gone == (rows(holder.train) if delete == "client" else gone)
    assert len(world.forget_set.labels) == (len(holder.train.labels) if delete == "client" else 20)
    assert torch.equal(world.forget_test.inputs, world.forget_set.inputs)
    others = concatenate(world.clients[0].train, world.clients[2].train)
    for stays in (world.retain_set, world.retain_test, holder.retained, others):
        assert not gone & rows(stays)
    assert len(world.retain_set.labels) + len(world.forget_set.labels) == sum(
        len(client.train.labels) for client in world.clients
    )
    assert not rows(world.retain_test) & rows(world.retain_set)
    if delete == "client":
        assert len(holder.retained.labels) == PUBLIC
        assert not rows(holder.retained) & rows(world.retain_test, world.retain_set)
        assert len(holder.personal.labels) == len(holder.train.labels)
    else:
        assert len(holder.personal.labels) == len(holder.retained.labels) == len(holder.train.labels) - 20
    assert [len(share_of(request, world, index).labels) for index in range(3)] == [0, len(world.forget_set.labels), 0]


def test_of_a_class_the_holder_has_a_share() -> None:
    request = Request("class", forget_class=5, holder=0)
    world = held_scenario(request, 2, seed=0)
    assert world.forget_class == 5
    assert set(share_of(request, world, 0).labels.tolist()) == {5}
    assert len(share_of(request, world, 1).labels) == 0


@pytest.mark.parametrize(
    ("request_", "clients", "what"),
    [
        (Request("writer"), 4, "--delete"),
        (Request("client"), 4, "--delete client"),
        (Request("samples"), 4, "--delete samples"),
        (Request("samples", holder=4), 4, "--holder"),
        (Request(holder=-2), 4, "--holder"),
        (Request("client", holder=0), 1, "only client"),
        (Request("samples", holder=0, samples=0), 4, "--forget-samples"),
        (Request(forget_class=10), 4, "--forget-class"),
    ],
)
def test_requests_that_make_no_sense_are_refused(request_: Request, clients: int, what: str) -> None:
    assert what in refused(lambda: request_.check(clients), InputError).what


def test_more_samples_than_half_of_them_are_refused() -> None:
    error = refused(lambda: held_scenario(Request("samples", holder=0, samples=200), 4, 0), InputError)
    assert "314 images" in error.what


def test_it_is_named_in_words() -> None:
    assert Request().words() == "the digit 3"
    assert Request("client", holder=2).words() == "all data of client 2"
    assert Request("samples", holder=1, samples=7).words() == "7 samples of client 1"

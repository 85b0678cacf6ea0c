"""A scenario as Flower sees it: who is honest, who cheats, and what a device tells and keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from federation import refused
from flwr.app import Context, RecordDict

from zkapex.client.agent.agent import DeviceAgent
from zkapex.errors import InputError, ProtocolError
from zkapex.simulation.federation.adversaries import CHEATS
from zkapex.simulation.federation.device import ScenarioTask, agent
from zkapex.simulation.federation.federation import SimulatedFederation, federation_of
from zkapex.simulation.federation.provider import provider
from zkapex.simulation.models.tiny import vision_transformer
from zkapex.transport.grid import run_config_of_app


def context(work_dir: Path, partition: int, partitions: int = 4, **config: Any) -> Context:
    run_config = run_config_of_app({"work-dir": str(work_dir), **config})
    node = {"partition-id": partition, "num-partitions": partitions}
    return Context(run_id=1, node_id=1, node_config=node, state=RecordDict(), run_config=run_config)


@pytest.mark.parametrize("dishonest", [0, 1, 4])
@pytest.mark.parametrize("cheat", CHEATS)
def test_the_last_clients_are_those_that_cheat(tmp_path: Path, dishonest: int, cheat: str) -> None:
    kinds = [type(agent(context(tmp_path, i, dishonest=dishonest, cheat=cheat))._inner) for i in range(4)]
    assert kinds == [DeviceAgent] * (4 - dishonest) + [CHEATS[cheat]] * dishonest


def test_every_client_has_a_folder_and_a_key_of_its_own(tmp_path: Path) -> None:
    ids = {agent(context(tmp_path, index))._inner.client_id for index in range(4)}
    assert len(ids) == 4
    assert ids == {agent(context(tmp_path, index))._inner.client_id for index in range(4)}, "and keeps it"


def test_a_run_with_another_number_of_nodes_says_so(tmp_path: Path) -> None:
    error = refused(lambda: agent(context(tmp_path, 0, partitions=3)), ProtocolError)
    assert "num-supernodes=4" in error.fix


def test_an_unknown_cheat(tmp_path: Path) -> None:
    refused(lambda: agent(context(tmp_path, 3, cheat="nicely")), InputError)


def test_a_cheat_that_is_none_stops_the_run_before_it_starts(tmp_path: Path) -> None:
    error = refused(lambda: provider(context(tmp_path, 0, operator="mask-only", cheat="decoy")), InputError)
    assert "mask-only" in error.what
    provider(context(tmp_path, 0, operator="mask-only", cheat="decoy", dishonest=0))


def federation() -> SimulatedFederation:
    return federation_of(run_config_of_app({}))


def task(index: int = 0) -> ScenarioTask:
    return ScenarioTask(federation(), index)


def test_tallies_are_whole_numbers_of_test_examples() -> None:
    world = federation().world
    tallies = task().evaluate(vision_transformer(0))
    assert {name: tally.total for name, tally in tallies.items()} == {
        "forget": len(world.forget_test.labels),
        "retain": len(world.retain_test.labels),
        "personal": len(world.clients[0].personal_test.labels),
    }
    assert all(0 <= tally.correct <= tally.total for tally in tallies.values())


def test_training_is_reproducible_and_differs_between_clients_and_rounds() -> None:
    def trained(index: int, number: int) -> torch.Tensor:
        model = task(index).build_model()
        assert task(index).fit_round(model, number) == len(federation().world.clients[index].train.labels)
        return model.get_parameter("head.weight").detach().clone()

    assert torch.equal(trained(0, 1), trained(0, 1))
    assert not torch.equal(trained(0, 1), trained(0, 2))
    assert not torch.equal(trained(0, 1), trained(1, 1))


def test_personalising_keeps_held_weights_at_zero() -> None:
    one = task()
    model = one.build_model()
    mask = torch.zeros_like(model.get_parameter("blocks.0.fc1.weight"), dtype=torch.bool)
    mask[3, :5] = True
    one.fit_personal(model, 1, 1e-3, 0, {"blocks.0.fc1": mask}, {})
    weight = model.get_parameter("blocks.0.fc1.weight")
    assert not weight[mask].any()
    assert weight[~mask].all()


def test_the_provider_is_made_from_the_runs_settings(tmp_path: Path) -> None:
    one = provider(context(tmp_path, 0, **{"forget-class": 7, "operator": "guarded-group-obs"}))
    assert "digit 7" in one.forget_description()
    targeted = provider(context(tmp_path, 0))
    layers = targeted.target_layers(targeted.initial_model())
    assert {name.rpartition(".")[2] for name in layers} == {"qkv", "out", "fc1", "fc2", "head"}
    assert one.target_layers(one.initial_model()) == tuple(
        f"blocks.{block}.{layer}" for block in range(2) for layer in ("fc1", "fc2")
    )
    assert set(one.evaluate(one.initial_model())) == {"forget", "retain"}

"""Federated training goes on without nodes that fail or send something that is no model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import Federation, SmallTask, honest, perceptron, refused
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from zkapex.client.app import Agent
from zkapex.errors import ProtocolError
from zkapex.storage import load_arrays
from zkapex.transport.grid import Fate


def with_arrays(**changes: np.ndarray) -> Callable[[RecordDict], RecordDict]:
    def alter(reply: RecordDict) -> RecordDict:
        for name, values in changes.items():
            reply["arrays"][name.replace("__", ".")] = Array(values)
        return reply

    return alter


def with_examples(count: float) -> Callable[[RecordDict], RecordDict]:
    def alter(reply: RecordDict) -> RecordDict:
        reply["metrics"] = MetricRecord({"num-examples": count})
        return reply

    return alter


def pickled(reply: RecordDict) -> RecordDict:
    array = Array(dtype="float32", shape=(10,), stype="numpy.ndarray", data=b"\x80\x04K\x01.")
    reply["arrays"]["head.bias"] = array
    return reply


def crash(reply: RecordDict) -> RecordDict:
    raise ValueError("out of battery")


LIES: dict[str, tuple[Callable[[RecordDict], RecordDict], str]] = {
    "crash": (crash, "out of battery"),
    "nothing": (lambda reply: RecordDict(), "not weights and metrics"),
    "more": (lambda reply: RecordDict({**reply, "more": ConfigRecord()}), "not weights and metrics"),
    "no metrics": (lambda reply: RecordDict({**reply, "metrics": MetricRecord()}), "number of examples"),
    "no arrays": (lambda reply: RecordDict({**reply, "arrays": ArrayRecord()}), "not those of this model"),
    "another layer": (with_arrays(fc9=np.zeros(2, np.float32)), "not those of this model"),
    "another shape": (with_arrays(head__bias=np.zeros(9, np.float32)), "head.bias"),
    "no numbers": (with_arrays(head__bias=np.full(10, np.nan, np.float32)), "head.bias"),
    "text": (with_arrays(head__bias=np.full(10, "x")), "head.bias"),
    "pickled": (pickled, "head.bias"),
    "zero examples": (with_examples(0), "makes no sense"),
    "negative examples": (with_examples(-5), "makes no sense"),
    "too many examples": (with_examples(10**12), "makes no sense"),
    "no number of examples": (with_examples(float("nan")), "makes no sense"),
}


class Trainer:
    """A device whose reply to training is altered."""

    def __init__(self, inner: Agent, alter: Callable[[RecordDict], RecordDict]) -> None:
        self._inner, self._alter = inner, alter

    def train(self, content: RecordDict) -> RecordDict:
        return self._alter(self._inner.train(content))

    def answer(self, query: str, content: RecordDict) -> RecordDict:
        return self._inner.answer(query, content)


def trained(federation: Federation) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    events = federation.run(lambda event: event["event"] == "keys.started")
    return load_arrays(federation.folder / "provider" / "global.npz"), events


def test_lies_are_left_out_of_the_average(tmp_path: Path) -> None:
    names = tuple(LIES)

    def device(index: int, folder: Path, task: SmallTask) -> Agent:
        inner = honest(index, folder, task)
        return inner if index == 0 else Trainer(inner, LIES[names[index - 1]][0])

    crowd = Federation(tmp_path / "crowd", clients=1 + len(LIES), device=device, epochs=2)
    model, events = trained(crowd)
    alone, _ = trained(Federation(tmp_path / "alone", clients=1, epochs=2))
    assert model.keys() == alone.keys()
    assert all(np.allclose(model[name], alone[name], atol=1e-6) for name in model)
    heard = {event["node"]: event["reason"] for event in events if event["event"] == "train.failed"}
    nodes = [str(node) for node in crowd.grid().get_node_ids()]
    assert set(heard) == set(nodes[1:])
    for node, name in zip(nodes[1:], names, strict=True):
        assert LIES[name][1] in heard[node], name


@pytest.mark.parametrize("fate", [Fate.NODE_DOWN, Fate.REQUEST_LOST])
def test_training_without_anybody_is_an_error(tmp_path: Path, fate: Fate) -> None:
    federation = Federation(tmp_path / "run", clients=2, network=lambda message: fate)
    error = refused(federation.run, ProtocolError)
    assert "no client sent a model in round 1" in error.what
    assert not (federation.folder / "provider" / "global.npz").exists()


def test_training_is_done_once(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "run", clients=1, epochs=1)
    first, _ = trained(federation)
    second, events = trained(federation)
    assert all(np.array_equal(first[name], second[name]) for name in perceptron().state_dict())
    assert [event["event"] for event in events] == ["keys.started"]

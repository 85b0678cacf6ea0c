"""Federated training: Flower's FedAvg over all nodes, without the replies that are none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import nn

from zkapex.errors import ProtocolError
from zkapex.server.federation.provider import Provider
from zkapex.storage import load_arrays, save_arrays

MAX_EXAMPLES = 10**9
Shapes = Mapping[str, tuple[int, ...]]


def train(
    grid: Grid, provider: Provider, path: Path, rounds: int, timeout_s: float, seed: int, emit: Callable[..., None]
) -> nn.Module:
    """The global model: trained now and kept in `path`, or loaded from there.

    Raises
    ------
    ProtocolError
        In some round no node sent a model.
    StorageError
        The model cannot be kept, or what was kept is damaged.
    """
    model = provider.initial_model()
    if not path.exists():
        nodes = len(list(grid.get_node_ids()))
        emit("train.started", rounds=rounds, clients=nodes)

        def progress(number: int, arrays: ArrayRecord) -> MetricRecord:
            if not arrays:
                raise ProtocolError(
                    f"no client sent a model in round {number} of training", fix="see the train.failed events"
                )
            model.load_state_dict(arrays.to_torch_state_dict())
            accuracy = dict(provider.evaluate(model))
            emit("train.round", round=number, total=rounds, **accuracy)
            return MetricRecord({name: float(value) for name, value in accuracy.items()})

        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        result = CarefulFedAvg(shapes, nodes, emit).start(
            grid,
            ArrayRecord(model.state_dict()),
            num_rounds=rounds,
            timeout=timeout_s,
            train_config=ConfigRecord({"seed": seed}),
            evaluate_fn=progress,
        )
        state = result.arrays.to_torch_state_dict()
        save_arrays(path, {name: value.numpy(force=True) for name, value in state.items()})
    model.load_state_dict({name: torch.from_numpy(value) for name, value in load_arrays(path).items()})
    return model.eval()


class CarefulFedAvg(FedAvg):
    """FedAvg that leaves out replies which are no model of ours, instead of failing; it does not detect poisoning.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Every entry of the model's state dict.
    nodes : int
        How many nodes train in every round.
    emit : callable
        Takes a ``train.failed`` event for every node that is left out.
    """

    def __init__(self, shapes: Shapes, nodes: int, emit: Callable[..., None]) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
        self._shapes = shapes
        self._emit = emit

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the replies that are models."""
        good = []
        for reply in replies:
            wrong = str(reply.error.reason) if reply.has_error() else self._fault(reply)
            if wrong:
                node = str(reply.metadata.src_node_id)
                self._emit("train.failed", node=node, round=server_round, reason=" ".join(wrong.split())[:500])
            else:
                good.append(reply)
        return super().aggregate_train(server_round, good) if good else (ArrayRecord(), None)

    def _fault(self, reply: Message) -> str:
        """What is wrong with a reply, or nothing."""
        content = reply.content
        arrays, metrics = content.get("arrays"), content.get("metrics")
        if set(content) != {"arrays", "metrics"} or not isinstance(arrays, ArrayRecord):
            return "the reply is not weights and metrics"
        if not isinstance(metrics, MetricRecord) or set(metrics) != {"num-examples"}:
            return "the metrics are not the number of examples"
        count = metrics["num-examples"]
        if not isinstance(count, (int, float)) or not math.isfinite(count) or not 1 <= count <= MAX_EXAMPLES:
            return "the number of examples makes no sense"
        if set(arrays) != set(self._shapes):
            return "the weights are not those of this model"
        for name, array in arrays.items():
            try:
                values = array.numpy()
            except (ValueError, TypeError, EOFError, KeyError):
                return f"{name} cannot be read"
            if values.shape != self._shapes[name] or values.dtype.kind not in "fib" or not np.isfinite(values).all():
                return f"{name} has another shape or type, or values that are no numbers"
        return ""

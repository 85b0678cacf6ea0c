"""Federated training: Flower's FedAvg over all nodes, without the replies that are none."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.run import Run
from torch import nn

from zkapex.errors import ProtocolError
from zkapex.server.federation.provider import Provider
from zkapex.storage import load_arrays, save_arrays
from zkapex.unlearning.operators.held import Held

MAX_EXAMPLES = 10**9
Shapes = Mapping[str, tuple[int, ...]]
State = Mapping[str, npt.NDArray[np.generic]]
Tensors = dict[str, torch.Tensor]


class Admitted(Grid):
    """A grid without some of its nodes.

    Parameters
    ----------
    inner : Grid
    barred : frozenset of int
    """

    def __init__(self, inner: Grid, barred: frozenset[int]) -> None:
        self._inner = inner
        self._barred = barred

    def set_run(self, run: Run) -> None:
        """See Flower's ``Grid``."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """See Flower's ``Grid``."""
        return self._inner.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """See Flower's ``Grid``."""
        return self._inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """See Flower's ``Grid``."""
        return [node for node in self._inner.get_node_ids() if node not in self._barred]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See Flower's ``Grid``."""
        return self._inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See Flower's ``Grid``."""
        return self._inner.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """See Flower's ``Grid``."""
        return self._inner.send_and_receive(messages, timeout=timeout)


def train(
    grid: Grid,
    provider: Provider,
    path: Path,
    rounds: int,
    timeout_s: float,
    seed: int,
    emit: Callable[..., None],
    start: State | None = None,
    held: Held | None = None,
    barred: Collection[int] = (),
) -> nn.Module:
    """The global model: trained now and kept in `path`, or loaded from there.

    Parameters
    ----------
    start : mapping of str to array, optional
        State dict to start from; the provider's initial model by default.
    held : Held, optional
        What requests have deleted: it stays so.
    barred : collection of int
        Nodes that do not take part.

    Raises
    ------
    ProtocolError
        In some round no node sent a model.
    StorageError
        The model cannot be kept, or what was kept is damaged.
    """
    model = provider.initial_model()
    if not path.exists():
        nodes = len(set(grid.get_node_ids()) - set(barred))
        if start is not None:
            model.load_state_dict({name: torch.from_numpy(value) for name, value in start.items()})
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

        def hold(state: Tensors) -> Tensors:
            model.load_state_dict(state)
            for holder in (held or Held()).in_place(model):
                holder.hold()
            return {name: value.clone() for name, value in model.state_dict().items()}

        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        result = CarefulFedAvg(shapes, nodes, emit, hold).start(
            Admitted(grid, frozenset(barred)) if barred else grid,
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
    hold : callable, optional
        Brings an average back to what stays as it is, whatever clients make of it.
    """

    def __init__(
        self, shapes: Shapes, nodes: int, emit: Callable[..., None], hold: Callable[[Tensors], Tensors] | None = None
    ) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
        self._shapes = shapes
        self._emit = emit
        self._hold = hold

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the nodes that are here; Flower's own would wait for one that has gone since the last round, for ever."""
        here = len(list(grid.get_node_ids()))
        if not here:
            raise ProtocolError(f"no device is there for round {server_round} of training", fix="start them, and go on")
        self.min_train_nodes = self.min_available_nodes = min(self.min_train_nodes, here)
        return super().configure_train(server_round, arrays, config, grid)

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
        if not good:
            return ArrayRecord(), None
        arrays, metrics = super().aggregate_train(server_round, good)
        if arrays is not None and self._hold is not None:
            arrays = ArrayRecord(self._hold(dict(arrays.to_torch_state_dict())))
        return arrays, metrics

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

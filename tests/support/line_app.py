"""The smallest real Flower app: clients fit a line by FedAvg, and are asked once how well it fits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from zkapex.client.app import make_client_app
from zkapex.errors import InputError
from zkapex.server.events import COMPLETED, EventLog


class LineAgent:
    def __init__(self, context: Context) -> None:
        rng = np.random.default_rng(int(context.node_config["partition-id"]))
        self.x = rng.normal(size=(50, int(context.run_config["dimension"])))
        self.y = self.x @ np.arange(self.x.shape[1])

    def _loss(self, weights: NDArray[Any]) -> MetricRecord:
        return MetricRecord({"loss": float(np.mean((self.x @ weights - self.y) ** 2)), "num-examples": len(self.y)})

    def train(self, content: RecordDict) -> RecordDict:
        weights = content.array_records["arrays"].to_numpy_ndarrays()[0]
        for _ in range(50):
            weights = weights - 0.1 * self.x.T @ (self.x @ weights - self.y) / len(self.y)
        return RecordDict({"arrays": ArrayRecord([weights]), "metrics": self._loss(weights)})

    def answer(self, query: str, content: RecordDict) -> RecordDict:
        if query != "evaluate":
            raise InputError(f"a line cannot {query}")
        return RecordDict({"metrics": self._loss(content.array_records["arrays"].to_numpy_ndarrays()[0])})


client: ClientApp
server: ServerApp
client = make_client_app(LineAgent)
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    dimension = int(config["dimension"])
    with EventLog(Path(str(config["work-dir"]))) as events:
        events.emit("run.started", settings=dict(config))
        if config["fail"] == "by-exception":
            raise InputError("the line is not straight", why="it bends", fix="straighten it")
        if config["fail"] == "by-dying":
            os._exit(3)
        nodes = sorted(grid.get_node_ids())
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=len(nodes), min_available_nodes=len(nodes))
        initial = ArrayRecord([np.zeros(dimension)])
        arrays = strategy.start(grid, initial, num_rounds=int(config["rounds"]), timeout=60).arrays
        events.emit("trained")
        messages = [
            Message(RecordDict({"arrays": arrays, "config": ConfigRecord()}), node, f"query.{query}")
            for node in nodes
            for query in ("evaluate", "enrol")
        ]
        for reply in grid.send_and_receive(messages, timeout=60):
            if reply.has_error():
                events.emit("refused", code=reply.error.code, reason=reply.error.reason)
            else:
                events.emit("evaluated", loss=float(reply.content.metric_records["metrics"]["loss"]))  # type: ignore[arg-type]
        events.emit(COMPLETED)

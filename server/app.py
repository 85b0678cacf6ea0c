"""The ServerApp that Flower runs for the provider: reads the run's settings and drives the protocol over the grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from zkapex.server.events import COMPLETED, EventLog

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train a model with FedAvg and ask every client once how well it fits."""
    config = context.run_config
    with EventLog(Path(str(config["work-dir"]))) as events:
        events.emit("run.started", settings=dict(config))
        nodes = sorted(grid.get_node_ids())
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=len(nodes), min_available_nodes=len(nodes))
        initial = ArrayRecord([np.zeros(int(config["dimension"]))])
        result = strategy.start(grid, initial, num_rounds=int(config["rounds"]), timeout=600)
        events.emit("train.completed", rounds=int(config["rounds"]))
        content = RecordDict({"arrays": result.arrays, "config": ConfigRecord()})
        replies = list(grid.send_and_receive([Message(content, node, "query.evaluate") for node in nodes], timeout=600))
        for reply in replies:
            error = None if reply.has_content() else reply.error.reason
            events.emit("evaluate.replied", node=reply.metadata.src_node_id, error=error)
        events.emit(COMPLETED, replies=len(replies))

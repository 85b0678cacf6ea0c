"""`train`: one round of federated averaging."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from zkapex.errors import ProtocolError
from zkapex.unlearning.boundary import check_state

if TYPE_CHECKING:
    from zkapex.client.agent.agent import DeviceAgent


def train(device: DeviceAgent, content: RecordDict) -> RecordDict:
    """One round of federated training, as FedAvg sends and expects it."""
    model = device.task.build_model()
    arrays, config = content.get("arrays"), content.get("config")
    number = config.get("server-round", 1) if isinstance(config, ConfigRecord) else None
    if not isinstance(arrays, ArrayRecord) or not isinstance(number, int):
        raise ProtocolError("a training message carries no weights, or no configuration")
    try:
        model.load_state_dict(arrays.to_torch_state_dict())
    except (RuntimeError, ValueError, TypeError) as e:
        raise ProtocolError("the global model does not fit this device's model", why=str(e)[:500]) from e
    check_state(model)
    used = device.present_task.fit_round(model, number)
    return RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": used})})

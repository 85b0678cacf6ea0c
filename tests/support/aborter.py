"""A device that does not do all it is asked, and cannot prove it for want of power whenever that is drawn."""

from __future__ import annotations

from flwr.app import RecordDict

from zkapex.client.agent.agent import STEPS, DeviceAgent
from zkapex.client.agent.common import opened
from zkapex.client.state.holdings import Change, Holdings
from zkapex.errors import ProverError
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.messages import ProveRequest

UNDONE = {"halo2": 2, "transparent": 1}
"""By backend, what fc2's rows that the requests ask for are proved in: the first of its chunks, or the layer."""


class Aborter(DeviceAgent):
    """Leaves one chunk undone, and cannot prove it for want of power whenever it is drawn."""

    def change(self, holdings: Holdings, instance: Instance, name: str) -> Change:
        done = super().change(holdings, instance, name)
        return Change.create({**done.weights, "fc2": holdings.weights["fc2"]}, done.mu, instance.touched)


def prove_if_not_drawn(device: DeviceAgent, content: RecordDict) -> RecordDict:
    request, _ = opened(content, ProveRequest)
    if UNDONE[device.memory.manifest().backend] in request.chunks:
        raise ProverError("the battery is empty")
    return STEPS["prove"](device, content)


Aborter.steps = {**STEPS, "prove": prove_if_not_drawn}

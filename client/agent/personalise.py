"""`personalise`: the global model, made the device's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.app import RecordDict

from zkapex.client.agent.common import fit_held, opened
from zkapex.client.task import tallies
from zkapex.proofs.messages import Delivery, PersonaliseReply, PersonaliseRequest
from zkapex.transport.wire import pack
from zkapex.unlearning.boundary import check_state

if TYPE_CHECKING:
    from zkapex.client.agent.agent import DeviceAgent


def personalise(device: DeviceAgent, content: RecordDict) -> RecordDict:
    """Fine-tune the global model on private data, and keep the result. What was deleted stays so."""
    _, blobs = opened(content, Delivery)
    request = device.trust.introduced(PersonaliseRequest, blobs)
    answered = device.vault.inner("answered")
    if answered.has(f"personalise-{request.nonce}"):
        return pack(PersonaliseReply.from_bytes(answered.get(f"personalise-{request.nonce}")))
    model = device.memory.sent_model(content, request.weights_digest)
    check_state(model)
    start = device.clock()
    before = tallies(device.task, model).get("personal")
    used = fit_held(device, model, request.epochs, request.learning_rate, request.seed)
    after = tallies(device.task, model).get("personal")
    device.memory.retrain(model)
    reply = PersonaliseReply(
        client_id=device.client_id,
        examples=used,
        accuracy_before=before.share if before else None,
        accuracy_after=after.share if after else None,
        wall_s=(device.clock() - start).total_seconds(),
    )
    device.trust.pin(request.server_key)
    answered.put(f"personalise-{request.nonce}", reply.to_bytes())
    return pack(reply)

"""`tune`: the device's own model, trained on after a deletion with what was deleted held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.app import RecordDict

from zkapex.client.agent.common import fit_held, opened
from zkapex.client.task import tallies
from zkapex.errors import ProtocolError
from zkapex.proofs.messages import Delivery, Score, TuneReply, TuneRequest
from zkapex.proofs.records.sealed import unseal
from zkapex.transport.wire import pack
from zkapex.unlearning.boundary import check_state

if TYPE_CHECKING:
    from zkapex.client.agent.agent import DeviceAgent


def tune(device: DeviceAgent, content: RecordDict) -> RecordDict:
    """Train the deployed model on private data that is still there, and keep the result.

    What requests have made zero, or have prescribed along directions, stays so. The device has to enrol again
    afterwards, and proves then that it does.
    """
    _, blobs = opened(content, Delivery)
    request = unseal(TuneRequest, blobs.get("envelope", b""), [device.trust.key()]).record
    if request.client_id != device.client_id:
        raise ProtocolError("the request is for another client", why=f"it names {request.client_id[:16]}...")
    answered = device.vault.inner("answered")
    if answered.has(f"tune-{request.nonce}"):
        return pack(TuneReply.from_bytes(answered.get(f"tune-{request.nonce}")))
    vault = device.memory.answered(request.request_id)
    if not device.memory.settled(vault):
        raise ProtocolError(f"request {request.request_id} is not settled yet", fix="deliver its receipt first")
    model = device.memory.load_model()
    check_state(model)
    used = fit_held(device, model, request.epochs, request.learning_rate, request.seed)
    device.memory.retrain(model)
    task = device.task_of(request.request_id)
    reply = TuneReply(
        client_id=device.client_id,
        request_id=request.request_id,
        examples=used,
        scores=tuple(
            Score.model_validate({"model": "tuned", "data": data, **vars(tally)})
            for data, tally in tallies(task, model).items()
        ),
    )
    answered.put(f"tune-{request.nonce}", reply.to_bytes())
    return pack(reply)

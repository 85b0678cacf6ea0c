"""`propose`: mask and guard, chosen by the device that holds what is to be forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.app import RecordDict

from zkapex.client.agent.common import deliver, opened
from zkapex.client.agent.proposal import propose as make_proposal
from zkapex.errors import ProtocolError
from zkapex.proofs.messages import Delivery, Proposal, ProposeRequest
from zkapex.proofs.records.sealed import seal, unseal

if TYPE_CHECKING:
    from zkapex.client.agent.agent import DeviceAgent


def propose(device: DeviceAgent, content: RecordDict) -> RecordDict:
    """Choose mask and guard for what this device holds and is to be forgotten; the data stay here."""
    _, blobs = opened(content, Delivery)
    request = unseal(ProposeRequest, blobs.get("envelope", b""), [device.trust.key()]).record
    if request.client_id != device.client_id:
        raise ProtocolError("a proposal is asked of another client", why=f"it names {request.client_id[:16]}...")
    kept = device.vault.inner("proposals")
    if kept.has(request.nonce):
        return deliver(unseal(Proposal, kept.get(request.nonce), [device.key.public_key()]).envelope)
    manifest = device.memory.manifest()
    if request.manifest_digest != manifest.digest():
        raise ProtocolError("a proposal is asked for under another manifest than this device enrolled under")
    model = device.memory.sent_model(content, request.weights_digest)
    task = device.task_of(request.request_id)
    proposal = make_proposal(request, manifest, model, device.memory.load_model(), task, device.planner)
    envelope = seal(proposal, device.key).envelope
    kept.put(request.nonce, envelope)
    return deliver(envelope)

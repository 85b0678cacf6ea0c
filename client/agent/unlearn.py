"""`unlearn`: the operator on the committed weights, deployed and committed to."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from flwr.app import RecordDict

from zkapex.client.agent.common import deliver, engine_for, opened
from zkapex.client.state.memory import REQUEST, RESPONSE
from zkapex.errors import ProtocolError
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import ChunkCommitment, Delivery, UnlearnRequest, UnlearnResponse
from zkapex.proofs.records.sealed import seal, unseal
from zkapex.unlearning.weights import load_weights

if TYPE_CHECKING:
    from zkapex.client.agent.agent import DeviceAgent


def unlearn(device: DeviceAgent, content: RecordDict) -> RecordDict:
    """Apply the operator to the committed weights, deploy the result, and commit to it."""
    _, blobs = opened(content, Delivery)
    sealed = unseal(UnlearnRequest, blobs.get("envelope", b""), [device.trust.key()])
    request = sealed.record
    if request.client_id != device.client_id:
        raise ProtocolError("the request is for another client", why=f"it names {request.client_id[:16]}...")
    vault = device.vault.inner("requests", request.request_id)
    if vault.has(RESPONSE):
        if not hmac.compare_digest(vault.get(REQUEST), sealed.envelope):
            raise ProtocolError(f"request {request.request_id} was answered before and is different now")
        return deliver(vault.get(RESPONSE))
    if device.clock() >= request.expires_at:
        raise ProtocolError(f"request {request.request_id} expired at {request.expires_at:%Y-%m-%d %H:%M} UTC")
    manifest = device.memory.manifest()
    if request.manifest_digest != manifest.digest():
        raise ProtocolError("the request is for another manifest than this device enrolled under")
    engine = engine_for(manifest, {})
    holdings = device.memory.start_from(request)
    instance = Instance(manifest, request)
    device.memory.refuse_return(instance)
    change = device.change(holdings, instance, request.operator)
    after = change.apply(holdings)
    change.save(vault)
    vault.put(REQUEST, sealed.envelope)  # from here on no other request starts from the weights before
    commitments = tuple(
        ChunkCommitment(chunk=chunk, theta=theta) for chunk, theta in engine.commit(after, instance.touched)
    )
    response = UnlearnResponse(
        request_id=request.request_id,
        client_id=device.client_id,
        nonce=request.nonce,
        commitments=commitments,
        root=commitment_root([(c.chunk, c.theta) for c in commitments]),
    )
    model = device.memory.load_model()
    load_weights(model, manifest, after.weights)
    device.memory.hold(instance)
    device.memory.save_model(model)  # deletion takes effect now, whatever becomes of the proof
    envelope = seal(response, device.key).envelope
    vault.put(RESPONSE, envelope)
    return deliver(envelope)

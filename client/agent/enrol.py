"""`enrol`: commitments to the weights and their curvature, the first ones or such that continue earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import RecordDict
from torch import nn

from zkapex.client.agent.common import deliver, engine_for, opened
from zkapex.client.state.holdings import Holdings
from zkapex.client.state.memory import ENROLMENT, MANIFEST
from zkapex.client.state.place import Place
from zkapex.client.state.salts import SaltLedger
from zkapex.errors import ProtocolError
from zkapex.proofs.backends.interface import Earlier
from zkapex.proofs.chunk.demands import Demands
from zkapex.proofs.chunk.earlier import continuation_context
from zkapex.proofs.chunk.public import IntArray
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import (
    Delivery,
    Demand,
    Enrolment,
    EnrolRequest,
    ModelManifest,
)
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.sealed import seal, unseal
from zkapex.proofs.records.signing import public_key_hex
from zkapex.unlearning.boundary import check_model
from zkapex.unlearning.curvature.activations import EncodedActivations
from zkapex.unlearning.curvature.factor import CurvatureEncoding, curvature_of
from zkapex.unlearning.operators import Terms, operator
from zkapex.unlearning.weights import encode_weights, load_weights

if TYPE_CHECKING:
    from zkapex.client.agent.agent import DeviceAgent


def enrol(device: DeviceAgent, content: RecordDict) -> RecordDict:
    """Commit to the weights that are deployed and their curvature, and sign the commitments."""
    _, blobs = opened(content, Delivery)
    request = device.trust.introduced(EnrolRequest, blobs)
    vault = device.vault.inner("enrolment")
    if vault.has(ENROLMENT):
        kept = vault.get(ENROLMENT)
        if unseal(Enrolment, kept, [device.key.public_key()]).record.nonce == request.nonce:
            return deliver(kept)
    if device.vault.inner("answered").has(f"enrol-{request.nonce}"):
        raise ProtocolError("this request to enrol was answered before, and an enrolment since has replaced that")
    manifest, demand = request.manifest, request.demand
    engine = engine_for(manifest, blobs)
    device.memory.settle_all()  # whatever was answered is what the device stands by from now on
    model = device.memory.load_model()
    inputs = None if manifest.statement.curvature == "none" else device.present_task.curvature_inputs()
    check_model(model, [layer.name for layer in manifest.layers], manifest.weight_limit, inputs)
    weights = encode_weights(model, manifest)
    earlier = _earlier(device, manifest)
    same = demand is not None and earlier is not None and _same(earlier, weights, demand)
    if demand is not None and not same:
        weights = _held(weights, manifest, _demands(manifest, demand))
    load_weights(model, manifest, weights)  # curvature of the model that is committed to, and will run
    # A second moment that is shown is drawn for this very enrolment, so that its factors are never kept.
    kept_from = None
    if demand is not None and manifest.curvature_check is None and earlier is not None:
        stands = bool(earlier.secrets.curvature) and demand.previous == sha256_hex(vault.get(ENROLMENT))
        kept_from = earlier if stands and not device.memory.retrained else None
    factors, damping, encoded = _curvature(device, model, manifest, request.nonce, kept_from)
    holdings = Holdings.create(manifest, weights, factors)
    revision = device.memory.next_revision(vault)
    device.trust.pin(request.server_key)
    staged = device.memory.staging()
    holdings.save(staged)
    staged.put(MANIFEST, manifest.to_bytes())
    ledger = SaltLedger(device.vault)
    ledger.begin(holdings.salts)
    theta = tuple(commitment for _, commitment in engine.commit(holdings, range(manifest.n_chunks)))
    curvature = engine.commit_curvature(holdings)
    shown = engine.prove_states(holdings, theta, device.client_id, request.nonce, ledger, encoded)
    continuation = None
    if demand is not None:
        context = continuation_context(device.client_id, manifest.digest(), request.nonce, demand.previous)
        continuation = engine.continuation(
            holdings, theta, curvature, demand, earlier if same else None, kept_from, context,
            ledger,
        )  # fmt: skip
    enrolment = Enrolment(
        federation=request.federation,
        client_id=device.client_id,
        public_key=public_key_hex(device.key.public_key()),
        manifest_digest=manifest.digest(),
        nonce=request.nonce,
        revision=revision,
        damping=damping,
        theta=theta,
        curvature=curvature,
        continuation=continuation,
        **shown,
    )
    envelope = seal(enrolment, device.key).envelope
    device.memory.save_model(model)
    Place(device.vault).mark(staged)
    staged.put(ENROLMENT, envelope)
    device.memory.adopt()
    ledger.keep(holdings.salts)
    return deliver(envelope)


def _earlier(device: DeviceAgent, manifest: ModelManifest) -> Earlier | None:
    """What the device stands by, if that is under the same manifest."""
    vault = device.vault.inner("enrolment")
    if not vault.has(ENROLMENT) or device.memory.manifest() != manifest:
        return None
    record = unseal(Enrolment, vault.get(ENROLMENT), [device.key.public_key()]).record
    holdings = Holdings.load(manifest, vault)
    return Earlier(holdings, tuple(device.memory.theta()), record.curvature, record.damping)


def _same(earlier: Earlier, weights: dict[str, IntArray], demand: Demand) -> bool:
    """Whether what is deployed is what the provider holds the device to."""
    if commitment_root(list(enumerate(earlier.theta))) != demand.root:
        return False
    return all(np.array_equal(weights[name], held) for name, held in earlier.secrets.weights.items())


def _held(weights: Mapping[str, IntArray], manifest: ModelManifest, demands: Demands) -> dict[str, IntArray]:
    """The deployed weights, brought to the nearest ones that hold what any request has asked for."""
    terms = Terms.demanded(manifest, demands)
    return operator("constraint-only").change(weights, terms, lambda name: [], manifest.weight_limit)[0]


def _demands(manifest: ModelManifest, demand: Demand) -> Demands:
    return Demands.unpacked(manifest, demand.mask, demand.guards)


def _curvature(
    device: DeviceAgent, model: nn.Module, manifest: ModelManifest, nonce: str, kept_from: Earlier | None
) -> tuple[dict[str, IntArray], float, tuple[EncodedActivations, ...]]:
    """Factors by layer, the largest damping, and the activations that they are shown to be made of.

    No factors if the statement needs none, no activations unless their second moment is to be proved.
    """
    if kept_from is not None:
        return dict(kept_from.secrets.curvature), kept_from.damping, ()
    if manifest.statement.curvature == "none":
        return {}, 0.0, ()
    encoded: tuple[EncodedActivations, ...] = ()
    if manifest.curvature_check is not None:
        from zkapex.client.agent.attest import curvature_from, drawn_activations, encode_for_proof

        activations = drawn_activations(model, manifest, device.present_task.curvature_inputs(), nonce)
        made = curvature_from(activations, manifest)
        encoded = encode_for_proof(activations, made, manifest)
    else:
        encoding = CurvatureEncoding.of(manifest.statement, manifest.curvature_bits)
        layers = [layer.name for layer in manifest.layers]
        made = curvature_of(model, layers, device.present_task.curvature_inputs(), encoding)
    factors = {name: np.stack([block.factor for block in blocks]) for name, blocks in made.items()}
    return factors, max(block.damping for blocks in made.values() for block in blocks), encoded

"""`enrol`: commitments to the weights and their curvature, the first ones or such that continue earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import RecordDict
from torch import nn

from zkapex.circuits.halo2.store import Circuit
from zkapex.client.agent.attest import curvature_from, drawn_activations, encode_for_proof, prove_enrolment
from zkapex.client.agent.common import circuit_for, deliver, opened
from zkapex.client.state.holdings import Holdings
from zkapex.client.state.memory import ENROLMENT, MANIFEST
from zkapex.client.state.salts import SaltLedger
from zkapex.errors import ProtocolError
from zkapex.proofs.chunk.continuation import (
    Pair,
    continuation_context,
    held_circuit,
    prove_equal,
    prove_held,
)
from zkapex.proofs.chunk.public import IntArray
from zkapex.proofs.chunk.second_moment import same_commitments
from zkapex.proofs.chunk.verifier import check_circuit_of
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.messages import (
    Continuation,
    CurvatureProof,
    Delivery,
    Demand,
    Enrolment,
    EnrolRequest,
    ModelManifest,
)
from zkapex.proofs.records.packing import touched_chunks, unpack_masks
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.sealed import seal, unseal
from zkapex.proofs.records.signing import public_key_hex
from zkapex.unlearning.boundary import check_model
from zkapex.unlearning.curvature.activations import EncodedActivations
from zkapex.unlearning.curvature.factor import CurvatureEncoding, curvature_of
from zkapex.unlearning.weights import encode_weights, load_weights

if TYPE_CHECKING:
    from zkapex.client.agent.agent import DeviceAgent


@dataclass(frozen=True)
class Earlier:
    """What this device has enrolled before, as far as it still stands by it.

    Attributes
    ----------
    holdings : Holdings
    theta, curvature : tuple of str
        Their commitments (hex points).
    damping : float
    """

    holdings: Holdings
    theta: tuple[str, ...]
    curvature: tuple[str, ...]
    damping: float


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
    circuit = circuit_for(manifest, blobs)
    device.memory.settle_all()  # whatever was answered is what the device stands by from now on
    model = device.memory.load_model()
    inputs = None if manifest.statement.curvature == "none" else device.task.curvature_inputs()
    check_model(model, [layer.name for layer in manifest.layers], manifest.weight_limit, inputs)
    weights = encode_weights(model, manifest)
    earlier = _earlier(device, manifest)
    same = demand is not None and earlier is not None and _same(earlier, weights, demand)
    if demand is not None and not same:
        weights = _held(weights, manifest, demand)
    load_weights(model, manifest, weights)  # curvature of the model that is committed to, and will run
    check_circuit = check_circuit_of(manifest, circuit.srs)
    encoded: tuple[EncodedActivations, ...] = ()
    keeps = (
        demand is not None
        and earlier is not None
        and check_circuit is None
        and bool(earlier.curvature)
        and not device.memory.retrained
        and demand.previous == sha256_hex(vault.get(ENROLMENT))
    )
    damping = 0.0
    if keeps and earlier is not None:
        factors, damping = dict(earlier.holdings.curvature), earlier.damping
    elif check_circuit is not None:
        same_commitments(check_circuit, circuit)
        activations = drawn_activations(model, manifest, device.task.curvature_inputs(), request.nonce)
        made = curvature_from(activations, manifest)
        encoded = encode_for_proof(activations, made, manifest)
        factors = {name: np.stack([block.factor for block in blocks]) for name, blocks in made.items()}
        damping = max(block.damping for blocks in made.values() for block in blocks)
    else:
        factors, damping = _curvature(device, model, manifest)
    holdings = Holdings.create(manifest, weights, factors)
    revision = device.memory.next_revision(vault)
    device.trust.pin(request.server_key)
    staged = device.memory.staging()
    holdings.save(staged)
    staged.put(MANIFEST, manifest.to_bytes())
    ledger = SaltLedger(device.vault)
    proofs: tuple[CurvatureProof, ...] = ()
    if check_circuit is not None:
        proofs = tuple(prove_enrolment(check_circuit, holdings, encoded, device.client_id, request.nonce, ledger))
    theta = tuple(point for _, point in holdings.theta_commitments(circuit, range(manifest.n_chunks)))
    curvature = holdings.curvature_commitments(circuit)
    continuation = None
    if demand is not None:
        context = continuation_context(device.client_id, manifest.digest(), request.nonce, demand.previous)
        continuation = _continuation(
            circuit, holdings, theta, curvature, demand, earlier if same else None, earlier if keeps else None, context,
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
        curvature_proofs=proofs,
        continuation=continuation,
    )
    envelope = seal(enrolment, device.key).envelope
    device.memory.save_model(model)
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
    return all(np.array_equal(weights[name], held) for name, held in earlier.holdings.weights.items())


def _held(weights: Mapping[str, IntArray], manifest: ModelManifest, demand: Demand) -> dict[str, IntArray]:
    """The deployed weights, with zeros wherever any request has asked for them."""
    masks = unpack_masks(manifest, demand.mask) if demand.mask else {}
    return {name: np.where(masks[name], 0, values) if name in masks else values for name, values in weights.items()}


def _curvature(device: DeviceAgent, model: nn.Module, manifest: ModelManifest) -> tuple[dict[str, IntArray], float]:
    """Factors by layer, and the largest damping; nothing if the statement needs none."""
    if manifest.statement.curvature == "none":
        return {}, 0.0
    encoding = CurvatureEncoding.of(manifest.statement, manifest.curvature_bits)
    made = curvature_of(model, [layer.name for layer in manifest.layers], device.task.curvature_inputs(), encoding)
    factors = {name: np.stack([block.factor for block in blocks]) for name, blocks in made.items()}
    return factors, max(block.damping for blocks in made.values() for block in blocks)


def _continuation(
    circuit: Circuit,
    holdings: Holdings,
    theta: tuple[str, ...],
    curvature: tuple[str, ...],
    demand: Demand,
    same: Earlier | None,
    kept: Earlier | None,
    context: str,
    ledger: SaltLedger,
) -> Continuation:
    """The proofs that an enrolment continues what the provider holds the device to."""
    manifest = holdings.manifest
    equal = held = unchanged = None
    if same is not None:
        salts = [[source.salts[f"theta/{n}"] for n in range(len(theta))] for source in (same.holdings, holdings)]
        equal = prove_equal(circuit, Pair("theta_u", same.theta, theta, context), *salts)
    else:
        masks = unpack_masks(manifest, demand.mask) if demand.mask else {}
        touched = touched_chunks(manifest, masks) if masks else ()
        for chunk in touched:
            ledger.spend({f"theta/{chunk}": holdings.salts[f"theta/{chunk}"]})
        chunks = {chunk: holdings.theta(chunk) for chunk in touched}
        held = prove_held(held_circuit(circuit), manifest, demand.mask, context, chunks)
    if kept is not None:
        salts = [[s.salts[f"curvature/{n}"] for n in range(len(curvature))] for s in (kept.holdings, holdings)]
        unchanged = prove_equal(circuit, Pair("factor", kept.curvature, curvature, context), *salts)
    return Continuation(previous=demand.previous, root=demand.root, theta=equal, held=held, curvature=unchanged)

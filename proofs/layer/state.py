"""States of layers on a device: their secrets, their roots, and the proofs about them that an enrolment carries."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from zkapex.circuits.transparent.compliance import Compliance, Held
from zkapex.circuits.transparent.enrol import Enrolled
from zkapex.circuits.transparent.layout import Layout, commit
from zkapex.circuits.transparent.merkle import Tree
from zkapex.circuits.transparent.prove import prove_change, prove_enrolment, verify_change, verify_enrolment
from zkapex.circuits.transparent.same import Nothing, Same
from zkapex.errors import CommitmentError, ProofError
from zkapex.proofs.backends.interface import Before, Made, Secrets
from zkapex.proofs.chunk.demands import Demands
from zkapex.proofs.chunk.earlier import continuation_context
from zkapex.proofs.layer.moment import activations_of, claims_from, moment_of
from zkapex.proofs.layer.terms import layout, state_context
from zkapex.proofs.messages import Enrolment, ModelManifest, SameStates
from zkapex.proofs.records.record import encode_parts

_NOTHING = np.zeros((0, 0, 0), np.int64)


def state_seed(salts: Sequence[int]) -> bytes:
    """The secret that a state's padding is made of, 64 bytes, from the salts a device keeps for it."""
    return hashlib.sha512(encode_parts("zkapex:state-seed:v1", *(str(salt) for salt in salts))).digest()


def proof_seed(*seeds: bytes) -> bytes:
    """The secret that a proof's own randomness is made of: of all states that it opens."""
    return hashlib.sha512(encode_parts("zkapex:proof-seed:v1", *seeds)).digest()


def state_tree(secrets: Secrets, unit: int) -> tuple[Layout, Tree, Enrolled]:
    """The commitment to one layer, and what it is to."""
    manifest, name = secrets.manifest, secrets.manifest.layers[unit].name
    y = layout(manifest, unit)
    witness = Enrolled(secrets.weights[name], secrets.curvature.get(name, _NOTHING))
    seed = state_seed(secrets.salts[f"theta/{unit}"])
    return y, commit(y, witness.theta, witness.curvature(y), seed), witness


def roots(secrets: Secrets, units: Sequence[int]) -> Iterator[tuple[int, str]]:
    """(layer, root as hex) of these layers."""
    for unit in units:
        yield unit, state_tree(secrets, unit)[1].root.hex()


def prove_state(secrets: Secrets, unit: int, client_id: str, nonce: str, made: Sequence[Made] = ()) -> bytes:
    """That a layer's integers are small and its curvature is one; and of what, if the manifest asks for that."""
    manifest = secrets.manifest
    y, tree, witness = state_tree(secrets, unit)
    context, seed = state_context(manifest, client_id, nonce, unit), state_seed(secrets.salts[f"theta/{unit}"])
    moment = moment_of(manifest, claims_from(made), unit)
    whole = replace(witness, activations=activations_of(manifest, made, unit))
    return prove_enrolment(y, tree, whole, context, proof_seed(seed), moment=moment)


def require_every_layer(manifest: ModelManifest, enrolment: Enrolment) -> None:
    """Raise CommitmentError unless an enrolment commits to each layer."""
    if len(enrolment.theta) != manifest.n_chunks:
        raise CommitmentError(
            f"the enrolment commits to {len(enrolment.theta)} layers", why=f"the model has {manifest.n_chunks}"
        )


def verify_state(manifest: ModelManifest, enrolment: Enrolment, unit: int) -> None:
    """Return only if an enrolment's proof about a layer holds; raises VerificationError otherwise."""
    require_every_layer(manifest, enrolment)
    if len(enrolment.state_proofs) != manifest.n_chunks:
        raise ProofError(
            f"the enrolment has {len(enrolment.state_proofs)} proofs about its states",
            why=f"there are {manifest.n_chunks} layers",
        )
    context = state_context(manifest, enrolment.client_id, enrolment.nonce, unit)
    try:
        root, proof = bytes.fromhex(enrolment.theta[unit]), enrolment.state_proofs[unit]
        verify_enrolment(
            layout(manifest, unit), root, context, proof, moment=moment_of(manifest, enrolment.moments, unit)
        )
    except (CommitmentError, ProofError) as e:
        name = manifest.layers[unit].name
        raise type(e)(f"the enrolled state of layer {name}: {e.what}", why=e.why) from e
    except ValueError as e:  # a layout or a sum without room in the field
        name = manifest.layers[unit].name
        raise ProofError(f"the enrolled state of layer {name} cannot be proved", why=str(e)) from e


# -- enrolling again --------------------------------------------------------------------------------------------------


def _continuing(context: str, unit: int, what: str) -> bytes:
    return encode_parts("zkapex:continued-state:v1", context, unit, what)


def prove_same(new: Secrets, old: Secrets, unit: int, curvature: bool, context: str) -> bytes:
    """That a layer's new state holds the weights of the old one, and its curvature if that is said."""
    y, after, _ = state_tree(new, unit)
    before = state_tree(old, unit)[1]
    seeds = [state_seed(secrets.salts[f"theta/{unit}"]) for secrets in (old, new)]
    return prove_change(
        Same(y, curvature), before, after, Nothing(), _continuing(context, unit, "same"), proof_seed(*seeds)
    )


def held_terms(manifest: ModelManifest, demands: Demands, unit: int) -> Compliance:
    """What demands are of one layer."""
    layer, y = manifest.layers[unit], layout(manifest, unit)
    mask = demands.zeros.get(layer.name, np.zeros((layer.rows, layer.cols), np.bool_))
    guard = np.zeros((y.blocks, y.width, y.rank), np.int64)
    targets = np.zeros((y.blocks, y.rows, y.rank), np.int64)
    prescribed = np.zeros(y.blocks, np.bool_)
    for block in range(y.blocks):
        along = demands.along.get((layer.name, block))
        if along is not None:
            count = along.directions.shape[1]
            guard[block, :, :count], targets[block, :, :count] = along.directions, along.targets
            prescribed[block] = True
    return Compliance(y, mask, guard, targets, prescribed, along=bool(prescribed.any()))


def prove_held_state(new: Secrets, unit: int, demands: Demands, context: str) -> bytes:
    """That a layer's new state holds what is demanded of it."""
    _, after, witness = state_tree(new, unit)
    seed = proof_seed(state_seed(new.salts[f"theta/{unit}"]))
    request = held_terms(new.manifest, demands, unit)
    return prove_change(request, None, after, Held(witness.theta), _continuing(context, unit, "held"), seed)


def verify_continued(manifest: ModelManifest, enrolment: Enrolment, before: Before) -> None:
    """Return only if an enrolment continues what the client was held to, by proof.

    Raises
    ------
    CommitmentError, ProofError
        Otherwise.
    """
    require_every_layer(manifest, enrolment)
    continued = enrolment.continuation
    if continued is None:
        raise CommitmentError("an enrolment does not say what it continues")
    if (continued.previous, continued.root) != (before.enrolment_digest, before.root):
        raise CommitmentError("an enrolment continues other commitments than those before it")
    for shown in (continued.theta, continued.curvature):
        if shown is not None and not isinstance(shown, SameStates):
            raise ProofError("an enrolment continues another one by proofs of another backend")
    context = continuation_context(enrolment.client_id, manifest.digest(), enrolment.nonce, continued.previous)
    if isinstance(continued.curvature, SameStates) and (continued.theta is None or continued.curvature.proofs):
        raise ProofError("that curvature is the same is shown with the weights, and by no proof of its own")
    if isinstance(continued.theta, SameStates):
        proofs = continued.theta.proofs
        if len(proofs) != manifest.n_chunks or len(before.theta) != manifest.n_chunks:
            raise ProofError("an enrolment does not show of every layer that it holds the same")
        for unit, proof in enumerate(proofs):
            request = Same(layout(manifest, unit), continued.curvature is not None)
            roots_ = bytes.fromhex(before.theta[unit]), bytes.fromhex(enrolment.theta[unit])
            verify_change(request, *roots_, _continuing(context, unit, "same"), proof)
    if continued.held is None:
        return
    held = continued.held
    if (held.mask, held.guards) != before.demands.packed(manifest):
        raise ProofError("an enrolment holds something else than what all earlier requests demand")
    if tuple(proof.chunk for proof in held.proofs) != before.demands.touched(manifest):
        raise ProofError("an enrolment does not prove every layer that earlier requests have touched")
    for one in held.proofs:
        root, terms = bytes.fromhex(enrolment.theta[one.chunk]), held_terms(manifest, before.demands, one.chunk)
        verify_change(terms, None, root, _continuing(context, one.chunk, "held"), one.proof)

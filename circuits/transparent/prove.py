"""Proofs as bytes: what devices call to make them, and verifiers to check them."""

from __future__ import annotations

from zkapex.circuits.transparent import enrol, group_obs
from zkapex.circuits.transparent.enrol import Enrolled
from zkapex.circuits.transparent.group_obs import Request, Witness
from zkapex.circuits.transparent.iop import Prover, Verifier
from zkapex.circuits.transparent.layout import Layout, digest
from zkapex.circuits.transparent.merkle import Tree
from zkapex.circuits.transparent.params import TARGET
from zkapex.circuits.transparent.transcript import Secret


def prove_enrolment(
    layout: Layout, state: Tree, witness: Enrolled, context: bytes, seed: bytes, minimum: float = TARGET
) -> bytes:
    """Prove of a state what `zkapex.circuits.transparent.enrol` says. The same statement always gives the same bytes.

    Parameters
    ----------
    context : bytes
        What the proof is bound to: client, model, layer, nonce.
    seed : bytes
        Secret of the device, 32 bytes or more.
    """
    secret = Secret(b"enrol", seed, context, layout.digest_parts(), state.root, digest(witness.theta, witness.factors))
    side = Prover(layout.parameters, enrol.NAME, context, secret, minimum)
    side.attach("state.", state)
    enrol.enrol(side, layout, witness)
    return bytes(side.proof)


def verify_enrolment(layout: Layout, root: bytes, context: bytes, proof: bytes, minimum: float = TARGET) -> None:
    """Return only if the proof holds.

    Raises
    ------
    ProofError, CommitmentError
        It does not.
    """
    side = Verifier(layout.parameters, enrol.NAME, context, proof, minimum)
    side.attach("state.", layout.state(root))
    enrol.enrol(side, layout, None)


def prove_group_obs(
    request: Request, old: Tree, new: Tree, witness: Witness, context: bytes, seed: bytes, minimum: float = TARGET
) -> bytes:
    """Prove of two states what `zkapex.circuits.transparent.group_obs` says. Same statement, same bytes."""
    private = digest(witness.before, witness.after, witness.mu, witness.curvature)
    secret = Secret(b"group-obs", seed, context, request.digest(), old.root, new.root, private)
    side = Prover(request.layout.parameters, group_obs.NAME, context, secret, minimum)
    side.attach("old.", old)
    side.attach("new.", new)
    group_obs.unlearn(side, request, witness)
    return bytes(side.proof)


def verify_group_obs(
    request: Request, old: bytes, new: bytes, context: bytes, proof: bytes, minimum: float = TARGET
) -> None:
    """Return only if the proof holds. It shows nothing unless ``old`` was shown to be a state, by a proof of its own.

    Raises
    ------
    ProofError, CommitmentError
        It does not.
    """
    side = Verifier(request.layout.parameters, group_obs.NAME, context, proof, minimum)
    side.attach("old.", request.layout.state(old))
    side.attach("new.", request.layout.state(new))
    group_obs.unlearn(side, request, None)

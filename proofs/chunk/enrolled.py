"""What an enrolment proves about the curvature it commits to: the statements, and checking their proofs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zkapex.circuits.halo2.store import Circuit
from zkapex.errors import CommitmentError, InputError, ProofError
from zkapex.proofs.chunk.commitment import Point, commit
from zkapex.proofs.chunk.second_moment import (
    MomentPublic,
    MomentWitness,
    curvature_context,
    prove_curvature,
    verify_curvature,
)
from zkapex.proofs.chunk.witness import SaltedVector
from zkapex.proofs.messages import CurvatureProof, Enrolment, ModelManifest

if TYPE_CHECKING:
    from zkapex.proofs.backends.interface import Made, Openings, Secrets


def statement_about(
    manifest: ModelManifest, client_id: str, nonce: str, number: int, scale: int, per_mille: int
) -> MomentPublic:
    """The statement about one curvature factor of an enrolment.

    Parameters
    ----------
    client_id, nonce : str
        As in the enrolment.
    number : int
        Position of the factor among the enrolment's.
    scale, per_mille : int
        The client's.

    Raises
    ------
    InputError
        The manifest asks for no such proof.
    """
    check = manifest.curvature_check
    if check is None:
        raise InputError("the manifest asks for no proofs about curvature")
    context = curvature_context(client_id, manifest.digest(), number, check.circuit_digest, nonce)
    return MomentPublic(scale, per_mille, manifest.curvature_bits, context)


def curvature_distance(manifest: ModelManifest, enrolment: Enrolment) -> float | None:
    """How far any of the enrolled factors can be from the second moment of its activations; None if nothing says so.

    ``|F^T F - X^T X / c|_F`` as a fraction of ``2**curvature_bits``, the largest over factors, as enforced.

    Raises
    ------
    ProofError
        A factor has no proof, a proof no factor, or a tolerance is larger than the manifest or the circuit allows.
    """
    check = manifest.curvature_check
    wanted = 0 if check is None else manifest.n_curvatures
    if len(enrolment.curvature_proofs) != wanted or (wanted and len(enrolment.curvature) != wanted):
        raise ProofError(
            f"the enrolment has {len(enrolment.curvature_proofs)} proofs about its curvature",
            why=f"the manifest asks for {wanted}",
        )
    if check is None:
        return None
    publics = [_public(manifest, enrolment, n, proof) for n, proof in enumerate(enrolment.curvature_proofs)]
    largest = max(public.per_mille for public in publics)
    if largest > check.largest_per_mille:
        raise ProofError(
            f"a curvature factor is only claimed to be within {largest} per mille of its activations' second moment",
            why=f"the manifest allows {check.largest_per_mille}",
        )
    try:
        return max(public.distance(check.statement) for public in publics)
    except InputError as e:
        raise ProofError(f"the enrolment's proofs about its curvature are wrong: {e.what}", why=e.why) from e


def prove_enrolment(
    built: Circuit, secrets: Secrets, made: Sequence[Made], client_id: str, nonce: str, openings: Openings
) -> Iterator[CurvatureProof]:
    """Prove of every enrolled factor, in order, that it is the second moment of its activations; some seconds each.

    Parameters
    ----------
    built : Circuit
        `zkapex.proofs.chunk.verifier.check_circuit_of` the manifest.
    secrets : Secrets
        The factors, and their salts.
    made : sequence of Made
        What each was made of.
    client_id, nonce : str
        As in the enrolment.
    openings : Openings
        Counts the opening of each factor before its proof starts.

    Raises
    ------
    ProverError
        If ezkl fails.
    """
    manifest = secrets.manifest
    factors = [factor for layer in manifest.layers for factor in secrets.curvature[layer.name]]
    for number, (factor, one) in enumerate(zip(factors, made, strict=True)):
        public = statement_about(manifest, client_id, nonce, number, one.scale, one.per_mille)
        salts = secrets.salts[f"curvature/{number}"]
        witness = MomentWitness(SaltedVector(np.ascontiguousarray(factor), salts), SaltedVector(one.values))
        openings.spend({f"curvature/{number}": salts})
        yield CurvatureProof(
            activations=commit(built, witness.activations.vector()).hex(),
            scale=one.scale,
            per_mille=one.per_mille,
            proof=prove_curvature(built, public, witness),
        )


def verify_enrolment(built: Circuit, manifest: ModelManifest, enrolment: Enrolment) -> float:
    """Check all proofs about the enrolled curvature; return only if they hold. Returns the CPU seconds it took.

    Parameters
    ----------
    built : Circuit
        `zkapex.proofs.chunk.verifier.check_circuit_of` the manifest.

    Raises
    ------
    CommitmentError, ProofError
        Otherwise; names the factor.
    """
    start = time.process_time()
    curvature_distance(manifest, enrolment)
    for number, proof in enumerate(enrolment.curvature_proofs):
        factor, activations = Point.from_hex(enrolment.curvature[number]), Point.from_hex(proof.activations)
        public = _public(manifest, enrolment, number, proof)
        try:
            verify_curvature(built, public, factor, activations, proof.proof, public.per_mille)
        except (CommitmentError, ProofError) as e:
            raise type(e)(f"curvature factor {number}: {e.what}", why=e.why) from e
    return time.process_time() - start


def _public(manifest: ModelManifest, enrolment: Enrolment, number: int, proof: CurvatureProof) -> MomentPublic:
    return statement_about(manifest, enrolment.client_id, enrolment.nonce, number, proof.scale, proof.per_mille)

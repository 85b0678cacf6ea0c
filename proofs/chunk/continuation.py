r"""How a client enrols again without getting rid of what was deleted: proofs about the commitments before and after.

**The same weights under fresh salts.** The commitment to a vector v is ``C0 + sum_i v_i L_i`` for public points L_i (of
which nobody knows a linear relation) and a constant C0, salts being the last entries of v. If two commitments hold the
same values, their difference is a combination of the points of the salts alone. The client proves that it knows such a
combination of one random linear combination of all differences,

    D = sum_j r_j (new_j - old_j) = sum_k d_k L_k,    k over the salts,

by Schnorr's protocol for several bases (Okamoto, CRYPTO 1992, section 3), made non-interactive by hashing: A =
``sum_k w_k L_k`` for random w, the challenge c a hash of everything, and responses ``z_k = w_k + c d_k``, for which
``sum_k z_k L_k = A + c D``. The r_j are 128-bit hashes of all commitments, so that a difference that is no such
combination survives with probability 2^-128 per try. Nothing but that the values agree is shown: responses are uniform,
and no polynomial is opened, so that it takes none of the salts' openings.

**Other weights that hold every earlier request.** A proof for every chunk of which anything is demanded
(`zkapex.proofs.chunk.demands`), against the new commitments: ``mask-only``, or ``constraint-only`` if requests have
prescribed targets along directions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from py_ecc.optimized_bn128 import FQ, Z1, add, multiply, neg, normalize

from zkapex.circuits.field import MODULUS, random_elements, to_felt
from zkapex.circuits.halo2.store import Circuit, circuit
from zkapex.circuits.operators.tolerances import GUARD_BITS, tolerances
from zkapex.circuits.statement import StatementSpec
from zkapex.errors import CommitmentError, InputError, ProofError
from zkapex.proofs.backends.interface import Before
from zkapex.proofs.chunk.commitment import Point, commit, empty_commitment
from zkapex.proofs.chunk.context import context_element
from zkapex.proofs.chunk.demands import Demands
from zkapex.proofs.chunk.earlier import continuation_context
from zkapex.proofs.chunk.instance import cut, place
from zkapex.proofs.chunk.prove import Expected, prove_chunk, verify_chunk
from zkapex.proofs.chunk.public import PublicInputs
from zkapex.proofs.chunk.witness import SaltedVector, Witness
from zkapex.proofs.messages import (
    Enrolment,
    Equality,
    Held,
    HeldProof,
    ModelManifest,
    SameStates,
)
from zkapex.proofs.records.record import encode_parts

_WEIGHT_BYTES = 16
Salts = Sequence[Sequence[int]]
"""Salts (field elements) of several vectors."""


# -- the same values under other salts --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Commitments (hex points) to several vectors of one shape, before and after, and what they are commitments to.

    Attributes
    ----------
    vector : str
        The statement's name for it: ``theta_u`` or ``factor``.
    before, after : sequence of str
    context : str
        What the proof is tied to, as `continuation_context` makes it.
    """

    vector: str
    before: Sequence[str]
    after: Sequence[str]
    context: str


def prove_equal(built: Circuit, pair: Pair, before: Salts, after: Salts) -> Equality:
    """Prove that two rows of commitments hold the same values, given the salts of both.

    Raises
    ------
    CommitmentError
        They do not.
    """
    weights = _weights(pair)
    count = built.spec.parts(pair.vector)["salts"]
    differences = [
        sum(r * (new[k] - old[k]) for r, old, new in zip(weights, before, after, strict=True)) % MODULUS
        for k in range(count)
    ]
    random = random_elements(count)
    commitment = _of_salts(built, pair.vector, random)
    c = _challenge(pair, commitment)
    proof = Equality(
        commitment=commitment.hex(),
        responses=tuple(f"{(w + c * d) % MODULUS:064x}" for w, d in zip(random, differences, strict=True)),
    )
    verify_equal(built, pair, proof)
    return proof


def verify_equal(built: Circuit, pair: Pair, proof: Equality) -> None:
    """Return only if the commitments after hold what those before hold.

    Raises
    ------
    CommitmentError
        Otherwise.
    """
    values = [int(response, 16) for response in proof.responses]
    if len(values) != built.spec.parts(pair.vector)["salts"] or any(value >= MODULUS for value in values):
        raise CommitmentError("a proof that commitments hold the same is malformed")
    if len(pair.before) != len(pair.after):
        raise CommitmentError("there are not as many commitments as before")
    commitment = Point.from_hex(proof.commitment)
    total = Z1
    for r, old, new in zip(_weights(pair), pair.before, pair.after, strict=True):
        difference = add(_curve(Point.from_hex(new)), neg(_curve(Point.from_hex(old))))
        total = add(total, multiply(difference, r))
    wanted = add(_curve(commitment), multiply(total, _challenge(pair, commitment)))
    if normalize(wanted) != normalize(_curve(_of_salts(built, pair.vector, values))):
        raise CommitmentError(
            "the new commitments do not hold what the earlier ones hold", why="the proof of it does not verify"
        )


def _curve(point: Point) -> tuple[FQ, FQ, FQ]:
    return FQ(point.x), FQ(point.y), FQ.one()


def _of_salts(built: Circuit, vector: str, salts: Sequence[int]) -> Point:
    """``sum_k salts_k L_k`` over the points of the salts."""
    padding = [to_felt(0)] * built.spec.parts(vector)["values"]
    return commit(built, padding + [to_felt(salt) for salt in salts]) - empty_commitment(built)


def _weights(pair: Pair) -> list[int]:
    if len(pair.before) != len(pair.after):
        raise CommitmentError("there are not as many commitments as before")
    points = [bytes.fromhex(point) for point in (*pair.before, *pair.after)]
    seed = hashlib.sha512(encode_parts("zkapex:equal-weights:v1", pair.vector, pair.context, *points)).digest()
    return [
        int.from_bytes(hashlib.sha512(encode_parts("zkapex:equal-weight:v1", seed, j)).digest()[:_WEIGHT_BYTES], "big")
        for j in range(len(pair.after))
    ]


def _challenge(pair: Pair, commitment: Point) -> int:
    points = [bytes.fromhex(point) for point in (*pair.before, *pair.after)]
    message = encode_parts("zkapex:equal-challenge:v1", pair.vector, pair.context, commitment.to_bytes(), *points)
    return int.from_bytes(hashlib.sha512(message).digest(), "big") % MODULUS


# -- other weights that hold every earlier request --------------------------------------------------------------------


def held_circuit(built: Circuit, demands: Demands) -> Circuit:
    """The circuit that shows demands, and whose commitments to weights are those of a manifest's circuit.

    Raises
    ------
    InputError
        There is none.
    """
    spec = built.spec
    statement = StatementSpec(
        kind="constraint-only" if demands.along else "mask-only",
        rows_per_chunk=spec.rows_per_chunk,
        block_width=spec.block_width,
        curvature="none",
        guard_rank=spec.guard_rank if demands.along else 0,
        weight_limit=spec.weight_limit,
        guard_limit=spec.guard_limit,
        log2_rows=spec.log2_rows,
        inner_columns=2 if demands.along else 1,
    )
    found = circuit(statement, built.srs)
    sides = [(c.srs.digest, c.spec.log2_rows, c.column_rows, c.spec.parts("theta_u")) for c in (found, built)]
    if sides[0] != sides[1]:
        raise InputError(
            f"no {statement.kind} circuit commits to weights as this model's does",
            fix="use a profile whose chunks have the shape of kfac",
        )
    return found


def held_public(built: Circuit, manifest: ModelManifest, demands: Demands, chunk: int, context: str) -> PublicInputs:
    """The public side of the proof that one enrolled chunk holds every earlier request.

    Parameters
    ----------
    built : Circuit
        `held_circuit`.
    demands : Demands
    context : str
        `continuation_context`.
    """
    where, spec = place(manifest, chunk), built.spec
    # No request has such an id: a proof made for an enrolment is none for a request, nor the other way round.
    element = context_element(
        "enrolment/held",
        context,
        manifest.digest(),
        where.layer,
        where.block,
        where.band,
        built.vk_digest,
        context,
    )
    shape = next((layer.rows, layer.cols) for layer in manifest.layers if layer.name == where.layer)
    mask = cut(manifest, where, demands.zeros.get(where.layer, np.zeros(shape, np.bool_))).astype(np.bool_)
    guard, targets = np.zeros((spec.block_width, spec.guard_rank), np.int64), None
    along = demands.along.get((where.layer, where.block))
    if along is not None:
        count, height = along.directions.shape[1], spec.rows_per_chunk
        guard[:, :count] = along.directions
        targets = np.zeros((height, spec.guard_rank), np.int64)
        band = along.targets[where.band * height : (where.band + 1) * height]
        targets[: len(band), :count] = band
    tau = 0
    if demands.along:  # honest rounding's, whatever was asked for: weights come to the nearest ones
        tau = tolerances(spec.rows_per_chunk, spec.block_width, spec.guard_rank, 0, GUARD_BITS)[1]
    return PublicInputs(mask, guard, 0, tau, element, None, targets)


def prove_held(
    built: Circuit, manifest: ModelManifest, demands: Demands, context: str, theta: Mapping[int, SaltedVector]
) -> Held:
    """Prove that demands hold, in every chunk they are about.

    Parameters
    ----------
    built : Circuit
        `held_circuit`.
    theta : mapping of int to SaltedVector
        The enrolled weights of these chunks.

    Raises
    ------
    ProverError
        They do not.
    """
    proofs = []
    for chunk in demands.touched(manifest):
        public = held_public(built, manifest, demands, chunk, context)
        proofs.append(HeldProof(chunk=chunk, proof=prove_chunk(built, public, Witness(theta[chunk]))))
    mask, guards = demands.packed(manifest)
    return Held(mask=mask, guards=guards, proofs=tuple(proofs))


def verify_held(built: Circuit, manifest: ModelManifest, held: Held, context: str, theta: Sequence[str]) -> None:
    """Return only if the enrolled chunks are what an enrolment says they hold.

    Parameters
    ----------
    built : Circuit
        `held_circuit`.
    theta : sequence of str
        The enrolled commitments (hex points).

    Raises
    ------
    CommitmentError, ProofError
        Otherwise.
    """
    demands = Demands.unpacked(manifest, held.mask, held.guards)
    if tuple(proof.chunk for proof in held.proofs) != demands.touched(manifest):
        raise ProofError("an enrolment does not prove every chunk that earlier requests have touched")
    empty = empty_commitment(built)
    for proof in held.proofs:
        public = held_public(built, manifest, demands, proof.chunk, context)
        try:
            verify_chunk(built, public, Expected(Point.from_hex(theta[proof.chunk])), proof.proof, empty)
        except (CommitmentError, ProofError) as e:
            raise type(e)(f"enrolled chunk {proof.chunk} does not hold earlier requests: {e.what}", why=e.why) from e


# -- an enrolment as a whole ------------------------------------------------------------------------------------------


def verify_continuation(built: Circuit, manifest: ModelManifest, enrolment: Enrolment, before: Before) -> None:
    """Return only if an enrolment continues what the client was held to, by proof.

    Raises
    ------
    CommitmentError, ProofError
        Otherwise.
    """
    continued = enrolment.continuation
    if continued is None:
        raise CommitmentError("an enrolment does not say what it continues")
    if (continued.previous, continued.root) != (before.enrolment_digest, before.root):
        raise CommitmentError("an enrolment continues other commitments than those before it")
    if isinstance(continued.theta, SameStates) or isinstance(continued.curvature, SameStates):
        raise ProofError("an enrolment continues another one by proofs of another backend")
    context = continuation_context(enrolment.client_id, manifest.digest(), enrolment.nonce, continued.previous)
    if continued.theta is not None:
        verify_equal(built, Pair("theta_u", before.theta, enrolment.theta, context), continued.theta)
    if continued.held is not None:
        if (continued.held.mask, continued.held.guards) != before.demands.packed(manifest):
            raise ProofError("an enrolment holds something else than what all earlier requests demand")
        verify_held(held_circuit(built, before.demands), manifest, continued.held, context, enrolment.theta)
    if continued.curvature is not None:
        verify_equal(built, Pair("factor", before.curvature, enrolment.curvature, context), continued.curvature)

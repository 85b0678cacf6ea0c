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

**Other weights that hold every earlier request.** A ``mask-only`` proof for every chunk that the union of the earlier
masks touches, against the new commitments. `earlier_mask` is the one place that says what earlier requests still
demand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from py_ecc.optimized_bn128 import FQ, Z1, add, multiply, neg, normalize

from zkapex.circuits.field import MODULUS, random_elements, to_felt
from zkapex.circuits.halo2.store import Circuit, circuit
from zkapex.circuits.operators import declared
from zkapex.circuits.statement import StatementSpec
from zkapex.errors import CommitmentError, InputError, ProofError
from zkapex.proofs.chunk.commitment import Point, commit, empty_commitment
from zkapex.proofs.chunk.context import context_element
from zkapex.proofs.chunk.instance import cut, place
from zkapex.proofs.chunk.prove import Expected, prove_chunk, verify_chunk
from zkapex.proofs.chunk.public import BoolArray, PublicInputs
from zkapex.proofs.chunk.witness import SaltedVector, Witness
from zkapex.proofs.messages import (
    Enrolment,
    Equality,
    Held,
    HeldProof,
    LayerMask,
    ModelManifest,
    UnlearnRequest,
)
from zkapex.proofs.records.packing import pack_masks, touched_chunks, unpack_factors, unpack_masks
from zkapex.proofs.records.record import encode_parts

_WEIGHT_BYTES = 16
Salts = Sequence[Sequence[int]]
"""Salts (field elements) of several vectors."""


# -- what earlier requests demand -------------------------------------------------------------------------------------


def zeroed(manifest: ModelManifest, request: UnlearnRequest) -> dict[str, BoolArray]:
    """The weights, bool [rows, cols] per masked layer, that a request makes zero whatever they were."""
    if not declared(request.operator).zeroes:
        return {}
    masks = unpack_masks(manifest, request.mask)
    if not any(mask.factors for mask in request.mask):
        return masks
    factors = unpack_factors(request.mask, masks)
    return {name: mask & (factors[name] == 0) for name, mask in masks.items()}


def earlier_mask(manifest: ModelManifest, requests: Iterable[UnlearnRequest]) -> tuple[LayerMask, ...]:
    """What requests still demand of the weights of a client they were sent to, proved or not: the union of their zeros.

    The one place that decides it; a demand of another kind than zeros has its place here, and in `Held`.

    Parameters
    ----------
    manifest : ModelManifest
        That the client enrols under.
    requests : iterable of UnlearnRequest
        All that were ever sent to the client.

    Returns
    -------
    tuple of LayerMask
        Empty if nothing has to be zero.
    """
    union: dict[str, BoolArray] = {}
    for request in requests:
        for name, mask in zeroed(manifest, request).items():
            union[name] = union[name] | mask if name in union else mask
    union = {name: mask for name, mask in union.items() if mask.any()}
    return pack_masks(manifest, union) if union else ()


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


def continuation_context(client_id: str, manifest_digest: str, nonce: str, previous: str) -> str:
    """Everything a proof about an enrolment must not be detached from, as hex."""
    return hashlib.sha256(
        encode_parts("zkapex:continuation:v1", client_id, manifest_digest, nonce, previous)
    ).hexdigest()


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


def held_circuit(built: Circuit) -> Circuit:
    """The ``mask-only`` circuit whose commitments to weights are those of a manifest's circuit.

    Raises
    ------
    InputError
        There is none.
    """
    spec = built.spec
    statement = StatementSpec(
        kind="mask-only",
        rows_per_chunk=spec.rows_per_chunk,
        block_width=spec.block_width,
        curvature="none",
        weight_limit=spec.weight_limit,
        log2_rows=spec.log2_rows,
        inner_columns=1,
    )
    found = circuit(statement, built.srs)
    sides = [(c.srs.digest, c.spec.log2_rows, c.column_rows, c.spec.parts("theta_u")) for c in (found, built)]
    if sides[0] != sides[1]:
        raise InputError(
            "no mask-only circuit commits to weights as this model's does",
            fix="use a profile whose chunks have the shape of kfac",
        )
    return found


def held_public(built: Circuit, manifest: ModelManifest, mask: BoolArray, chunk: int, context: str) -> PublicInputs:
    """The public side of the proof that one enrolled chunk holds every earlier request.

    Parameters
    ----------
    built : Circuit
        `held_circuit`.
    mask : bool [rows, cols]
        Of the chunk's layer.
    context : str
        `continuation_context`.
    """
    where = place(manifest, chunk)
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
    nothing = np.zeros((manifest.block_width, 0), np.int64)
    return PublicInputs(cut(manifest, where, mask).astype(np.bool_), nothing, 0, 0, element)


def prove_held(
    built: Circuit,
    manifest: ModelManifest,
    mask: tuple[LayerMask, ...],
    context: str,
    theta: Mapping[int, SaltedVector],
) -> Held:
    """Prove that masked weights are zero, in every chunk the mask touches.

    Parameters
    ----------
    built : Circuit
        `held_circuit`.
    theta : mapping of int to SaltedVector
        The enrolled weights of these chunks.

    Raises
    ------
    ProverError
        They are not.
    """
    masks = unpack_masks(manifest, mask) if mask else {}
    proofs = []
    for chunk in touched_chunks(manifest, masks) if masks else ():
        public = held_public(built, manifest, masks[place(manifest, chunk).layer], chunk, context)
        proofs.append(HeldProof(chunk=chunk, proof=prove_chunk(built, public, Witness(theta[chunk]))))
    return Held(mask=mask, proofs=tuple(proofs))


def verify_held(built: Circuit, manifest: ModelManifest, held: Held, context: str, theta: Sequence[str]) -> None:
    """Return only if the masked weights of the enrolled chunks are zero.

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
    masks = unpack_masks(manifest, held.mask) if held.mask else {}
    touched = tuple(touched_chunks(manifest, masks)) if masks else ()
    if tuple(proof.chunk for proof in held.proofs) != touched:
        raise ProofError("an enrolment does not prove every chunk that earlier requests have touched")
    empty = empty_commitment(built)
    for proof in held.proofs:
        public = held_public(built, manifest, masks[place(manifest, proof.chunk).layer], proof.chunk, context)
        try:
            verify_chunk(built, public, Expected(Point.from_hex(theta[proof.chunk])), proof.proof, empty)
        except (CommitmentError, ProofError) as e:
            raise type(e)(f"enrolled chunk {proof.chunk} does not hold earlier requests: {e.what}", why=e.why) from e


# -- an enrolment as a whole ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Before:
    """What an enrolment continues: the commitments (hex points) a client is held to, and the mask it has to hold.

    Attributes
    ----------
    enrolment_digest : str
        Of the envelope of the enrolment that is replaced.
    root : str
        Of `theta`.
    theta, curvature : sequence of str
    mask : tuple of LayerMask
        `earlier_mask` of every request that was sent to the client.
    """

    enrolment_digest: str
    root: str
    theta: Sequence[str]
    curvature: Sequence[str]
    mask: tuple[LayerMask, ...]


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
    context = continuation_context(enrolment.client_id, manifest.digest(), enrolment.nonce, continued.previous)
    if continued.theta is not None:
        verify_equal(built, Pair("theta_u", before.theta, enrolment.theta, context), continued.theta)
    if continued.held is not None:
        if continued.held.mask != before.mask:
            raise ProofError("an enrolment holds another mask than that of all earlier requests")
        verify_held(held_circuit(built), manifest, continued.held, context, enrolment.theta)
    if continued.curvature is not None:
        verify_equal(built, Pair("factor", before.curvature, enrolment.curvature, context), continued.curvature)

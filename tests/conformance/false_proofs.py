"""Receipts that are in perfect order but for a proof.

The provider has signed them: the strongest position an attacker can be in, and only the proof is left to give it away.
The client announces whatever commitment the proof needs, wherever it is free to.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import lies
from plan import add_rejected, rejected
from py_ecc.optimized_bn128 import field_modulus
from scene import Scene
from world import FIRST, GUARDED, SECOND, digest, respond

from zkapex.circuits.field import MODULUS
from zkapex.errors import CommitmentError, Error, ProofError
from zkapex.proofs.chunk.instance import place
from zkapex.proofs.merkle import commitment_root

REPAIR = "the proof does not show that masked weights are zero and the rest is the guarded repair"
NOT = "the proof does not commit to "
DELTA = NOT + "the difference between the announced and the enrolled weights"
FACTOR = NOT + "the curvature that was enrolled"
PUBLIC = NOT + "this request's mask, guard, tolerances and context"
THETA = NOT + "the weights after unlearning that were announced"

# -- lies --------------------------------------------------------------------------------------------------------------

Lie = tuple[Callable[[], bytes], str, type[Error], str]

LIES: dict[str, Lie] = {
    "masked_weight_left_at_one": (lies.masked_weight_left, "A masked weight is left at 1.", ProofError, REPAIR),
    "delta_past_tolerance": (
        lies.past_tolerance,
        "One weight altered by one unit more than the tolerance of stationarity allows.",
        ProofError,
        REPAIR,
    ),
    "guard_violated": (
        lies.guard_violated,
        "A change along a guarded direction that satisfies stationarity.",
        ProofError,
        REPAIR,
    ),
    "huge_residuals": (
        lies.huge_residuals,
        "Two residuals of 200 bits whose squares sum to the honest ones', modulo the field's order.",
        ProofError,
        REPAIR,
    ),
    "wrong_public_output": (
        lies.wrong_output,
        "A proof that is valid, for another fourth public output than zero.",
        ProofError,
        REPAIR,
    ),
    "masked_weights_read_elsewhere": (
        lies.masked_weights_read_elsewhere,
        "A masked weight is left at 1; a forged graph sums zeros instead, so that all public outputs are right.",
        ProofError,
        REPAIR,
    ),
    "decoy": (lies.decoy, "The request applied to weights the client never enrolled.", CommitmentError, DELTA),
    "factor_swapped": (
        lies.factor_swapped,
        "H swapped after enrolment: the factor of another block of the same client.",
        CommitmentError,
        FACTOR,
    ),
    "factor_of_another_client": (
        lies.factor_of_another_client,
        "H from another client.",
        CommitmentError,
        FACTOR,
    ),
    "mask_of_another_request": (
        lies.other_mask,
        "A proof for a mask with one weight less.",
        CommitmentError,
        PUBLIC,
    ),
    "guard_of_another_request": (lies.other_guard, "A proof for another guard.", CommitmentError, PUBLIC),
    "steering_of_another_request": (
        lies.other_steering,
        "A change along the guard that another request asked for, and its proof.",
        CommitmentError,
        PUBLIC,
    ),
    "tolerance_of_another_request": (
        lies.other_tolerance,
        "A proof for twice the tolerance.",
        CommitmentError,
        PUBLIC,
    ),
    "proof_of_another_nonce": (lies.other_nonce, "A proof for another nonce.", CommitmentError, PUBLIC),
    "proof_of_another_request": (lies.other_request, "A proof for another request's id.", CommitmentError, PUBLIC),
    "proof_of_another_context": (
        lies.other_chunk,
        "This chunk's values and mask, proved in the name of the next chunk.",
        CommitmentError,
        PUBLIC,
    ),
    "proof_of_another_client_announced": (
        lies.other_client,
        "What another client proved honestly, with its weights announced as one's own.",
        CommitmentError,
        DELTA,
    ),
    "challenge_chosen_by_the_prover": (
        lies.late_challenge,
        "Random changes and false residuals, checked at a challenge of zero instead of the commitments' hash.",
        CommitmentError,
        PUBLIC,
    ),
}


def _lie(base: str, make: Callable[[], bytes]) -> Callable[[Path], None]:
    return lambda folder: Scene.base(base).announced(FIRST, make()).write(folder)


for _name, (_make, _note, _error, _message) in LIES.items():
    add_rejected(_name, _note, _error, _message, _lie("guarded_group_obs", _make))

add_rejected(
    "mask_only_weight_left_at_one",
    "A masked weight is left at 1, under the statement of masks alone.",
    ProofError,
    "the proof does not show that masked weights are zero",
    _lie("mask_only", lies.mask_only_weight_left),
    "mask_only",
)
add_rejected(
    "dampening_off_by_one",
    "One weight is a unit off what its factor makes of it; the forged graph looks up another's error.",
    ProofError,
    "the proof does not show that the weights were multiplied by the request's factors",
    _lie("dampening", lies.dampened_by_one_unit_too_little),
    "dampening",
)
add_rejected(
    "fisher_factor_of_another_chunk",
    "The Fisher blocks of the rows below.",
    CommitmentError,
    FACTOR,
    _lie("block_fisher", lies.fisher_factor_of_another_chunk),
    "block_fisher",
)


def _strange(folder: Path, strange: lies.Strange) -> None:
    """A receipt of a client that enrolled what no honest one enrols."""
    number = place(GUARDED.manifest, FIRST).curvature
    curvature = {} if strange.factor is None else {number: strange.factor}
    Scene.base().enrolled({FIRST: strange.theta_p}, curvature).announced(FIRST, strange.proof).write(folder)


@rejected(
    "Two changes of 200 bits, enrolled as such, whose residuals' squares cancel modulo the field's order.",
    ProofError,
    REPAIR,
)
def huge_delta(folder: Path) -> None:
    _strange(folder, lies.huge_delta())


@rejected("An enrolled weight of a million, outside the lookup, that is changed honestly.", ProofError, REPAIR)
def theta_outside_the_lookup(folder: Path) -> None:
    _strange(folder, lies.theta_outside_the_lookup())


@rejected("What another client proved honestly.", CommitmentError, THETA)
def proof_of_another_client(folder: Path) -> None:
    Scene.base().with_proof(FIRST, lies.other_client()).write(folder)


@rejected("The proofs of the two chunks, exchanged.", CommitmentError, THETA)
def proof_of_another_chunk(folder: Path) -> None:
    scene = Scene.base()
    scene.change(proofs={FIRST: scene.proofs[SECOND], SECOND: scene.proofs[FIRST]}).write(folder)


@rejected("The weights announced are not those the honest proofs are about.", CommitmentError, THETA)
def weights_not_the_announced(folder: Path) -> None:
    scene = Scene.base()
    points = {FIRST: scene.enrolment.theta[2], SECOND: scene.enrolment.theta[3]}
    scene.change(response=respond(scene.request, points)).write(folder)


@rejected(
    "An accepted proof again, for a later request that asks for the same mask of the weights that resulted.",
    CommitmentError,
    "a combination of commitments is the point at infinity",
)
def accepted_proof_again(folder: Path) -> None:
    scene = Scene.base()
    theta = [*scene.enrolment.theta]
    for commitment in scene.answer.commitments:
        theta[commitment.chunk] = commitment.theta
    later = scene.request.model_copy(
        update={"request_id": "forget-later", "nonce": digest("x"), "pre_root": commitment_root(list(enumerate(theta)))}
    )
    answer = respond(later, {c.chunk: c.theta for c in scene.answer.commitments})
    scene.change(request=later, response=answer, earlier=(scene.answer,)).write(folder)


@rejected("An accepted proof again, for another request of the same weights before.", CommitmentError, PUBLIC)
def accepted_proof_for_a_second_request(folder: Path) -> None:
    scene = Scene.base()
    again = scene.request.model_copy(update={"request_id": "forget-again", "nonce": digest("again")})
    points = {c.chunk: c.theta for c in scene.answer.commitments}
    scene.change(request=again, response=respond(again, points)).write(folder)


# -- bytes that are no proof -------------------------------------------------------------------------------------------


def ezkl_json(proof: bytes) -> bytes:
    """What ezkl writes, with other public inputs for people and another proof in hex, around the valid bytes."""
    return json.dumps(
        {
            "protocol": None,
            "instances": [GUARDED.work("a").instance.public(FIRST).outputs(GUARDED.spec)],
            "proof": list(proof),
            "hex_proof": "0x" + bytes(len(proof)).hex(),
            "transcript_type": "EVM",
            "split": None,
            "pretty_public_inputs": {"rescaled_outputs": [["0"], ["0"], ["0"], ["0"]]},
            "timestamp": 0,
            "commitment": "KZG",
        }
    ).encode()


def edit(proof: bytes, word: int, change: Callable[[int], int]) -> bytes:
    """A proof with one of its 32-byte words changed."""
    at = slice(32 * (word % (len(proof) // 32)), 32 * (word % (len(proof) // 32)) + 32)
    return proof[: at.start] + change(int.from_bytes(proof[at], "big")).to_bytes(32, "big") + proof[at.stop :]


def _on_curve(proof: bytes, word: int) -> bool:
    x, y = (int.from_bytes(proof[32 * w : 32 * w + 32], "big") for w in (word, word + 1))
    return (y * y - x * x * x - 3) % field_modulus == 0


def scalar(proof: bytes) -> int:
    """Position, in words, of an evaluation: a word that is part of no point."""
    words = len(proof) // 32
    return next(w for w in range(words - 5, 0, -1) if not any(_on_curve(proof, v) for v in (w - 1, w)))


def point(proof: bytes) -> int:
    """Position, in words, of the first point that is no commitment to an input."""
    return next(w for w in range(2 * len(GUARDED.spec.inputs), len(proof) // 32) if _on_curve(proof, w))


def at(proof: bytes, word: int, data: bytes) -> bytes:
    return proof[: 32 * word] + data + proof[32 * word + len(data) :]


LENGTH = "bytes, this circuit's have"
CANONICAL = "a commitment's coordinates are not canonical field elements"
OFF_CURVE = "a commitment is not a point on the curve"
NOWHERE = bytes(63) + b"\1"
"""The point (0, 1), which is not on the curve."""

MANGLED: dict[str, tuple[str, type[Error], str, Callable[[bytes], bytes]]] = {
    "proof_empty": ("An empty proof.", ProofError, LENGTH, lambda p: b""),
    "proof_truncated": ("The last byte is missing.", ProofError, LENGTH, lambda p: p[:-1]),
    "proof_cut_to_its_commitments": ("Nothing but the commitments.", ProofError, LENGTH, lambda p: p[:320]),
    "proof_with_a_byte_more": ("A byte too many at the end.", ProofError, LENGTH, lambda p: p + b"\0"),
    "proof_twice": ("The proof twice in a row.", ProofError, LENGTH, lambda p: p + p),
    "proof_as_ezkl_json": (
        "ezkl's proof.json around the valid bytes, its pretty_public_inputs and hex_proof altered.",
        ProofError,
        LENGTH,
        ezkl_json,
    ),
    "proof_in_hex": ("The valid proof in hexadecimal.", ProofError, LENGTH, lambda p: p.hex().encode()),
    "proof_of_zeros": ("As many zeros as a proof has bytes.", CommitmentError, OFF_CURVE, lambda p: bytes(len(p))),
    "proof_of_noise": ("Every bit is set.", CommitmentError, CANONICAL, lambda p: b"\xff" * len(p)),
    "commitment_bit_flipped": (
        "The lowest bit of the first coordinate is flipped.",
        CommitmentError,
        OFF_CURVE,
        lambda p: edit(p, 0, lambda v: v ^ 1),
    ),
    "commitment_not_canonical": (
        "The base field's modulus is added to the first coordinate.",
        CommitmentError,
        CANONICAL,
        lambda p: edit(p, 0, lambda v: v + field_modulus),
    ),
    "commitment_off_the_curve": ("The first point is (0, 1).", CommitmentError, OFF_CURVE, lambda p: at(p, 0, NOWHERE)),
    "commitment_at_infinity": ("The first point is (0, 0).", CommitmentError, OFF_CURVE, lambda p: at(p, 0, bytes(64))),
    "commitment_negated": (
        "The first point is the negative of the announced one.",
        CommitmentError,
        THETA,
        lambda p: edit(p, 1, lambda v: field_modulus - v),
    ),
    "commitments_exchanged": (
        "The first two points are exchanged.",
        CommitmentError,
        THETA,
        lambda p: p[64:128] + p[:64] + p[128:],
    ),
    "aux_commitment_replaced": (
        "The one commitment that nothing else fixes is replaced by another valid point.",
        CommitmentError,
        PUBLIC,
        lambda p: at(p, 8, p[:64]),
    ),
    "point_bit_flipped": (
        "A bit of a later point is flipped.",
        ProofError,
        REPAIR,
        lambda p: edit(p, point(p), lambda v: v ^ 1),
    ),
    "point_negated": (
        "A later point is negated.",
        ProofError,
        REPAIR,
        lambda p: edit(p, point(p) + 1, lambda v: field_modulus - v),
    ),
    "point_not_canonical": (
        "The base field's modulus is added to a later coordinate.",
        ProofError,
        REPAIR,
        lambda p: edit(p, point(p), lambda v: v + field_modulus),
    ),
    "point_off_the_curve": ("A later point is (0, 1).", ProofError, REPAIR, lambda p: at(p, point(p), NOWHERE)),
    "point_at_infinity": ("A later point is (0, 0).", ProofError, REPAIR, lambda p: at(p, point(p), bytes(64))),
    "scalar_bit_flipped": (
        "A bit of an evaluation is flipped.",
        ProofError,
        REPAIR,
        lambda p: edit(p, scalar(p), lambda v: v ^ 1),
    ),
    "scalar_not_canonical": (
        "The scalar field's modulus is added to an evaluation.",
        ProofError,
        REPAIR,
        lambda p: edit(p, scalar(p), lambda v: v + MODULUS),
    ),
    "scalar_of_ones": (
        "Every bit of an evaluation is set.",
        ProofError,
        REPAIR,
        lambda p: at(p, scalar(p), b"\xff" * 32),
    ),
    "opening_bit_flipped": (
        "The last bit of the proof is flipped.",
        ProofError,
        REPAIR,
        lambda p: edit(p, -1, lambda v: v ^ 1),
    ),
    "opening_at_infinity": ("The last point is (0, 0).", ProofError, REPAIR, lambda p: p[:-64] + bytes(64)),
    "opening_not_canonical": (
        "The base field's modulus is added to the last coordinate.",
        ProofError,
        REPAIR,
        lambda p: edit(p, -1, lambda v: v + field_modulus),
    ),
    "openings_exchanged": (
        "The last two points are exchanged.",
        ProofError,
        REPAIR,
        lambda p: p[:-128] + p[-64:] + p[-128:-64],
    ),
}


def _mangled(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        scene = Scene.base()
        scene.with_proof(FIRST, change(scene.proofs[FIRST])).write(folder)

    return make


for _name, (_note, _error, _message, _change) in MANGLED.items():
    add_rejected(_name, _note, _error, _message, _mangled(_change))

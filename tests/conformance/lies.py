"""Proofs of what should not be provable or is not what was asked, by the strongest means a prover has.

`forced` proves whatever the circuit makes of a witness: a valid proof, but of other public outputs than a verifier
expects. `forged` makes a proof with the right outputs, by a graph that reads some values from elsewhere; the proving
key is the real one, and so the proof is not valid. All are about the first chunk unless they say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
from tiny import Forger, forger, prove_with
from world import FIRST, GUARDED, SECOND, UNGUARDED, WORLDS, Work, World, digest, generator, mask, salts

from zkapex.circuits.field import MODULUS, felts, from_felt, to_felt
from zkapex.circuits.halo2.slack import slack_limbs
from zkapex.circuits.statement import FACTOR_UNIT
from zkapex.proofs.chunk.commitment import Point, commit
from zkapex.proofs.chunk.instance import place
from zkapex.proofs.chunk.prove import challenge, complete, prove_chunk, prove_vectors, verify_raw
from zkapex.proofs.chunk.public import IntArray, PublicInputs
from zkapex.proofs.chunk.witness import SaltedVector, Witness, square_sums
from zkapex.proofs.records.packing import pack_guards, pack_masks
from zkapex.simulation.federation.adversaries import forced_vectors

IMAGINARY = pow(5, (MODULUS - 1) // 4, MODULUS)
"""A square root of -1: for any x, ``x^2 + (IMAGINARY * x)^2 == 0`` modulo p, which is 1 modulo 4."""
HUGE = 2**200 + 12345
FREE = 1
"""A row of the first chunk in which nothing is masked."""


@dataclass(frozen=True)
class Strange:
    """A proof about values no honest client enrols, and the commitments it enrolled: theta_p, and the factor if any."""

    proof: bytes
    theta_p: str
    factor: str | None = None


@cache
def work(world: World = GUARDED, name: str = "a") -> Work:
    return world.work(name)


def public(chunk: int = FIRST, world: World = GUARDED) -> PublicInputs:
    return work(world).instance.public(chunk)


def witness(chunk: int = FIRST, world: World = GUARDED, name: str = "a") -> Witness:
    found = work(world, name)
    return found.change.witness(found.held, chunk)


def theta_p(w: Witness) -> SaltedVector:
    """The weights before, with their salts."""
    assert w.delta is not None
    return SaltedVector(
        w.theta_u.values - w.delta.values,
        tuple((u - d) % MODULUS for u, d in zip(w.theta_u.salts, w.delta.salts, strict=True)),
    )


def changed(w: Witness, theta_u: IntArray, mu: IntArray | None = None) -> Witness:
    """The same chunk after another change."""
    return Witness.build(theta_p(w), SaltedVector(theta_u, w.theta_u.salts), w.factor, w.mu if mu is None else mu)


def bumped(w: Witness, row: int, column: int, by: int) -> Witness:
    """The same chunk with one weight altered."""
    theta = w.theta_u.values.copy()
    theta[row, column] += by
    return changed(w, theta)


def prove_anything(world: World, vectors: Sequence[Sequence[str]]) -> bytes:
    """A proof that is valid for the outputs these vectors have, which is asserted."""
    proof, outputs = prove_vectors(world.circuit, vectors)
    verify_raw(world.circuit, outputs, proof)
    return proof


def forced(given: PublicInputs, w: Witness, world: World = GUARDED) -> bytes:
    return prove_anything(world, forced_vectors(world.circuit, given, w))


def sums(given: PublicInputs, w: Witness) -> tuple[tuple[int, int], tuple[int, int]]:
    """The two sums of squares, and the largest the circuit lets pass."""
    slacks = given.slacks(GUARDED.spec)
    return square_sums(w.residuals(GUARDED.spec, given), given.mask), (slacks[0].largest, slacks[1].largest)


# -- a false change ----------------------------------------------------------------------------------------------------


@cache
def masked_weight_left() -> bytes:
    return forced(public(), _unmasked())


def _unmasked() -> Witness:
    row, column = (int(i[0]) for i in np.nonzero(public().mask))
    return bumped(witness(), row, column, 1)


@cache
def last_unit() -> int:
    """The most that one weight outside the guard can be altered by within the tolerance."""
    by = 0
    while sums(public(), bumped(witness(), FREE, UNGUARDED, by + 1))[0][0] <= sums(public(), witness())[1][0]:
        by += 1
    return by


@cache
def within_tolerance() -> bytes:
    return prove_chunk(GUARDED.circuit, public(), bumped(witness(), FREE, UNGUARDED, last_unit()))


@cache
def past_tolerance() -> bytes:
    w = bumped(witness(), FREE, UNGUARDED, last_unit() + 1)
    (stationarity, guard), (largest_s, largest_g) = sums(public(), w)
    assert stationarity > largest_s
    assert guard <= largest_g
    return forced(public(), w)


@cache
def guard_violated() -> bytes:
    """A change along ``H^-1 V``, of which the multipliers make up stationarity."""
    w, given = witness(), public()
    assert w.factor is not None
    assert w.mu is not None
    factor, v = w.factor.values, given.guard.astype(np.float64)
    h = factor.T @ factor + GUARDED.spec.ridge * np.eye(len(v))
    direction = np.linalg.solve(h, v[:, 0])
    scale = 30 / np.abs(direction).max()
    theta, mu = w.theta_u.values.copy(), w.mu.copy()
    theta[FREE] += np.rint(scale * direction).astype(np.int64)
    mu[FREE, 0] += round(scale)
    false = changed(w, theta, mu)
    (stationarity, guard), (largest_s, largest_g) = sums(given, false)
    assert stationarity <= largest_s
    assert guard > largest_g
    return forced(given, false)


# -- false residuals, and values that wrap around ----------------------------------------------------------------------


@cache
def huge_residuals() -> bytes:
    """Two residuals of 200 bits whose squares sum to what the honest ones' do; only the products give them away."""
    private = witness().private(GUARDED.spec, public())
    at = list(GUARDED.spec.parts("aux").values())
    first = at[0] + at[1]
    x, y = from_felt(private["aux"][first]), from_felt(private["aux"][first + 1])
    s = 2**190 + 9
    t = (x * x + y * y) * pow(s, -1, MODULUS)
    half = pow(2, -1, MODULUS)
    aux = [*private["aux"]]
    aux[first : first + 2] = [to_felt((s + t) * half), to_felt((s - t) * half * pow(IMAGINARY, -1, MODULUS))]
    return prove_anything(GUARDED, complete(GUARDED.circuit, public(), {**private, "aux": aux}))


@cache
def wrong_output() -> bytes:
    """The fourth public output is 1 times a power of the challenge, and the proof says so."""
    private = witness().private(GUARDED.spec, public())
    at = list(GUARDED.spec.parts("aux").values())
    aux = [*private["aux"]]
    aux[at[0] + at[1]] = to_felt(from_felt(aux[at[0] + at[1]]) + 1)
    return prove_anything(GUARDED, complete(GUARDED.circuit, public(), {**private, "aux": aux}))


def forged(
    world: World, given: PublicInputs, private: dict[str, list[str]], rewire: Callable[[Forger, IntArray], object]
) -> bytes:
    """A proof by a rewired graph, of whose outputs nothing is wrong.

    `rewire` is given the forger and the position, in the public vector, of a number that is zero.
    """
    spec, built = world.spec, world.circuit
    vectors = complete(built, given, private)
    zero = vectors[spec.inputs.index("public")].index(to_felt(0))
    tool = forger(built)
    rewire(tool, np.full(1, zero))
    proof, outputs = prove_with(built, tool.model, vectors)
    assert outputs == given.outputs(spec)
    assert len(proof) == built.proof_bytes
    return proof


def blindfold(tool: Forger, which: int, zero: IntArray, size: int) -> None:
    """Show a lookup zeros, and let what follows read the values it was to bound."""
    node: onnx.NodeProto = tool.nodes("Atan")[which]
    raw, bounded = str(node.input[0]), str(node.output[0])
    for user in [str(n.output[0]) for n in tool.model.graph.node if bounded in n.input]:
        tool.redirect(bounded, raw, np.arange(size), (size,), only=user)
    tool.redirect(raw, "public", np.repeat(zero, size), (size,), only=bounded)


@cache
def masked_weights_read_elsewhere() -> bytes:
    w, given = _unmasked(), public()
    count = GUARDED.spec.weights

    def rewire(tool: Forger, zero: IntArray) -> None:
        tool.redirect(tool.nodes("Atan")[0].output[0], "public", np.repeat(zero, count), (count,))

    return forged(GUARDED, given, w.private(GUARDED.spec, given), rewire)


@cache
def huge_delta() -> Strange:
    """Two changes of 200 bits whose residuals' squares cancel, under a factor of zero; the lookup is shown zeros."""
    spec, given, w = GUARDED.spec, public(), witness()
    assert w.factor is not None
    assert w.mu is not None
    count, x, y = spec.weights, HUGE, IMAGINARY * HUGE % MODULUS
    nothing = np.zeros((spec.rows_per_chunk, spec.block_width), np.int64)
    at = FREE * spec.block_width + UNGUARDED
    calm = Witness(
        SaltedVector(np.where(given.mask, 0, w.theta_u.values), w.theta_u.salts),
        SaltedVector(nothing, salts("huge/delta", 4)),
        SaltedVector(np.zeros_like(w.factor.values), salts("huge/factor", len(w.factor.salts))),
        np.zeros_like(w.mu),
    )
    private = calm.private(spec, given)
    sizes = list(spec.parts("aux").values())
    residual = sizes[0] + sizes[1] + at
    private["delta"][at : at + 2] = felts([x, y])
    private["aux"][residual : residual + 2] = felts([spec.ridge * x, spec.ridge * y])
    proof = forged(GUARDED, given, private, lambda tool, zero: blindfold(tool, 1, zero, count))
    before = [(from_felt(u) - from_felt(d)) for u, d in zip(private["theta_u"], private["delta"], strict=True)]
    return Strange(
        proof,
        commit(GUARDED.circuit, felts(before)).hex(),
        commit(GUARDED.circuit, private["factor"]).hex(),
    )


@cache
def theta_outside_the_lookup() -> Strange:
    """A weight of a million that changes honestly; the lookup is shown zeros."""
    given, w = public(), witness()
    private = w.private(GUARDED.spec, given)
    at = FREE * GUARDED.spec.block_width + UNGUARDED
    before = theta_p(w).vector()
    for vector in (private["theta_u"], before):
        vector[at] = to_felt(from_felt(vector[at]) + 10**6)
    proof = forged(GUARDED, given, private, lambda tool, zero: blindfold(tool, 0, zero, GUARDED.spec.weights))
    return Strange(proof, commit(GUARDED.circuit, before).hex())


# -- other commitments than the enrolled ones --------------------------------------------------------------------------


@cache
def decoy() -> bytes:
    """The request, applied to weights that were never committed to."""
    return forced(public(), replace(witness(name="b"), factor=witness().factor))


@cache
def factor_swapped() -> bytes:
    """The honest change, and a proof with the factor of another block of the same client."""
    held = work().held
    return forced(public(), replace(witness(), factor=held.factor(place(GUARDED.manifest, SECOND))))


@cache
def factor_of_another_client() -> bytes:
    return forced(public(), replace(witness(), factor=witness(name="b").factor))


# -- another instance --------------------------------------------------------------------------------------------------


def variant(**changes: Any) -> bytes:
    """The honest change, proved for a request that differs in some fields."""
    return forced(GUARDED.work("a", **changes).instance.public(FIRST), witness())


@cache
def other_mask() -> bytes:
    fewer = mask()
    fewer["fc1"][2, 3] = False
    return variant(mask=pack_masks(GUARDED.manifest, fewer))


@cache
def other_guard() -> bytes:
    turned = {k: np.ascontiguousarray(g[:, ::-1]) for k, g in GUARDED.guards().items()}
    return variant(guards=pack_guards(GUARDED.manifest, turned))


@cache
def other_steering() -> bytes:
    """Proved for a request that steers, of a change that is steered like that."""
    steered = GUARDED.work("a", guards=pack_guards(GUARDED.manifest, GUARDED.guards(), GUARDED.steering()))
    return prove_chunk(steered.circuit, steered.instance.public(FIRST), steered.change.witness(steered.held, FIRST))


@cache
def other_tolerance() -> bytes:
    return variant(tau_s=work().instance.request.tau_s * 2)


@cache
def other_nonce() -> bytes:
    return variant(nonce=digest("another nonce"))


@cache
def other_request() -> bytes:
    return variant(request_id="forget-another")


@cache
def other_chunk() -> bytes:
    """The first chunk's values and mask, proved as the second."""
    return forced(replace(public(), context=public(1).context), witness())


@cache
def other_client() -> bytes:
    """What another client proves honestly."""
    theirs = work(name="b")
    return prove_chunk(GUARDED.circuit, theirs.instance.public(FIRST), witness(name="b"))


@cache
def late_challenge() -> bytes:
    """A public vector made for a challenge that the prover chose: zero, at which only the first residual counts."""
    given = public()
    noise = generator("late").integers(-50, 51, witness().theta_u.values.shape)
    w = changed(witness(), np.where(given.mask, 0, witness().theta_u.values + noise))
    nothing = tuple(np.zeros_like(r) for r in w.residuals(GUARDED.spec, given))
    limit = GUARDED.spec.weight_limit
    limbs = [x for slack in given.slacks(GUARDED.spec) for x in slack_limbs(slack, 0, limit)]
    private = w.with_limbs(GUARDED.spec, (nothing[0], nothing[1]), limbs)
    honest = complete(GUARDED.circuit, given, private)
    vectors = {**dict(zip(GUARDED.spec.inputs, honest, strict=True)), "public": given.vector(GUARDED.spec, 0)}
    points: dict[str, Point] = {n: commit(GUARDED.circuit, v) for n, v in private.items()}
    assert challenge(GUARDED.circuit, given, points) != 0
    return prove_anything(GUARDED, [vectors[n] for n in GUARDED.spec.inputs])


# -- other statements --------------------------------------------------------------------------------------------------


@cache
def mask_only_weight_left() -> bytes:
    world = WORLDS["mask_only"]
    given, w = public(FIRST, world), witness(FIRST, world)
    row, column = (int(i[0]) for i in np.nonzero(given.mask))
    values = w.theta_u.values.copy()
    values[row, column] = 1
    false = Witness(SaltedVector(values, w.theta_u.salts))
    return prove_anything(world, complete(world.circuit, given, false.private(world.spec, given)))


@cache
def dampened_by_one_unit_too_little() -> bytes:
    """One weight that is off by one from what its factor makes of it; the lookup of errors is shown another."""
    world = WORLDS["dampening"]
    given, w = public(FIRST, world), witness(FIRST, world)
    row, column = (int(i[0]) for i in np.nonzero(given.mask))
    false = bumped(w, row, column, 1)
    assert given.dampening is not None
    error = FACTOR_UNIT * false.theta_u.values - given.dampening * theta_p(w).values
    assert abs(error[row, column]) > FACTOR_UNIT // 2
    shown = np.arange(world.spec.weights)
    shown[row * world.spec.block_width + column] = int(np.flatnonzero(~given.mask)[0])  # unmasked, so without an error

    def rewire(tool: Forger, zero: IntArray) -> None:
        node = tool.nodes("Atan")[2]
        tool.redirect(node.input[0], node.input[0], shown, shown.shape, only=node.output[0])

    return forged(world, given, false.private(world.spec, given), rewire)


@cache
def fisher_factor_of_another_chunk() -> bytes:
    """The curvature of the rows below."""
    world = WORLDS["block_fisher"]
    other = work(world).held.factor(place(world.manifest, 1))
    return forced(public(FIRST, world), replace(witness(FIRST, world), factor=other), world)

"""Proving and verifying one chunk.

The prover commits to its private vectors first; the challenge that their matrix products are checked at is a hash of
those commitments (see `zkapex.circuits.statement`), and only then is the public vector, which holds its powers, fixed.

The verifier trusts nothing it is sent but the raw proof bytes: it rebuilds the proof object from them, its own
instances, its own settings and its own verification key, recomputes the public commitment, and compares the other
leading commitments with the ones that were enrolled or signed before.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ezkl
import numpy as np
import numpy.typing as npt

from zkapex.circuits.field import MODULUS, felts, from_felt, random_elements
from zkapex.circuits.slack import SLACK_LIMBS, Slack, slack_for, slack_limbs
from zkapex.circuits.statement import INPUTS, SALTS, StatementSpec
from zkapex.circuits.store import Circuit
from zkapex.errors import CommitmentError, InputError, ProofError, ProverError
from zkapex.proofs.commitment import POINT_BYTES, Point, commit
from zkapex.proofs.record import encode_parts

_REJECTED = "the proof does not show that masked weights are zero and the rest is the guarded repair"

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PublicInputs:
    """What prover and verifier agree on for one chunk before a proof exists.

    Attributes
    ----------
    mask : bool [R, B]
        True where a weight must be zero.
    guard : int64 [B, r]
    tau_stationarity, tau_guard : int
        Requested tolerances; enforced are the slightly larger ones of `slacks`.
    context : int
        Field element binding the proof to its request, client, chunk, circuit and nonce.
    """

    mask: BoolArray
    guard: IntArray
    tau_stationarity: int
    tau_guard: int
    context: int

    def slacks(self, spec: StatementSpec) -> tuple[Slack, Slack]:
        """Both tolerances in the circuit's form."""
        try:
            return (slack_for(self.tau_stationarity, spec.weight_limit), slack_for(self.tau_guard, spec.weight_limit))
        except ValueError as e:
            raise InputError("a tolerance cannot be expressed in this circuit", why=str(e)) from e

    def vector(self, spec: StatementSpec, challenge: int) -> list[str]:
        """The public committed vector, complete with the powers of the challenge.

        Raises
        ------
        InputError
            If a shape or range does not fit the statement.
        """
        return self.fixed(spec) + felts(_powers(spec, challenge))

    def fixed(self, spec: StatementSpec) -> list[str]:
        """The part of the public vector that is known before the prover has committed to anything.

        Raises
        ------
        InputError
            If a shape or range does not fit the statement.
        """
        shape = (spec.rows_per_chunk, spec.block_width)
        if self.mask.shape != shape or self.mask.dtype != np.bool_:
            raise InputError(f"mask must be bool of shape {shape}, got {self.mask.dtype} {self.mask.shape}")
        if self.guard.shape != (spec.block_width, spec.guard_rank):
            raise InputError(f"guard must have shape {(spec.block_width, spec.guard_rank)}, got {self.guard.shape}")
        if self.guard.size and int(np.abs(self.guard).max()) > spec.guard_limit:
            raise InputError(f"a guard entry exceeds {spec.guard_limit}")
        if not 0 <= self.context < MODULUS:
            raise InputError("the context is not a field element")
        stationarity, guard = self.slacks(spec)
        tail = [*stationarity.weights, *guard.weights, 1, self.context]
        return felts(self.mask.astype(np.int64)) + felts(np.ascontiguousarray(self.guard.T)) + felts(tail)

    def outputs(self, spec: StatementSpec) -> list[str]:
        """The circuit's public outputs, as field elements."""
        stationarity, guard = self.slacks(spec)
        return felts([0, stationarity.half, guard.half] + [0] * spec.freivalds)


@dataclass(frozen=True)
class SaltedVector:
    """A private committed vector: its values and the salts that hide them.

    Attributes
    ----------
    values : int64
        Any shape; committed in row-major order.
    salts : tuple of int
        `SALTS` uniform field elements. Never printed.
    """

    values: IntArray
    salts: tuple[int, ...] = field(default_factory=lambda: random_elements(SALTS), repr=False)

    def vector(self) -> list[str]:
        """The committed vector, values then salts, as field elements."""
        return felts(self.values) + felts(self.salts)


@dataclass(frozen=True)
class Witness:
    """What only the client knows about one chunk.

    Attributes
    ----------
    theta_u : SaltedVector of int64 [R, B]
    delta : SaltedVector of int64 [R, B]
        ``theta_u - theta_p``; its salts are the difference of theirs.
    curvature : SaltedVector of int64 [B, B]
    mu : int64 [R, r]
        Multipliers of the guard.
    """

    theta_u: SaltedVector
    delta: SaltedVector
    curvature: SaltedVector
    mu: IntArray

    @classmethod
    def build(cls, theta_p: SaltedVector, theta_u: SaltedVector, curvature: SaltedVector, mu: IntArray) -> Witness:
        """The witness whose delta is the difference of two committed vectors, salts included."""
        salts = tuple((u - p) % MODULUS for u, p in zip(theta_u.salts, theta_p.salts, strict=True))
        return cls(theta_u, SaltedVector(theta_u.values - theta_p.values, salts), curvature, mu)

    def check_range(self, spec: StatementSpec) -> None:
        """Raise ProverError if a value is outside the circuit's lookup."""
        named = {"theta_u": self.theta_u.values, "delta": self.delta.values, "curvature": self.curvature.values}
        for name, values in {**named, "mu": self.mu}.items():
            if values.size and int(np.abs(values).max()) > spec.weight_limit:
                raise ProverError(
                    f"{name} holds {int(np.abs(values).max())}, outside the circuit's range of {spec.weight_limit}",
                    fix="choose a smaller scale for the layer or a profile with a larger weight limit",
                )

    def vectors(self, circuit: Circuit, public: PublicInputs) -> list[list[str]]:
        """The five committed vectors in the circuit's order.

        Raises
        ------
        ProverError
            If a sum of squares exceeds its tolerance or a value the range.
        """
        spec = circuit.spec
        self.check_range(spec)
        lengths = spec.input_lengths()
        for name in ("theta_u", "delta", "curvature"):
            given: SaltedVector = getattr(self, name)
            if given.values.size + len(given.salts) != lengths[name]:
                raise ProverError(
                    f"{name} has {given.values.size} values and {len(given.salts)} salts",
                    why=f"the circuit wants {lengths[name]} in all",
                )
        residuals = self.residuals(public)
        sums = square_sums(residuals, public.mask)
        limbs: list[int] = []
        for total, slack in zip(sums, public.slacks(spec), strict=True):
            limbs += slack_limbs(slack, total, spec.weight_limit)
        return self.with_limbs(circuit, public, residuals, limbs)

    def residuals(self, public: PublicInputs) -> tuple[IntArray, IntArray]:
        """``E = delta H - mu V^T``, int64 [R, B], and ``F = (delta * u) V``, int64 [R, r], exactly."""
        delta, guard = self.delta.values, public.guard
        return delta @ self.curvature.values - self.mu @ guard.T, (delta * ~public.mask) @ guard

    def with_limbs(
        self, circuit: Circuit, public: PublicInputs, residuals: tuple[IntArray, IntArray], limbs: Sequence[int]
    ) -> list[list[str]]:
        """The five committed vectors for given residuals and slack limbs, whether or not the statement then holds."""
        aux = felts(self.mu) + felts(limbs)
        if circuit.spec.freivalds:
            aux += felts(residuals[0]) + felts(residuals[1])
        private = {
            "theta_u": self.theta_u.vector(),
            "delta": self.delta.vector(),
            "curvature": self.curvature.vector(),
            "aux": aux + felts(random_elements(SALTS)),
        }
        return complete(circuit, public, private)


def complete(circuit: Circuit, public: PublicInputs, private: Mapping[str, list[str]]) -> list[list[str]]:
    """The five committed vectors in the circuit's order, from the four private ones: derives the challenge."""
    points = {name: commit(circuit, vector) for name, vector in private.items()}
    vectors = {**private, "public": public.vector(circuit.spec, challenge(circuit, public, points))}
    return [vectors[name] for name in INPUTS]


def challenge(circuit: Circuit, public: PublicInputs, points: Mapping[str, Point]) -> int:
    """The point at which matrix products are checked, fixed by everything that enters them.

    Parameters
    ----------
    points : mapping of str to Point
        Commitments to (at least) the four private vectors.

    Returns
    -------
    int
        In ``[0, MODULUS)``; SHA-512 reduced, so that the bias is below 2**-257.
    """
    known = hashlib.sha256("".join(public.fixed(circuit.spec)).encode("ascii")).hexdigest()
    private = [points[name].to_bytes() for name in INPUTS if name != "public"]
    message = encode_parts("zkapex:challenge:v1", circuit.vk_digest, known, *private)
    return int.from_bytes(hashlib.sha512(message).digest(), "big") % MODULUS


def _powers(spec: StatementSpec, challenge: int) -> list[int]:
    """``a_i = z^(i (B + r))`` for R rows, then ``b_j = z^j`` for B columns and ``c_j = z^(B + j)`` for r."""
    if not spec.freivalds:
        return []
    columns = spec.block_width + spec.guard_rank
    across = [pow(challenge, j, MODULUS) for j in range(columns)]
    step = pow(challenge, columns, MODULUS)
    return [pow(step, i, MODULUS) for i in range(spec.rows_per_chunk)] + across


def square_sums(residuals: tuple[IntArray, IntArray], mask: BoolArray) -> tuple[int, int]:
    """The two sums the circuit bounds, exactly: stationarity and guard.

    The residuals are far below 2^63 for every admissible statement; their squares are summed as Python integers.
    """
    stationarity, leak = residuals
    kept = stationarity * ~mask
    return sum(v * v for v in kept.ravel().tolist()), sum(v * v for v in leak.ravel().tolist())


@dataclass(frozen=True)
class Expected:
    """The commitments a proof must start with.

    Attributes
    ----------
    theta_p, theta_u, curvature : Point
        Enrolled (or last accepted), announced in the signed response, and enrolled.
    """

    theta_p: Point
    theta_u: Point
    curvature: Point


def prove_chunk(circuit: Circuit, public: PublicInputs, witness: Witness) -> bytes:
    """The raw proof that `witness` satisfies the statement.

    Raises
    ------
    ProverError
        If the witness does not satisfy it, or ezkl fails.
    """
    proof, outputs = prove_vectors(circuit, witness.vectors(circuit, public))
    if outputs != public.outputs(circuit.spec):
        raise ProverError(
            "the witness does not satisfy the statement",
            why=f"public outputs are {outputs}, expected {public.outputs(circuit.spec)}",
            fix="recompute the change for this mask and guard",
        )
    return proof


def prove_vectors(circuit: Circuit, vectors: Sequence[Sequence[str]]) -> tuple[bytes, list[str]]:
    """Prove whatever the circuit makes of five committed vectors; returns the raw proof and the public outputs.

    A verifier accepts the proof only with these outputs, and ours accepts no outputs but those it expects.

    Raises
    ------
    ProverError
        If a value is outside the lookup, or ezkl fails.
    """
    _check_lookups(circuit.spec, vectors)
    with tempfile.TemporaryDirectory(prefix="zkapex-prove-") as tmp:
        data, out, proof = (str(Path(tmp) / n) for n in ("input.json", "witness.json", "proof.json"))
        Path(data).write_text(json.dumps({"input_data": vectors}))
        srs = str(circuit.srs.path)
        try:
            result = ezkl.gen_witness(data, str(circuit.compiled), out, str(circuit.vk), srs)
            ezkl.prove(out, str(circuit.compiled), str(circuit.pk), proof, srs)
        except RuntimeError as e:
            raise ProverError("ezkl could not prove the chunk", why=str(e)) from e
        return bytes(json.loads(Path(proof).read_text())["proof"]), [o[0] for o in result["outputs"]]


def _check_lookups(spec: StatementSpec, vectors: Sequence[Sequence[str]]) -> None:
    """Refuse what the lookup does not admit: ezkl would never return, having looked for the value in its table."""
    multipliers = spec.rows_per_chunk * spec.guard_rank + 2 * SLACK_LIMBS
    counts = {"theta_u": spec.weights, "delta": spec.weights, "curvature": spec.block_width**2, "aux": multipliers}
    for name, vector in zip(INPUTS, vectors, strict=True):
        for text in vector[: counts.get(name, 0)]:
            value = from_felt(text)
            if min(value, MODULUS - value) > spec.weight_limit:
                raise ProverError(f"{name} holds a value outside the circuit's range of {spec.weight_limit}")


def leading_points(proof: bytes) -> dict[str, Point]:
    """The commitments a proof opens with, by name of the committed vector.

    Raises
    ------
    ProofError, CommitmentError
        If the proof is too short, or a commitment is malformed.
    """
    if len(proof) < len(INPUTS) * POINT_BYTES:
        raise ProofError(f"a proof of {len(proof)} bytes is too short")
    return {n: Point.from_bytes(proof[i * POINT_BYTES : (i + 1) * POINT_BYTES]) for i, n in enumerate(INPUTS)}


def verify_chunk(circuit: Circuit, public: PublicInputs, expected: Expected, proof: bytes, empty: Point) -> None:
    """Check one proof against what the verifier itself expects; return only if everything holds.

    Parameters
    ----------
    empty : Point
        `zkapex.proofs.commitment.empty_commitment` of the circuit.

    Raises
    ------
    CommitmentError
        If a commitment is malformed or not the expected one.
    ProofError
        If the proof is malformed or does not verify.
    """
    if len(proof) != circuit.proof_bytes:
        raise ProofError(f"a proof has {len(proof)} bytes, this circuit's have {circuit.proof_bytes}")
    points = leading_points(proof)
    wanted = {
        "theta_u": expected.theta_u,
        "delta": expected.theta_u - expected.theta_p + empty,
        "curvature": expected.curvature,
        "public": commit(circuit, public.vector(circuit.spec, challenge(circuit, public, points))),
    }
    meaning = {
        "theta_u": "the weights after unlearning that were announced",
        "delta": "the difference between the announced and the enrolled weights",
        "curvature": "the curvature that was enrolled",
        "public": "this request's mask, guard, tolerances and context",
    }
    for name, point in wanted.items():
        if points[name] != point:
            raise CommitmentError(f"the proof does not commit to {meaning[name]}", why=f"commitment {name!r} differs")
    verify_raw(circuit, public.outputs(circuit.spec), proof)


def verify_raw(circuit: Circuit, outputs: list[str], proof: bytes) -> None:
    """Run halo2's verifier on raw proof bytes and the verifier's own instances.

    Raises
    ------
    ProofError
        Whenever it does not accept, whatever the reason.
    """
    snark = {
        "protocol": None,
        "instances": [outputs],
        "proof": list(proof),
        "hex_proof": "0x" + proof.hex(),
        "transcript_type": "EVM",
        "split": None,
        "pretty_public_inputs": None,
        "timestamp": None,
        "commitment": "KZG",
    }
    with tempfile.TemporaryDirectory(prefix="zkapex-verify-") as tmp:
        path = Path(tmp) / "proof.json"
        path.write_text(json.dumps(snark))
        try:
            accepted = ezkl.verify(str(path), str(circuit.settings), str(circuit.vk), str(circuit.srs.path))
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as e:  # a Rust panic arrives as pyo3's PanicException, which is not an Exception
            raise ProofError(_REJECTED, why=" ".join(str(e).split())[:300]) from e
    if accepted is not True:
        raise ProofError(_REJECTED)

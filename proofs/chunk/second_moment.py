"""Proving and verifying that an enrolled curvature factor is the second moment of committed activations.

The statement is in `zkapex.circuits.operators.second_moment`: ``|c F^T F - X^T X|_F <= per_mille / 1000 * c *
2^kappa``, with F the enrolled factor, X the activations and 2^kappa the largest norm that a curvature is encoded with.
It is proved with the reference string and the circuit height of the requests' statement, so that a commitment to F is
the same in both.

**What it does not show** is where X is from: it is the prover's choice (``docs/security.md``).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from zkapex.circuits.field import MODULUS, felts, random_elements
from zkapex.circuits.halo2.slack import Slack, slack_for, slack_limbs
from zkapex.circuits.halo2.store import Circuit
from zkapex.circuits.statement import MAX_SCALE, SALTS, StatementSpec
from zkapex.errors import CommitmentError, InputError, ProofError, ProverError
from zkapex.proofs.chunk.commitment import Point, commit
from zkapex.proofs.chunk.prove import challenge, complete, leading_points, prove_vectors, verify_exactly
from zkapex.proofs.chunk.public import IntArray
from zkapex.proofs.chunk.witness import SaltedVector
from zkapex.proofs.messages import LARGEST_PER_MILLE
from zkapex.proofs.operators import powers
from zkapex.proofs.records.record import encode_parts


@dataclass(frozen=True)
class MomentPublic:
    """What prover and verifier agree on for one curvature factor before a proof exists.

    Attributes
    ----------
    scale : int
        c, from 1 to `MAX_SCALE`: the prover's, as is the scale of its activations.
    per_mille : int
        Tolerance in thousandths of ``2**kappa``, from 1 to 1000: the prover's, as little as it needs.
    kappa : int
        log2 of the largest Frobenius norm of a curvature matrix; the manifest's ``curvature_bits``.
    context : int
        Field element, see `curvature_context`.
    """

    scale: int
    per_mille: int
    kappa: int
    context: int

    def check(self) -> None:
        """Raise InputError if a number is out of range."""
        ranges = {"scale": (1, MAX_SCALE), "per_mille": (1, 1000), "kappa": (1, 24), "context": (0, MODULUS - 1)}
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise InputError(f"the {name} of a curvature proof is {value}", why=f"{least} to {most} are allowed")

    def slack(self, spec: StatementSpec) -> Slack:
        """The tolerance in the circuit's form, for the squared Frobenius norm of D.

        Raises
        ------
        InputError
            If a number is out of range or the circuit cannot express the tolerance.
        """
        self.check()
        tau = (self.per_mille**2 * self.scale**2 << 2 * self.kappa) // 1000**2
        try:
            return slack_for(tau, spec.weight_limit)
        except ValueError as e:
            raise InputError("a tolerance cannot be expressed in this circuit", why=str(e)) from e

    def distance(self, spec: StatementSpec) -> float:
        """What is really enforced on ``|F^T F - X^T X / c|_F``, as a fraction of ``2**kappa``."""
        return math.sqrt(self.slack(spec).largest) / self.scale / 2.0**self.kappa

    def digest(self, spec: StatementSpec) -> str:
        """SHA-256 (hex) of all of it."""
        self.check()
        numbers = (str(n) for n in (self.scale, self.per_mille, self.kappa, self.context))
        return hashlib.sha256(encode_parts("zkapex:second-moment:v1", *numbers)).hexdigest()

    def outputs(self, spec: StatementSpec) -> list[str]:
        """The circuit's public outputs, as field elements."""
        return felts([self.slack(spec).half, 0])

    def vector(self, spec: StatementSpec, challenge: int) -> list[str]:
        """The public committed vector, complete with what is derived from the challenge."""
        width = spec.block_width
        values = {
            "a": powers(pow(challenge, width, MODULUS), width),
            "b": powers(challenge, width),
            "slack": self.slack(spec).weights,
            "scale": [self.scale],
            "unit": [1],
            "context": [self.context],
        }
        return [felt for name in spec.parts("public") for felt in felts(values[name])]


@dataclass(frozen=True)
class MomentWitness:
    """What only the client knows.

    Attributes
    ----------
    factor : SaltedVector of int64 [q, B]
        F with the salts it is enrolled with. A proof opens it once: count that (`zkapex.client.state.salts`).
    activations : SaltedVector of int64 [n, B]
        X; rows without an activation are zero.
    """

    factor: SaltedVector
    activations: SaltedVector

    def residual(self, scale: int) -> IntArray:
        """``D = c F^T F - X^T X``, int64 [B, B], exactly: far below 2^63 for every admissible statement."""
        factor, activations = self.factor.values, self.activations.values
        return scale * (factor.T @ factor) - activations.T @ activations

    def private(self, spec: StatementSpec, public: MomentPublic) -> dict[str, list[str]]:
        """The private committed vectors, by name.

        Raises
        ------
        ProverError
            If D exceeds the tolerance, a value the range, or a part does not fit the statement.
        """
        self._check(spec)
        residual = self.residual(public.scale)
        total = sum(v * v for v in residual.ravel().tolist())
        return self.with_limbs(residual, slack_limbs(public.slack(spec), total, spec.weight_limit))

    def with_limbs(self, residual: IntArray, limbs: tuple[int, ...]) -> dict[str, list[str]]:
        """The private vectors for a given residual and slack limbs, whether or not the statement then holds."""
        aux = felts(limbs) + felts(residual) + felts(random_elements(SALTS))
        return {"factor": self.factor.vector(), "activations": self.activations.vector(), "aux": aux}

    def _check(self, spec: StatementSpec) -> None:
        shapes = {
            "factor": (self.factor, spec.factor_shape),
            "activations": (self.activations, (spec.rows_per_chunk, spec.block_width)),
        }
        for name, (vector, shape) in shapes.items():
            if vector.values.shape != shape or len(vector.salts) != spec.parts(name)["salts"]:
                raise ProverError(
                    f"{name} has shape {vector.values.shape} and {len(vector.salts)} salts",
                    why=f"the circuit wants {shape} and {spec.parts(name)['salts']}",
                )
            if int(np.abs(vector.values).max()) > spec.weight_limit:
                raise ProverError(f"{name} holds a value outside the circuit's range of {spec.weight_limit}")


def curvature_context(client_id: str, manifest_digest: str, number: int, circuit_digest: str, nonce: str) -> int:
    """Hash everything the proof about one curvature factor must not be detached from to one field element.

    Parameters
    ----------
    client_id, manifest_digest, nonce : str
        As in the enrolment that commits to the factor.
    number : int
        Position of the factor among the enrolment's.
    circuit_digest : str
        SHA-256 (hex) of the verification key of this statement's circuit.

    Returns
    -------
    int
        In ``[0, MODULUS)``; SHA-512 reduced, so that the bias is below 2**-257.
    """
    message = encode_parts(
        "zkapex:curvature-context:v1", client_id, manifest_digest, str(number), circuit_digest, nonce
    )
    return int.from_bytes(hashlib.sha512(message).digest(), "big") % MODULUS


def same_commitments(circuit: Circuit, enrolled: Circuit) -> None:
    """Return only if a commitment to a factor is the same in both circuits.

    Raises
    ------
    InputError
        If their reference strings, heights, blinding rows or factors differ.
    """
    sides = [
        (c.srs.digest, c.spec.log2_rows, c.column_rows, c.spec.factor_shape, c.spec.parts("factor"))
        for c in (circuit, enrolled)
    ]
    if sides[0] != sides[1]:
        raise InputError(
            "the circuit of the curvature proof commits to factors otherwise than the one they are enrolled for",
            fix="use the same profile and reference string for both",
        )


def prove_curvature(circuit: Circuit, public: MomentPublic, witness: MomentWitness) -> bytes:
    """The raw proof that `witness` satisfies the statement.

    Raises
    ------
    InputError
        If a public number is out of range.
    ProverError
        If the witness does not satisfy the statement, or ezkl fails.
    """
    private = witness.private(circuit.spec, public)
    proof, outputs = prove_vectors(circuit, complete(circuit, public, private))
    if outputs != public.outputs(circuit.spec):
        raise ProverError(
            "the witness does not satisfy the statement",
            why=f"public outputs are {outputs}, expected {public.outputs(circuit.spec)}",
            fix="report this as a defect",
        )
    return proof


def verify_curvature(
    circuit: Circuit,
    public: MomentPublic,
    factor: Point,
    activations: Point,
    proof: bytes,
    largest_per_mille: int = LARGEST_PER_MILLE,
) -> None:
    """Check one proof against what the verifier itself expects; return only if everything holds.

    Parameters
    ----------
    factor, activations : Point
        Commitments the client has signed: to the enrolled factor, and to its activations.
    largest_per_mille : int
        The largest tolerance to accept.

    Raises
    ------
    InputError
        If a public number is out of range, or the tolerance larger than accepted.
    CommitmentError
        If a commitment is malformed or not the expected one.
    ProofError
        If the proof is malformed or does not verify.
    """
    public.check()
    if public.per_mille > largest_per_mille:
        raise InputError(
            f"the curvature is claimed to be within {public.per_mille} per mille of the activations' second moment",
            why=f"at most {largest_per_mille} are accepted",
        )
    if circuit.proof_bytes and len(proof) != circuit.proof_bytes:
        raise ProofError(f"a proof has {len(proof)} bytes, this circuit's have {circuit.proof_bytes}")
    points = leading_points(circuit.spec, proof)
    own = commit(circuit, public.vector(circuit.spec, challenge(circuit, public, points)))
    wanted = {
        "factor": (factor, "the curvature that was enrolled"),
        "activations": (activations, "the activations that were announced"),
        "public": (own, "this enrolment's scale, tolerance and context"),
    }
    for name, (point, meaning) in wanted.items():
        if points[name] != point:
            raise CommitmentError(f"the proof does not commit to {meaning}", why=f"commitment {name!r} differs")
    verify_exactly(circuit, public.outputs(circuit.spec), proof)

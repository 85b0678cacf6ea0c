"""Proving and verifying one chunk.

The prover commits to its private vectors first; the challenge that the statement is checked at is a hash of those
commitments (see `zkapex.circuits.operators.guarded_group_obs`), and only then is the public vector, which is derived
from it, fixed.

The verifier trusts nothing it is sent but the raw proof bytes: it rebuilds the proof object from them, its own
instances, its own settings and its own verification key, recomputes the public commitment, and compares the other
leading commitments with the ones that were enrolled or signed before.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ezkl

from zkapex.circuits.field import MODULUS
from zkapex.circuits.halo2.store import Circuit
from zkapex.circuits.statement import StatementSpec
from zkapex.errors import CommitmentError, ProofError, ProverError
from zkapex.proofs.chunk.commitment import POINT_BYTES, Point, commit
from zkapex.proofs.chunk.public import PublicInputs
from zkapex.proofs.chunk.witness import Witness, check_lookups
from zkapex.proofs.records.record import encode_parts


class Public(Protocol):
    """What is agreed on before a proof exists: `PublicInputs`, or another statement's."""

    def digest(self, spec: StatementSpec) -> str:
        """SHA-256 (hex) of all of it."""

    def vector(self, spec: StatementSpec, challenge: int) -> list[str]:
        """The public committed vector."""


def complete(circuit: Circuit, public: Public, private: Mapping[str, list[str]]) -> list[list[str]]:
    """The committed vectors in the circuit's order, from the private ones: derives the challenge."""
    points = {name: commit(circuit, vector) for name, vector in private.items()}
    vectors = {**private, "public": public.vector(circuit.spec, challenge(circuit, public, points))}
    return [vectors[name] for name in circuit.spec.inputs]


def challenge(circuit: Circuit, public: Public, points: Mapping[str, Point]) -> int:
    """The point at which the statement is checked, fixed by everything that enters it.

    Parameters
    ----------
    points : mapping of str to Point
        Commitments to (at least) the private vectors.

    Returns
    -------
    int
        In ``[0, MODULUS)``; SHA-512 reduced, so that the bias is below 2**-257.
    """
    private = [points[name].to_bytes() for name in circuit.spec.inputs if name != "public"]
    message = encode_parts("zkapex:challenge:v2", circuit.vk_digest, public.digest(circuit.spec), *private)
    return int.from_bytes(hashlib.sha512(message).digest(), "big") % MODULUS


@dataclass(frozen=True)
class Expected:
    """The commitments a proof must start with.

    Attributes
    ----------
    theta_u : Point
        Announced in the signed response.
    theta_p : Point, optional
        Enrolled, or last accepted; not for mask-only.
    factor : Point, optional
        Curvature factor that was enrolled; for guarded-group-obs.
    """

    theta_u: Point
    theta_p: Point | None = None
    factor: Point | None = None


def prove_chunk(circuit: Circuit, public: PublicInputs, witness: Witness) -> bytes:
    """The raw proof that `witness` satisfies the statement.

    Raises
    ------
    ProverError
        If the witness does not satisfy it, or ezkl fails.
    """
    private = witness.private(circuit.spec, public)
    proof, outputs = prove_vectors(circuit, complete(circuit, public, private))
    expected = public.outputs(circuit.spec, challenge(circuit, public, leading_points(circuit.spec, proof)))
    if outputs != expected:
        raise ProverError(
            "the witness does not satisfy the statement",
            why=f"public outputs are {outputs}, expected {expected}",
            fix="recompute the change for this mask and guard",
        )
    return proof


def prove_vectors(circuit: Circuit, vectors: Sequence[Sequence[str]]) -> tuple[bytes, list[str]]:
    """Prove whatever the circuit makes of its committed vectors; returns the raw proof and the public outputs.

    A verifier accepts the proof only with these outputs, and ours accepts no outputs but those it expects.

    Raises
    ------
    ProverError
        If a value is outside the lookup, or ezkl fails.
    """
    check_lookups(circuit.spec, dict(zip(circuit.spec.inputs, vectors, strict=True)))
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


def leading_points(spec: StatementSpec, proof: bytes) -> dict[str, Point]:
    """The commitments a proof opens with, by name of the committed vector.

    Raises
    ------
    ProofError, CommitmentError
        If the proof is too short, or a commitment is malformed.
    """
    if len(proof) < len(spec.inputs) * POINT_BYTES:
        raise ProofError(f"a proof of {len(proof)} bytes is too short")
    return {n: Point.from_bytes(proof[i * POINT_BYTES : (i + 1) * POINT_BYTES]) for i, n in enumerate(spec.inputs)}


def verify_chunk(circuit: Circuit, public: PublicInputs, expected: Expected, proof: bytes, empty: Point) -> None:
    """Check one proof against what the verifier itself expects; return only if everything holds.

    Parameters
    ----------
    empty : Point
        `zkapex.proofs.chunk.commitment.empty_commitment` of the circuit.

    Raises
    ------
    CommitmentError
        If a commitment is malformed or not the expected one.
    ProofError
        If the proof is malformed or does not verify.
    """
    if circuit.proof_bytes and len(proof) != circuit.proof_bytes:
        raise ProofError(f"a proof has {len(proof)} bytes, this circuit's have {circuit.proof_bytes}")
    spec = circuit.spec
    points = leading_points(spec, proof)
    z = challenge(circuit, public, points)
    wanted = {
        "theta_u": expected.theta_u,
        "delta": None if expected.theta_p is None else expected.theta_u - expected.theta_p + empty,
        "factor": expected.factor,
        "public": commit(circuit, public.vector(spec, z)),
    }
    meaning = {
        "theta_u": "the weights after unlearning that were announced",
        "delta": "the difference between the announced and the enrolled weights",
        "factor": "the curvature that was enrolled",
        "public": "this request's mask, guard, tolerances and context",
    }
    for name in spec.inputs:
        if name == "aux":  # bound by nothing but the proof itself
            continue
        if points[name] != wanted[name]:
            raise CommitmentError(f"the proof does not commit to {meaning[name]}", why=f"commitment {name!r} differs")
    verify_exactly(circuit, public.outputs(spec, z), proof)


def verify_exactly(circuit: Circuit, outputs: list[str], proof: bytes) -> None:
    """As `verify_raw`, and nothing may follow the proof.

    Halo2 ignores what does. Where the length of a circuit's proofs is not known beforehand, a proof has no end too many
    if it is none without its last byte.

    Raises
    ------
    ProofError
        Whenever it is not accepted.
    """
    verify_raw(circuit, outputs, proof)
    if circuit.proof_bytes:
        return
    try:
        verify_raw(circuit, outputs, proof[:-1])
    except ProofError:
        return
    raise ProofError(f"a proof of {len(proof)} bytes goes on after its end")


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
            raise ProofError(circuit.spec.statement.rejected, why=" ".join(str(e).split())[:300]) from e
    if accepted is not True:
        raise ProofError(circuit.spec.statement.rejected)

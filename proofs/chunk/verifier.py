"""Checking the proofs of one request, with keys built here, against the commitments before and after."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from zkapex.circuits.halo2.srs import Srs
from zkapex.circuits.halo2.store import Circuit, circuit, verification_circuit
from zkapex.circuits.statement import StatementSpec
from zkapex.errors import ProverError, ReceiptError, ResourceError
from zkapex.proofs.chunk.commitment import Point, empty_commitment
from zkapex.proofs.chunk.instance import Instance, place
from zkapex.proofs.chunk.prove import Expected, verify_chunk
from zkapex.proofs.messages import CurvatureCheck, ModelManifest


def circuit_of(manifest: ModelManifest, srs: Srs, *, proving: bool = True) -> Circuit:
    """The manifest's circuit, built here from its specification rather than taken from whoever claims it.

    Parameters
    ----------
    proving : bool
        Whether a proving key is needed.

    Raises
    ------
    ReceiptError
        If no keys can be built from what the manifest names, or they are not those it names.
    """
    return _built(manifest.statement, srs, manifest, manifest, proving)


def check_circuit_of(manifest: ModelManifest, srs: Srs, *, proving: bool = True) -> Circuit | None:
    """Likewise the circuit of the manifest's curvature check; None if it has none."""
    check = manifest.curvature_check
    return None if check is None else _built(check.statement, srs, check, manifest, proving)


def _built(
    statement: StatementSpec, srs: Srs, claimed: ModelManifest | CurvatureCheck, of: ModelManifest, proving: bool
) -> Circuit:
    try:
        built = circuit(statement, srs) if proving else verification_circuit(statement, srs)
    except ResourceError:
        raise
    except ProverError as e:
        raise ReceiptError(
            "the manifest's statement and reference string make no circuit", why=f"{e.what}: {e.why}"
        ) from e
    for name, ours, theirs in (
        ("verification key", built.vk_digest, claimed.circuit_digest),
        ("settings", built.settings_digest, claimed.settings_digest),
        ("reference string", srs.digest, of.srs_digest),
    ):
        if ours != theirs:
            raise ReceiptError(
                f"the manifest's {name} is not the one its statement has",
                why=f"built here: {ours[:16]}..., claimed: {(theirs or 'none')[:16]}...",
                fix="whoever made it used another circuit or another release; do not accept it",
            )
    return built


class ChunkVerifier:
    """Checks the proofs of one request against the commitments before and after.

    Parameters
    ----------
    built : Circuit
    instance : Instance
    curvature : sequence of str
        Enrolled commitments to curvature factors (hex points), `ModelManifest.n_curvatures` of them.
    pre, post : sequence of str
        Theta commitments of all chunks (hex points) before and after.
    """

    def __init__(
        self,
        built: Circuit,
        instance: Instance,
        curvature: Sequence[str],
        pre: Sequence[str],
        post: Sequence[str],
    ) -> None:
        self._circuit = built
        self._instance = instance
        self._curvature, self._pre, self._post = tuple(curvature), tuple(pre), tuple(post)
        self._empty = empty_commitment(built)

    def verify(self, chunk: int, proof: bytes) -> float:
        """Return only if `proof` proves `chunk`; the CPU seconds that took.

        Raises
        ------
        CommitmentError, ProofError
            Otherwise.
        """
        where = place(self._instance.manifest, chunk)
        expected = Expected(
            theta_u=Point.from_hex(self._post[chunk]),
            theta_p=Point.from_hex(self._pre[chunk]) if "delta" in self._circuit.spec.inputs else None,
            factor=Point.from_hex(self._curvature[where.curvature]) if self._curvature else None,
        )
        start = time.process_time()
        verify_chunk(self._circuit, self._instance.public(chunk), expected, proof, self._empty)
        if not self._circuit.proof_bytes:  # this one had no byte too many
            self._circuit = replace(self._circuit, proof_bytes=len(proof))
        return time.process_time() - start

"""Verifying a receipt offline: the signatures, the digests, the chain, and every zero-knowledge proof in it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from zkapex.circuits.store import Circuit, Srs, circuit, find_srs, import_srs
from zkapex.errors import InputError, ProverError, ReceiptError, ResourceError
from zkapex.proofs.bundle import Bundle, read_bundle
from zkapex.proofs.certificate import request_distance
from zkapex.proofs.chunk import Expected, verify_chunk
from zkapex.proofs.commitment import Point, empty_commitment
from zkapex.proofs.instance import Instance, place
from zkapex.proofs.messages import ModelManifest


@dataclass(frozen=True)
class Verified:
    """A receipt that passed every check.

    Attributes
    ----------
    bundle : Bundle
    chunks : int
        Number of zero-knowledge proofs verified.
    cpu_s : float
        CPU seconds the proofs took to verify.
    """

    bundle: Bundle
    chunks: int
    cpu_s: float


def circuit_of(manifest: ModelManifest, srs: Srs) -> Circuit:
    """The manifest's circuit, built here from its specification rather than taken from whoever claims it.

    Raises
    ------
    ReceiptError
        If no keys can be built from what the manifest names, or they are not those it names.
    """
    try:
        built = circuit(manifest.statement, srs)
    except ResourceError:
        raise
    except ProverError as e:
        raise ReceiptError(
            "the manifest's statement and reference string make no circuit", why=f"{e.what}: {e.why}"
        ) from e
    for name, ours, theirs in (
        ("verification key", built.vk_digest, manifest.circuit_digest),
        ("settings", built.settings_digest, manifest.settings_digest),
        ("reference string", srs.digest, manifest.srs_digest),
    ):
        if ours != theirs:
            raise ReceiptError(
                f"the manifest's {name} is not the one its statement has",
                why=f"built here: {ours[:16]}..., claimed: {theirs[:16]}...",
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
            theta_p=Point.from_hex(self._pre[chunk]),
            factor=Point.from_hex(self._curvature[where.curvature]) if self._curvature else None,
        )
        start = time.process_time()
        verify_chunk(self._circuit, self._instance.public(chunk), expected, proof, self._empty)
        return time.process_time() - start


def verify_receipt(
    directory: Path,
    trusted: Collection[Ed25519PublicKey] | None = None,
    on_chunk: Callable[[int, int], None] = lambda done, total: None,
) -> Verified:
    """Verify the receipt in `directory`; return only if everything in it holds.

    Parameters
    ----------
    trusted : collection of public keys, optional
        Keys a server may sign with; None accepts the key the receipt names, which detects alteration but not invention.
    on_chunk : callable
        Called with (verified, total) after each proof.

    Raises
    ------
    VerificationError
        Or one of its subclasses, naming the first thing that is wrong.
    """
    bundle = read_bundle(directory, trusted)
    dossier = bundle.dossier
    if bundle.evidence.srs is not None:
        srs = import_srs(bundle.evidence.srs, dossier.manifest.srs_digest, dossier.manifest.srs_origin)
    else:
        found = find_srs(dossier.manifest.srs_digest, dossier.manifest.srs_origin)
        if found is None:
            raise InputError(
                "the receipt's reference string is not on this machine",
                why=f"SHA-256 {dossier.manifest.srs_digest}",
                fix="obtain the file from its publisher and put it in the key cache's srs folder",
            )
        srs = found
    proofs = bundle.evidence.proofs
    if not proofs:
        return Verified(bundle, 0, 0.0)
    built = circuit_of(dossier.manifest, srs)
    cpu_s = 0.0
    instance = Instance(dossier.manifest, dossier.request.record)
    checker = ChunkVerifier(built, instance, dossier.enrolment.record.curvature, dossier.pre, dossier.post)
    for done, chunk in enumerate(sorted(proofs), 1):
        try:
            cpu_s += checker.verify(chunk, proofs[chunk])
        except InputError as e:  # not the caller's input here, but the request's
            raise ReceiptError(f"request.json is wrong: {e.what}", why=e.why) from e
        on_chunk(done, len(proofs))
    _check_distance(bundle.receipt.outcome.certified_distance, instance)
    return Verified(bundle, len(proofs), cpu_s)


def _check_distance(claimed: float | None, instance: Instance) -> None:
    """Raise ReceiptError for a certified distance other than the one that follows from the request."""
    if claimed is None:
        return
    ours = request_distance(instance)
    if not math.isclose(claimed, ours, rel_tol=1e-9):
        raise ReceiptError(
            "the receipt's certified distance is not the one that follows from its request",
            why=f"claimed: {claimed:g}, computed here: {ours:g}",
            fix="whoever made it used another release, or lied; do not accept it",
        )

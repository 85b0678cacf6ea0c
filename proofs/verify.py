"""Verifying a receipt offline: the signatures, the digests, the chain, and every zero-knowledge proof in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from zkapex.circuits.halo2.srs import Srs, find_srs, import_srs
from zkapex.circuits.halo2.store import Circuit
from zkapex.errors import Error, InputError, ReceiptError
from zkapex.proofs.chunk.enrolled import verify_enrolment
from zkapex.proofs.chunk.verifier import check_circuit_of, circuit_of
from zkapex.proofs.jobs.batch import BatchVerifier
from zkapex.proofs.jobs.claim import Claim
from zkapex.proofs.receipts.bundle import Bundle, read_bundle
from zkapex.proofs.receipts.evidence import Dossier

OnChunk = Callable[[int, int], None]
"""Called with (verified, total) after each proof."""


@dataclass(frozen=True)
class Verified:
    """A receipt that passed every check.

    Attributes
    ----------
    bundle : Bundle
    chunks : int
        Number of zero-knowledge proofs verified.
    cpu_s : float
        CPU seconds the proofs took to verify, those of the enrolment included.
    """

    bundle: Bundle
    chunks: int
    cpu_s: float


def verify_receipt(
    directory: Path,
    trusted: Collection[Ed25519PublicKey] | None = None,
    on_chunk: OnChunk = lambda done, total: None,
    workers: int = 1,
) -> Verified:
    """Verify the receipt in `directory`; return only if everything in it holds.

    Parameters
    ----------
    trusted : collection of public keys, optional
        Keys a server may sign with; None accepts the key the receipt names, which detects alteration but not invention.
    on_chunk : callable
        Called with (verified, total) after each proof.
    workers : int
        Processes that verify proofs; 1 is this process.

    Raises
    ------
    VerificationError
        Or one of its subclasses, naming the first thing that is wrong.
    ResourceError
        Memory or disk cannot suffice for that many workers.
    """
    bundle = read_bundle(directory, trusted)
    dossier, proofs = bundle.dossier, bundle.evidence.proofs
    srs = reference_string(bundle)
    manifest, cpu_s = dossier.manifest, 0.0
    check_circuit = check_circuit_of(manifest, srs)
    if check_circuit is not None:
        cpu_s = verify_enrolment(check_circuit, manifest, dossier.enrolment.record)
    if not proofs:
        return Verified(bundle, 0, cpu_s)
    built = circuit_of(manifest, srs)
    check = _one_by_one if workers == 1 else partial(_together, workers=workers)
    return Verified(bundle, len(proofs), cpu_s + check(built, dossier, proofs, on_chunk))


def reference_string(bundle: Bundle) -> Srs:
    """The reference string a receipt's proofs are made with: the one that comes with it, or this machine's.

    Raises
    ------
    InputError
        It is neither.
    """
    manifest = bundle.dossier.manifest
    if bundle.evidence.srs is not None:
        height = manifest.statement.log2_rows
        return import_srs(bundle.evidence.srs, manifest.srs_digest, height, manifest.srs_origin)
    found = find_srs(manifest.srs_digest, manifest.srs_origin)
    if found is None:
        raise InputError(
            "the receipt's reference string is not on this machine",
            why=f"SHA-256 {manifest.srs_digest}",
            fix="obtain the file from its publisher and put it in the key cache's srs folder",
        )
    return found


def _claim(dossier: Dossier) -> Claim:
    enrolled = dossier.enrolment.record.curvature
    return Claim(dossier.manifest, dossier.request.record, enrolled, dossier.pre, dossier.post)


def _one_by_one(built: Circuit, dossier: Dossier, proofs: Mapping[int, bytes], on_chunk: OnChunk) -> float:
    cpu_s, verifier = 0.0, _claim(dossier).verifier(built)
    for done, chunk in enumerate(sorted(proofs), 1):
        try:
            cpu_s += verifier.verify(chunk, proofs[chunk])
        except Error as e:
            raise _receipts_fault(e) from e
        on_chunk(done, len(proofs))
    return cpu_s


def _together(built: Circuit, dossier: Dossier, proofs: Mapping[int, bytes], on_chunk: OnChunk, workers: int) -> float:
    with BatchVerifier(built, _claim(dossier), workers) as verifier:
        verdicts = verifier.verify(proofs, lambda progress: on_chunk(progress.done, progress.total))
    for chunk in sorted(verdicts):
        error = verdicts[chunk].error
        if error is not None:
            raise _receipts_fault(error)
    return sum(verdict.cpu_s for verdict in verdicts.values())


def _receipts_fault(error: Error) -> Error:
    """The error itself, unless it blames the caller for what the receipt's request says."""
    if isinstance(error, InputError):
        return ReceiptError(f"request.json is wrong: {error.what}", why=error.why)
    return error

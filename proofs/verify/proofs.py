"""That every zero-knowledge proof of a receipt verifies, and that those it calls rejected do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from zkapex.errors import CommitmentError, Error, InputError, ProofError, ReceiptError
from zkapex.proofs.backends import about
from zkapex.proofs.backends.interface import Engine
from zkapex.proofs.jobs.claim import Claim
from zkapex.proofs.receipts.bundle import Bundle
from zkapex.proofs.receipts.evidence import Dossier
from zkapex.proofs.verify.engine import engine_of
from zkapex.proofs.verify.policy import OnChunk, Policy

if TYPE_CHECKING:
    from zkapex.circuits.halo2.srs import Srs


@dataclass(frozen=True)
class Checked:
    """What became of a receipt's proofs, all of which are as the receipt says.

    Attributes
    ----------
    any : bool
        Whether there was anything to check.
    chunks : int
        Number of proofs verified.
    cpu_s : float
        CPU seconds that took, what they rest on included.
    srs : Srs or None
        The reference string they were verified with.
    note : str
    """

    any: bool
    chunks: int
    cpu_s: float
    srs: Srs | None
    note: str


def check_proofs(bundle: Bundle, policy: Policy, workers: int, on_chunk: OnChunk) -> Checked:
    """Verify everything in a receipt that is a proof.

    Raises
    ------
    VerificationError
        One does not hold, or one that the receipt calls rejected does; or as `engine_of`.
    """
    dossier, proofs, rejected = bundle.dossier, bundle.evidence.proofs, bundle.evidence.rejected
    manifest, cpu_s = dossier.manifest, 0.0
    if not proofs and not rejected and manifest.curvature_check is None:
        return Checked(False, 0, 0.0, None, "the receipt has none")
    engine, srs = engine_of(bundle, policy)
    note = f"{len(proofs)} verified" + (f", {len(rejected)} rightly rejected" if rejected else "")
    if srs is not None:
        if manifest.curvature_check is not None:
            cpu_s = engine.verify_enrolment(dossier.enrolment.record)
        from zkapex.circuits.halo2.known import ceremony_of

        convinces = (
            "convinces nobody but whoever made it" if manifest.srs_origin == "local" else ceremony_of(srs.digest)
        )
        named = "named by you" if policy.srs == srs.digest else convinces
        note = f"{note}; {manifest.srs_origin} reference string {srs.digest} ({named})"
    else:
        cpu_s = _chain_before(engine, bundle)
        note = f"{note}; no reference string: convinces anybody ({about(manifest.backend).review})"
    if proofs:
        together = workers > 1 and engine.circuit is not None
        check = partial(_together, workers=workers) if together else _one_by_one
        cpu_s += check(engine, dossier, proofs, on_chunk)
    _check_rejected(engine, dossier, rejected)
    return Checked(True, len(proofs), cpu_s, srs, note)


def _chain_before(engine: Engine, bundle: Bundle) -> float:
    """Check what the proofs of a request rest on: the enrolled states of its layers, and every change of them since."""
    dossier, touched = bundle.dossier, set(bundle.dossier.instance.touched)
    # What a receipt says of curvature, it says of all of it.
    units = None if dossier.manifest.curvature_check is not None else sorted(touched)
    cpu_s = engine.verify_enrolment(dossier.enrolment.record, units)
    for number, link in enumerate(dossier.links):
        claim = Claim(dossier.manifest, link.instance.request, (), link.pre, link.post)
        verifier = engine.verifier(claim)
        for chunk in sorted(touched & set(link.instance.touched)):
            try:
                cpu_s += verifier.verify(chunk, bundle.evidence.before[number, chunk])
            except Error as e:
                fault = _receipts_fault(e)
                raise type(fault)(
                    f"request {link.instance.request.request_id}, which this one starts from: {fault.what}",
                    why=fault.why,
                ) from e
    return cpu_s


def _claim(dossier: Dossier) -> Claim:
    enrolled = dossier.enrolment.record.curvature
    return Claim(dossier.manifest, dossier.request.record, enrolled, dossier.pre, dossier.post)


def _one_by_one(engine: Engine, dossier: Dossier, proofs: Mapping[int, bytes], on_chunk: OnChunk) -> float:
    cpu_s, verifier = 0.0, engine.verifier(_claim(dossier))
    for done, chunk in enumerate(sorted(proofs), 1):
        try:
            cpu_s += verifier.verify(chunk, proofs[chunk])
        except Error as e:
            raise _receipts_fault(e) from e
        on_chunk(done, len(proofs))
    return cpu_s


def _together(engine: Engine, dossier: Dossier, proofs: Mapping[int, bytes], on_chunk: OnChunk, workers: int) -> float:
    if engine.circuit is None:
        raise InputError("proofs of this backend are verified in this process")
    from zkapex.proofs.jobs.batch import BatchVerifier

    with BatchVerifier(engine.circuit, _claim(dossier), workers) as verifier:
        verdicts = verifier.verify(proofs, lambda progress: on_chunk(progress.done, progress.total))
    for chunk in sorted(verdicts):
        error = verdicts[chunk].error
        if error is not None:
            raise _receipts_fault(error)
    return sum(verdict.cpu_s for verdict in verdicts.values())


def _check_rejected(engine: Engine, dossier: Dossier, rejected: Mapping[int, bytes]) -> None:
    """Return only if none of the proofs that were refused is a good one."""
    verifier = engine.verifier(_claim(dossier))
    for chunk in sorted(rejected):
        try:
            verifier.verify(chunk, rejected[chunk])
        except (ProofError, CommitmentError):
            continue
        except Error as e:
            raise _receipts_fault(e) from e
        raise ReceiptError(
            f"the proof of chunk {chunk} was rejected, and is valid",
            why="the client has proved what was asked; the receipt says otherwise",
            fix="show both to whoever issued the receipt",
        )


def _receipts_fault(error: Error) -> Error:
    """The error itself, unless it blames the caller for what the receipt's request says."""
    if isinstance(error, InputError):
        return ReceiptError(f"request.json is wrong: {error.what}", why=error.why)
    return error

"""Verifying a receipt offline: the one public entry, with a policy that says whom and what the verifier relies on.

Five depths, each reached, not reached, or failed, which raises:

``signature``  a key that is pinned has signed it, while its signatures counted
``evidence``   the files are those that were signed, belong together, and the receipt says what they say
``proofs``     every zero-knowledge proof verifies; the rejected ones of a failed receipt do not
``time``       a timestamping authority, or witnesses of a log, say by when it existed
``ledger``     it is in a log that is relied on, seen by enough witnesses, and its issuer has not withdrawn it
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from zkapex.errors import (
    CommitmentError,
    Error,
    InputError,
    LedgerError,
    NotPinnedError,
    ProofError,
    ReceiptError,
    SignatureError,
    VerificationError,
)
from zkapex.proofs.backends import about, backend
from zkapex.proofs.backends.interface import Engine
from zkapex.proofs.jobs.claim import Claim
from zkapex.proofs.keys.trust import Trust
from zkapex.proofs.ledger.note import VerifierKey
from zkapex.proofs.ledger.policy import LogPolicy
from zkapex.proofs.ledger.proof import Logged, LogProof
from zkapex.proofs.receipts.bundle import Bundle, check_files, open_signed, read_files
from zkapex.proofs.receipts.evidence import Dossier
from zkapex.proofs.receipts.receipt import Outcome, Receipt
from zkapex.proofs.receipts.status import check_status
from zkapex.proofs.records.envelope import peek
from zkapex.proofs.records.record import sha256_hex

if TYPE_CHECKING:
    from zkapex.circuits.halo2.srs import Srs
    from zkapex.proofs.receipts.timestamp import Authorities

OnChunk = Callable[[int, int], None]
"""Called with (verified, total) after each proof."""

DepthName = Literal["signature", "evidence", "proofs", "time", "ledger"]
DEPTHS: tuple[DepthName, ...] = ("signature", "evidence", "proofs", "time", "ledger")


@dataclass(frozen=True)
class Depth:
    """How far one depth of verification got.

    Attributes
    ----------
    name : str
    result : str
        ``reached``, ``not reached`` (nothing was given to check, or to check it by) or ``failed``.
    note : str
        What was found, or is missing.
    """

    name: DepthName
    result: Literal["reached", "not reached", "failed"]
    note: str


@dataclass(frozen=True)
class Policy:
    """Whom and what a verifier relies on.

    Attributes
    ----------
    trust : Trust
        Keys a provider may sign with; without any, what a receipt says of itself is checked and nothing is pinned.
    srs : str or None
        SHA-256 (hex) of the reference string the verifier trusts; a receipt with another one is refused.
    srs_file : Path or None
        Where the reference string is, if it is not in the cache.
    logs : LogPolicy or None
        Logs and witnesses.
    authorities : Authorities or None
        Timestamping authorities.
    clients : frozenset of str or None
        Ids of clients that are known to exist; a receipt about another one is refused.
    now : datetime
        The verifier's clock.
    workers : int
        Processes that verify proofs; 1 is this process.
    statuses : tuple of bytes
        Signed words about receipts, besides those in the receipt's folder.
    """

    trust: Trust = field(default_factory=Trust)
    srs: str | None = None
    srs_file: Path | None = None
    logs: LogPolicy | None = None
    authorities: Authorities | None = None
    clients: frozenset[str] | None = None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    workers: int = 1
    statuses: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Verified:
    """A receipt that passed every check there was something to check it by.

    Attributes
    ----------
    bundle : Bundle
    chunks : int
        Number of zero-knowledge proofs verified.
    cpu_s : float
        CPU seconds the proofs took to verify, those of the enrolment included.
    depths : tuple of Depth
    srs : Srs or None
        The reference string the proofs were verified with; None if there were none.
    """

    bundle: Bundle
    chunks: int
    cpu_s: float
    depths: tuple[Depth, ...] = ()
    srs: Srs | None = None

    def require_pinned(self) -> None:
        """Raise NotPinnedError unless the receipt is signed by a key the verifier had named."""
        if not self.bundle.receipt.pinned:
            raise NotPinnedError(
                "the receipt is consistent, but anybody could have made it up",
                why="no key was named whose signature would mean something",
                fix="get the provider's public key from a source you trust, and name it with --trust",
            )


def verify_receipt(
    directory: Path,
    policy: Policy | Collection[Ed25519PublicKey] | None = None,
    on_chunk: OnChunk = lambda done, total: None,
    workers: int | None = None,
    depths: list[Depth] | None = None,
) -> Verified:
    """Verify the receipt in `directory`, or in a ``.zip`` of it; return only if everything in it holds.

    Parameters
    ----------
    policy : Policy, or collection of public keys, optional
        Whom the verifier relies on. Without any key the receipt's own is used, which detects alteration but not
        invention: `Verified.require_pinned` tells.
    on_chunk : callable
        Called with (verified, total) after each proof.
    workers : int, optional
        Instead of the policy's.
    depths : list of Depth, optional
        Filled as verification goes on, so that whoever catches an error sees how far it got.

    Raises
    ------
    VerificationError
        Or one of its subclasses, naming the first thing that is wrong.
    ResourceError
        Memory or disk cannot suffice for that many workers.
    """
    if not isinstance(policy, Policy):
        policy = Policy(trust=Trust.of(policy or ()))
    return _Verification(policy, on_chunk, workers or policy.workers, [] if depths is None else depths).run(directory)


def read_trusted(path: Path, policy: Policy) -> Bundle:
    """Read a receipt and check everything in it but the proofs, and that its signer's key counts, as `verify_receipt`.

    Raises
    ------
    VerificationError
        As `verify_receipt`; SignatureError if the policy names no key.
    """
    if not policy.trust.keys:
        raise SignatureError("nobody was named whose signature would count", fix="name the provider's key with --trust")
    return _Verification(policy, lambda done, total: None, 1, []).read(path).bundle


@dataclass(frozen=True)
class _Read:
    """A receipt whose signature and evidence were reached, and what says by when it existed."""

    bundle: Bundle
    files: Mapping[str, bytes]
    stamped: datetime | None
    logged: Logged | None


class _Verification:
    """One receipt on its way through the depths."""

    def __init__(self, policy: Policy, on_chunk: OnChunk, workers: int, depths: list[Depth]) -> None:
        self._policy = policy
        self._on_chunk = on_chunk
        self._workers = workers
        self._depths = depths
        self._at: DepthName = "signature"

    def run(self, path: Path) -> Verified:
        try:
            verified = self._run(path)
        except VerificationError as error:
            self._reach(self._at, "failed", error.what)
            raise
        self._depths.sort(key=lambda depth: DEPTHS.index(depth.name))
        return Verified(verified.bundle, verified.chunks, verified.cpu_s, tuple(self._depths), verified.srs)

    def read(self, path: Path) -> _Read:
        files = read_files(path)
        receipt = open_signed(files, self._policy.trust.public or None)
        self._at = "time"
        stamped = self._stamped(receipt, files)
        self._at = "ledger"
        logged = self._logged(receipt, files)
        witnessed = None if logged is None else logged.witnessed
        self._at = "signature"
        known = min((when for when in (stamped, witnessed) if when is not None), default=None)
        self._signature(receipt, known)
        self._at = "evidence"
        bundle = check_files(receipt, files)
        self._evidence(bundle)
        return _Read(bundle, files, stamped, logged)

    def _run(self, path: Path) -> Verified:
        found = self.read(path)
        bundle, receipt, files, logged = found.bundle, found.bundle.receipt, found.files, found.logged
        self._at = "proofs"
        chunks, cpu_s, srs = self._proofs(bundle)
        self._at = "time"
        if found.stamped is not None:
            when = f"{found.stamped:%Y-%m-%d %H:%M:%S} UTC"
            self._reach("time", "reached", f"existed by {when}, says a timestamping authority")
        elif logged is not None and logged.witnessed is not None:
            self._reach(
                "time", "reached", f"existed by {logged.witnessed:%Y-%m-%d %H:%M:%S} UTC, say witnesses of the log"
            )
        else:
            has = "receipt.tsr" in files
            self._reach("time", "not reached", "name its authority with --tsa" if has else "it has no timestamp")
        self._at = "ledger"
        self._ledger(receipt, files, logged)
        return Verified(bundle, chunks, cpu_s, (), srs)

    def _reach(self, name: DepthName, result: Literal["reached", "not reached", "failed"], note: str) -> None:
        self._depths.append(Depth(name, result, note))

    # -- time and ledger ----------------------------------------------------------------------------------------------

    def _stamped(self, receipt: Receipt, files: Mapping[str, bytes]) -> datetime | None:
        stamp, authorities = files.get("receipt.tsr"), self._policy.authorities
        if stamp is None:
            return None
        if authorities is None:
            from zkapex.proofs.receipts.timestamp import check_imprint

            check_imprint(stamp, peek(receipt.envelope))  # a stamp that is none is refused by whoever comes across it
            return None
        return authorities.check(stamp, peek(receipt.envelope))

    def _logged(self, receipt: Receipt, files: Mapping[str, bytes]) -> Logged | None:
        """That the receipt was logged, and when witnesses saw it; None if nothing shows it to this verifier."""
        proof = files.get("receipt.tlog-proof")
        if self._policy.logs is None or proof is None:
            return None
        return LogProof.from_bytes(proof).verify(receipt.payload_digest, self._policy.logs)

    def _place(self, found: Logged, files: Mapping[str, bytes]) -> str:
        """Where the receipt is in the log, and that its request was there before, if there is a proof of that."""
        note = f"entry {found.index} of {found.size} in {found.origin}"
        if found.witnesses:
            note += f", witnessed by {', '.join(found.witnesses)}"
        if "opened.tlog-proof" in files and self._policy.logs is not None:
            request = sha256_hex(peek(files["request.json"]))
            opened = LogProof.from_bytes(files["opened.tlog-proof"]).verify(request, self._policy.logs)
            if opened.origin == found.origin and opened.index > found.index:
                raise LedgerError("the request was logged after its own receipt")
            note += f"; its request is entry {opened.index}"
        return note

    def _consistent(self, receipt: Receipt, files: Mapping[str, bytes]) -> None:
        """Refuse proofs of inclusion that contradict themselves, or the log the receipt names, relied on or not."""
        outcome = receipt.outcome
        named = outcome.log if isinstance(outcome, Outcome) else None
        request = sha256_hex(peek(files["request.json"]))
        for name, payload in (("receipt.tlog-proof", receipt.payload_digest), ("opened.tlog-proof", request)):
            if name in files:
                proof = LogProof.from_bytes(files[name])
                proof.check_inclusion(payload)
                if named is not None:
                    proof.verify(payload, LogPolicy((VerifierKey.parse(named),)))

    def _ledger(self, receipt: Receipt, files: Mapping[str, bytes], logged: Logged | None) -> None:
        if logged is None:
            self._consistent(receipt, files)
        place = None if logged is None else self._place(logged, files)
        statuses = [*([files["status.json"]] if "status.json" in files else []), *self._policy.statuses]
        keys = self._policy.trust.public or None
        for status in statuses:
            check_status(status, receipt, keys)
        if place is not None:
            self._reach("ledger", "reached", place)
        elif "receipt.tlog-proof" in files:
            self._reach("ledger", "not reached", "name the log and its witnesses with --ledger")
        else:
            self._reach("ledger", "not reached", "it comes without a proof that it was logged")

    # -- signature and evidence ---------------------------------------------------------------------------------------

    def _signature(self, receipt: Receipt, known: datetime | None) -> None:
        policy, outcome = self._policy, receipt.outcome
        if not policy.trust.keys:
            self._reach("signature", "not reached", "no key was named: anybody could have made the receipt up")
            return
        signer = policy.trust.find(receipt.signer)
        signer.check(outcome.issued_at, known, policy.now)
        until = outcome.valid_until if isinstance(outcome, Outcome) else None
        if until is not None and policy.now >= until:
            raise SignatureError(f"the issuer answered for the receipt until {until:%Y-%m-%d %H:%M} UTC, and no longer")
        self._reach("signature", "reached", f"signed by the pinned key {receipt.signer[:16]}…")

    def _evidence(self, bundle: Bundle) -> None:
        facts = bundle.dossier.facts
        if self._policy.clients is not None and facts.client_id not in self._policy.clients:
            raise ReceiptError(
                f"the receipt is about client {facts.client_id[:16]}…, which is none of those that were named"
            )
        number = len(bundle.receipt.files)
        self._reach("evidence", "reached", f"{number} files are those that were signed, and say what the receipt says")

    # -- proofs -------------------------------------------------------------------------------------------------------

    def _proofs(self, bundle: Bundle) -> tuple[int, float, Srs | None]:
        dossier, proofs, rejected = bundle.dossier, bundle.evidence.proofs, bundle.evidence.rejected
        manifest, cpu_s = dossier.manifest, 0.0
        if not proofs and not rejected and manifest.curvature_check is None:
            self._reach("proofs", "not reached", "the receipt has none")
            return 0, 0.0, None
        engine, srs = engine_of(bundle, self._policy)
        note = f"{len(proofs)} verified" + (f", {len(rejected)} rightly rejected" if rejected else "")
        if srs is not None:
            if manifest.curvature_check is not None:
                cpu_s = engine.verify_enrolment(dossier.enrolment.record)
            from zkapex.circuits.halo2.known import ceremony_of

            convinces = (
                "convinces nobody but whoever made it" if manifest.srs_origin == "local" else ceremony_of(srs.digest)
            )
            named = "named by you" if self._policy.srs == srs.digest else convinces
            note = f"{note}; {manifest.srs_origin} reference string {srs.digest} ({named})"
        else:
            cpu_s = _chain_before(engine, bundle)
            note = f"{note}; no reference string: convinces anybody ({about(manifest.backend).review})"
        if proofs:
            together = self._workers > 1 and engine.circuit is not None
            check = partial(_together, workers=self._workers) if together else _one_by_one
            cpu_s += check(engine, dossier, proofs, self._on_chunk)
        _check_rejected(engine, dossier, rejected)
        self._reach("proofs", "reached", note)
        return len(proofs), cpu_s, srs


def engine_of(bundle: Bundle, policy: Policy) -> tuple[Engine, Srs | None]:
    """What checks a receipt's proofs, and the reference string they are for, if its backend has one.

    Raises
    ------
    ReceiptError
        The manifest is not what this release makes of its statement; or as `reference_string`.
    InputError
        What the backend needs is not installed here; or as `reference_string`.
    """
    manifest = bundle.dossier.manifest
    if manifest.backend != "halo2":
        if policy.srs is not None:
            raise ReceiptError(f"the receipt's proofs are of the {manifest.backend} backend, for no reference string")
        return backend(manifest.backend).open(manifest, {}), None
    backend("halo2")  # refused by name where it is not installed
    from zkapex.proofs.backends.halo2 import Halo2Engine
    from zkapex.proofs.chunk.verifier import circuit_of

    srs = reference_string(bundle, policy)
    return Halo2Engine(manifest, circuit_of(manifest, srs, proving=False), proving=False), srs


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


def reference_string(bundle: Bundle, policy: Policy) -> Srs:
    """The reference string of a receipt: from its folder, a file the policy names, or the cache.

    Raises
    ------
    ReceiptError
        It is not the one the verifier trusts, or called imported and of no ceremony anybody knows.
    InputError
        It is nowhere here.
    """
    from zkapex.circuits.halo2.ceremony import height_of
    from zkapex.circuits.halo2.known import ceremony_of
    from zkapex.circuits.halo2.srs import find_srs, import_srs

    manifest = bundle.dossier.manifest
    digest, height, origin = manifest.srs_digest, manifest.statement.log2_rows, manifest.srs_origin
    if digest is None or origin is None:
        raise ReceiptError("the receipt's manifest names no reference string")
    if policy.srs is not None and policy.srs != digest:
        raise ReceiptError(
            "the receipt's proofs are for another reference string than the one you trust", why=f"SHA-256 {digest}"
        )
    if origin == "imported" and policy.srs is None and ceremony_of(digest) is None:
        raise ReceiptError(
            "the receipt calls its reference string imported, and it is of no ceremony that is known here",
            why=f"SHA-256 {digest}: whoever made it up could forge proofs",
            fix="if you trust where it is from, name it with --srs",
        )
    data = bundle.evidence.srs
    if data is None and policy.srs_file is not None:
        try:
            data = policy.srs_file.read_bytes()
        except OSError as error:
            raise InputError(f"the reference string {policy.srs_file} could not be read", why=str(error)) from error
    if data is not None:
        return import_srs(data, digest, height, origin)
    found = find_srs(digest, origin)
    if found is None:
        raise InputError(
            "the receipt's reference string is not on this machine",
            why=f"SHA-256 {digest}",
            fix="obtain the file from its publisher and name it with --srs, or keep it with `zkapex srs import`",
        )
    if height_of(found.path) != height:
        raise ReceiptError("the receipt's reference string is for circuits of another height")
    return found


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

"""One receipt on its way through the depths."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from zkapex.errors import LedgerError, ReceiptError, SignatureError, VerificationError
from zkapex.proofs.keys.trust import Trust
from zkapex.proofs.ledger.note import VerifierKey
from zkapex.proofs.ledger.policy import LogPolicy
from zkapex.proofs.ledger.proof import Logged, LogProof
from zkapex.proofs.receipts.bundle import Bundle, check_files, open_signed, read_files
from zkapex.proofs.receipts.receipt import Outcome, Receipt
from zkapex.proofs.receipts.status import check_status
from zkapex.proofs.records.envelope import peek
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.verify.policy import DEPTHS, Depth, DepthName, OnChunk, Policy, Verified
from zkapex.proofs.verify.proofs import check_proofs


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
        checked = check_proofs(bundle, self._policy, self._workers, self._on_chunk)
        self._reach("proofs", "reached" if checked.any else "not reached", checked.note)
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
        return Verified(bundle, checked.chunks, checked.cpu_s, (), checked.srs)

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

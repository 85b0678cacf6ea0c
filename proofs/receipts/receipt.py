"""The deletion receipt: an in-toto Statement v1 with a predicate of our own, signed by the server in a DSSE envelope.

A receipt states *facts*, which follow from the evidence that travels with it (:mod:`zkapex.proofs.receipts.evidence`),
and an *outcome*, which is the server's word: the verdict and why, the certified distance, the time.

The receipt proves nothing by itself: that the proofs in it verify is checked by :mod:`zkapex.proofs.verify`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, model_validator

from zkapex.errors import ReceiptError
from zkapex.proofs.messages import MAX_CHUNKS
from zkapex.proofs.receipts.evidence import Dossier, Evidence, Facts, derive
from zkapex.proofs.receipts.sentences import sentences
from zkapex.proofs.records.record import Count, Digest, Name, Part, PublicKeyHex, Record, Sentence, UtcTime, sha256_hex
from zkapex.proofs.records.sealed import Sealed, unseal
from zkapex.proofs.records.signing import Envelope, public_key_from_hex, public_key_hex, sign

Verdict = Literal["proved", "failed", "unreachable"]
FilePath = Annotated[str, Field(max_length=64, pattern=r"^[a-z]+(/[a-z0-9]+)?\.(json|bin)$")]


class FileEntry(Part):
    """One file that belongs to the receipt."""

    path: FilePath
    size: Count
    sha256: Digest


class Outcome(Part):
    """What the server adds to the facts."""

    verdict: Verdict
    reasons: Annotated[tuple[Sentence, ...], Field(max_length=16)] = ()
    chunks_proved: Count
    """Number of drawn chunks whose proof was accepted."""
    certified_distance: Annotated[float, Field(ge=0)] | None = None
    """Bound on the 2-norm, in weight units, between the proved and the exact step, over all drawn chunks together."""
    audit_seed: Digest | None = None
    issued_at: UtcTime

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.verdict == "proved") == bool(self.reasons):
            raise ValueError("reasons belong to a verdict other than 'proved', and must then be given")
        return self


class Predicate(Part):
    """The predicate of a receipt."""

    facts: Facts
    outcome: Outcome
    shows: Annotated[tuple[Sentence, ...], Field(min_length=1, max_length=16)]
    does_not_show: Annotated[tuple[Sentence, ...], Field(min_length=1, max_length=16)]
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1, max_length=MAX_CHUNKS + 1024)]
    server_key: PublicKeyHex


class Subject(Part):
    """An in-toto subject: a name and its digest by algorithm."""

    name: Name
    digest: Annotated[dict[Annotated[str, Field(max_length=32)], Digest], Field(min_length=1, max_length=1)]


class Statement(Record):
    """An in-toto Statement v1 around the predicate. Its subjects repeat digests of the facts for generic tools."""

    kind: ClassVar[str] = "receipt"
    version_field: ClassVar[str] = "predicate_type"

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = (
        "https://in-toto.io/Statement/v1"
    )
    subject: Annotated[tuple[Subject, ...], Field(min_length=1, max_length=8)]
    predicate_type: Annotated[Literal["urn:zkapex:receipt:v1"], Field(alias="predicateType")] = "urn:zkapex:receipt:v1"
    predicate: Predicate

    @classmethod
    def payload_type(cls) -> str:
        """Return in-toto's payload type, so that its tools recognise the envelope."""
        return "application/vnd.in-toto+json"


@dataclass(frozen=True)
class Receipt:
    """A receipt whose signature was verified.

    `pinned` says by which key: one the caller trusted beforehand, or merely the one named in the receipt. The latter
    detects alteration, but not a receipt that somebody else made up.
    """

    statement: Statement
    envelope: bytes
    pinned: bool

    @property
    def facts(self) -> Facts:
        """What follows from the evidence."""
        return self.statement.predicate.facts

    @property
    def outcome(self) -> Outcome:
        """What the server adds to the facts."""
        return self.statement.predicate.outcome

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The files the evidence is in."""
        return self.statement.predicate.files


def issue(evidence: Evidence, outcome: Outcome, key: Ed25519PrivateKey) -> Receipt:
    """Derive the facts from the evidence, check that the outcome fits them, and sign both.

    Raises
    ------
    ReceiptError, SignatureError, FormatVersionError
        The evidence is not sound (see :func:`zkapex.proofs.receipts.evidence.derive`) or the outcome contradicts it.
    """
    dossier = derive(evidence, outcome.audit_seed, [key.public_key()])
    _check_outcome(dossier, evidence, outcome)
    statement = _state(dossier.facts, outcome, evidence, public_key_hex(key.public_key()))
    envelope = sign(statement.to_bytes(), Statement.payload_type(), key).to_bytes()
    return Receipt(statement, envelope, pinned=True)


def open_receipt(data: bytes, trusted: Collection[Ed25519PublicKey] | None) -> Receipt:
    """Verify the signature of a receipt and parse it.

    Parameters
    ----------
    data : bytes
        The content of ``receipt.json``.
    trusted : collection of public keys, or None
        Keys a server may sign with. None accepts the key the receipt itself names.

    Raises
    ------
    SignatureError
        The receipt is altered, or not signed by a trusted key.
    FormatVersionError
        It is of a version this release does not know.
    ProtocolError
        What was signed is not a receipt.
    """
    keys = trusted
    if keys is None:
        unverified = Statement.from_bytes(Envelope.from_bytes(data).payload)
        keys = [public_key_from_hex(unverified.predicate.server_key)]
    sealed: Sealed[Statement] = unseal(Statement, data, keys)
    return Receipt(sealed.record, sealed.envelope, pinned=trusted is not None)


def check_receipt(receipt: Receipt, files: Mapping[str, bytes]) -> tuple[Evidence, Dossier]:
    """Check that a receipt says what its evidence says; everything but the zero-knowledge proofs.

    Raises
    ------
    ReceiptError, SignatureError, FormatVersionError
        The evidence is not sound, or the receipt says something else; names the part.
    """
    predicate = receipt.statement.predicate
    evidence = Evidence.from_files(files)
    dossier = derive(evidence, predicate.outcome.audit_seed, [public_key_from_hex(predicate.server_key)])
    _check_outcome(dossier, evidence, predicate.outcome)
    expected = _state(dossier.facts, predicate.outcome, evidence, predicate.server_key)
    if expected != receipt.statement:
        raise ReceiptError(
            "the receipt contradicts its evidence", why=f"they differ in {_difference(expected, receipt)}"
        )
    return evidence, dossier


def _check_outcome(dossier: Dossier, evidence: Evidence, outcome: Outcome) -> None:
    if outcome.chunks_proved != len(evidence.proofs):
        raise ReceiptError(f"the receipt counts {outcome.chunks_proved} proofs, but comes with {len(evidence.proofs)}")
    if outcome.issued_at < dossier.facts.requested_at:
        raise ReceiptError("the receipt was issued before the request was made")
    if outcome.verdict != "proved":
        return
    missing = sorted(set(dossier.drawn) - set(evidence.proofs))
    if dossier.response is None or missing:
        what = f"proofs/{missing[0]}.bin" if missing else "response.json"
        raise ReceiptError("the receipt says 'proved' without the evidence for it", why=f"{what} is missing")
    stated, distance = outcome.certified_distance, dossier.certified_distance()
    if (stated is None) != (distance is None) or not math.isclose(stated or 0.0, distance or 0.0, rel_tol=1e-12):
        raise ReceiptError(
            "the receipt states another certified distance than its proofs have",
            why=f"{stated} instead of {distance}",
        )


def _state(facts: Facts, outcome: Outcome, evidence: Evidence, server_key: str) -> Statement:
    roots = [("pre-commitments", facts.pre_root), ("post-commitments", facts.post_root)]
    subjects = [Subject(name=name, digest={"merkleSha256": root}) for name, root in roots if root is not None]
    subjects.append(Subject(name="mask", digest={"sha256": facts.mask_digest}))
    files = evidence.files().items()
    shows, does_not_show = sentences(facts, outcome.verdict)
    predicate = Predicate(
        facts=facts,
        outcome=outcome,
        shows=shows,
        does_not_show=does_not_show,
        files=tuple(FileEntry(path=path, size=len(data), sha256=sha256_hex(data)) for path, data in files),
        server_key=server_key,
    )
    return Statement(subject=tuple(subjects), predicate=predicate)


def _difference(expected: Statement, receipt: Receipt) -> str:
    ours, theirs = expected.predicate, receipt.statement.predicate
    for name in Facts.model_fields:
        if getattr(ours.facts, name) != getattr(theirs.facts, name):
            return f"facts.{name}"
    for name in ("files", "shows", "does_not_show"):
        if getattr(ours, name) != getattr(theirs, name):
            return name
    return "subject"

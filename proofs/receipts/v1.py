"""Receipts of version 1: still verified, and what they lack is said. No longer issued.

Their prose is signed word by word, their subjects are digests rather than files, and they state neither the enrolment
nor its revision, nor earlier attempts; a failed one lacks the proof that was rejected.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from zkapex.errors import ReceiptError
from zkapex.proofs.messages import MAX_CHUNKS, Chunk, Fraction, Tolerance
from zkapex.proofs.receipts.evidence import Dossier, Evidence
from zkapex.proofs.receipts.sentences_v1 import sentences
from zkapex.proofs.records.record import (
    ClientId,
    Count,
    Digest,
    Name,
    Part,
    PublicKeyHex,
    Record,
    RequestId,
    Sentence,
    UtcTime,
    is_none,
    is_zero,
    sha256_hex,
)

PREDICATE_TYPE = "urn:zkapex:receipt:v1"
LACKS = ("v1-prose", "v1-enrolment", "v1-attempts", "v1-rejected", "v1-forgotten", "v1-client")
"""Sayings about what a receipt of this version lacks."""

Verdict = Literal["proved", "failed", "unreachable"]
FilePath = Annotated[str, Field(max_length=64, pattern=r"^[a-z]+(/[a-z0-9]+)?\.(json|bin)$")]


class FactsV1(Part):
    """What follows from the evidence alone."""

    request_id: RequestId
    client_id: ClientId
    federation: Name
    manifest_digest: Digest
    model: Name
    profile: Name
    circuit_digest: Digest
    settings_digest: Digest
    srs_digest: Digest
    srs_origin: Literal["local", "imported"]
    freivalds: bool
    operator: Name
    mask_digest: Digest
    guard_digest: Digest
    tau_s: Tolerance
    tau_g: Tolerance
    forget_digest: Digest
    requested_at: UtcTime
    pre_root: Digest
    post_root: Digest | None
    audit_mode: Literal["full", "sampled"]
    audit_cheating: Fraction | None
    audit_detection: Fraction | None
    chunks_total: Count
    chunks_touched: Count
    chunks_drawn: Annotated[tuple[Chunk, ...], Field(max_length=MAX_CHUNKS)]
    curvature_within: Annotated[float, Field(ge=0, le=2)] | None
    curvature_activations: Count
    enrolment_revision: Annotated[Count | None, Field(exclude_if=is_none)] = None
    attempts: Annotated[Count, Field(exclude_if=is_zero)] = 0


class OutcomeV1(Part):
    """What the server adds to the facts."""

    verdict: Verdict
    reasons: Annotated[tuple[Sentence, ...], Field(max_length=16)] = ()
    chunks_proved: Count
    certified_distance: Annotated[float, Field(ge=0)] | None = None
    audit_seed: Digest | None = None
    issued_at: UtcTime

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.verdict == "proved") == bool(self.reasons):
            raise ValueError("reasons belong to a verdict other than 'proved', and must then be given")
        return self


class FileEntry(Part):
    """One file that belongs to the receipt."""

    path: FilePath
    size: Count
    sha256: Digest


class PredicateV1(Part):
    """The predicate of a receipt of version 1."""

    facts: FactsV1
    outcome: OutcomeV1
    shows: Annotated[tuple[Sentence, ...], Field(min_length=1, max_length=16)]
    does_not_show: Annotated[tuple[Sentence, ...], Field(min_length=1, max_length=16)]
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1, max_length=MAX_CHUNKS + 1024)]
    server_key: PublicKeyHex


class SubjectV1(Part):
    """A name and its digest by algorithm."""

    name: Name
    digest: Annotated[dict[Annotated[str, Field(max_length=32)], Digest], Field(min_length=1, max_length=1)]


class StatementV1(Record):
    """An in-toto Statement v1 around the predicate."""

    kind: ClassVar[str] = "receipt"
    version_field: ClassVar[str] = "predicate_type"

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = (
        "https://in-toto.io/Statement/v1"
    )
    subject: Annotated[tuple[SubjectV1, ...], Field(min_length=1, max_length=8)]
    predicate_type: Annotated[Literal["urn:zkapex:receipt:v1"], Field(alias="predicateType")] = "urn:zkapex:receipt:v1"
    predicate: PredicateV1

    @classmethod
    def payload_type(cls) -> str:
        """Return in-toto's payload type, so that its tools recognise the envelope."""
        return "application/vnd.in-toto+json"

    def files(self) -> dict[str, str]:
        """SHA-256 of every file of the receipt.

        Raises
        ------
        ReceiptError
            One is listed twice.
        """
        found = {entry.path: entry.sha256 for entry in self.predicate.files}
        if len(found) != len(self.predicate.files):
            raise ReceiptError("receipt.json lists a file twice")
        return found


def state(dossier: Dossier, outcome: OutcomeV1, evidence: Evidence, server_key: str) -> StatementV1:
    """What a receipt of version 1 says about this evidence."""
    facts, others = dossier.facts, ("forget_digest", "enrolment_revision")
    fields = {name: getattr(facts, name) for name in FactsV1.model_fields if name not in others}
    named = dossier.request.record.enrolment_digest is not None
    revision = facts.enrolment_revision if named else None
    old = FactsV1(forget_digest=facts.forget_commitment, enrolment_revision=revision, **fields)
    roots = [("pre-commitments", facts.pre_root), ("post-commitments", facts.post_root)]
    subjects = [SubjectV1(name=name, digest={"merkleSha256": root}) for name, root in roots if root is not None]
    subjects.append(SubjectV1(name="mask", digest={"sha256": facts.mask_digest}))
    shows, does_not_show = sentences(old, outcome.verdict)
    predicate = PredicateV1(
        facts=old,
        outcome=outcome,
        shows=shows,
        does_not_show=does_not_show,
        files=tuple(
            FileEntry(path=path, size=len(data), sha256=sha256_hex(data)) for path, data in evidence.files().items()
        ),
        server_key=server_key,
    )
    return StatementV1(subject=tuple(subjects), predicate=predicate)


def difference(expected: StatementV1, stated: StatementV1) -> str:
    """Where two statements differ."""
    ours, theirs = expected.predicate, stated.predicate
    for name in FactsV1.model_fields:
        if getattr(ours.facts, name) != getattr(theirs.facts, name):
            return f"facts.{name}"
    for name in ("files", "shows", "does_not_show"):
        if getattr(ours, name) != getattr(theirs, name):
            return name
    return "subject"

"""The report about one request: what all its receipts come to, and what the controller says of the case; signed.

A receipt is about one client. Who answers for the request as a whole needs the number asked, proved, failed and
not reached, the dates the law counts in, and what the deletion does not cover. Every number follows from the receipts,
which the report names by the digests of their payloads; the rest is the controller's word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, ValidationError, model_validator

from zkapex.errors import InputError, ProtocolError, ReceiptError
from zkapex.proofs.receipts.bundle import Bundle
from zkapex.proofs.receipts.receipt import Outcome, Verdict
from zkapex.proofs.records.envelope import open_envelope, peek
from zkapex.proofs.records.intoto import PAYLOAD_TYPE, InToto, NamedDigest, Sha256
from zkapex.proofs.records.record import (
    Count,
    Digest,
    Name,
    Part,
    PublicKeyHex,
    RequestId,
    Sentence,
    UtcTime,
    sha256_hex,
)
from zkapex.proofs.records.signing import public_key_hex, sign

Ground = Literal["17-1-a", "17-1-b", "17-1-c", "17-1-d", "17-1-e", "17-1-f"]
"""Letters of Article 17(1) of the GDPR."""


class Effect(Part):
    """A measured effect: what a number was before, is now, and is for a model that never saw the data."""

    name: Sentence
    before: float
    after: float
    oracle: float | None = None


class Case(Part):
    """What the controller says of a case; nothing here follows from receipts."""

    controller: Sentence
    contact: Sentence
    complaints: Sentence
    """Where a data subject can complain: the supervisory authority."""
    reference: Sentence
    ground: Ground
    received: UtcTime
    due: UtcTime
    """One month after it was received (Article 12(3)), or three with an extension."""
    extension: Sentence | None = None
    """Why it took longer than one month, which the data subject has been told within the first."""
    completed: UtcTime | None = None
    effects: Annotated[tuple[Effect, ...], Field(max_length=16)] = ()
    quarantined: Count = 0
    refused: Count = 0
    """Clients that were not asked, and why: excluded for earlier cheating, or unwilling."""
    scope: Annotated[tuple[Sentence, ...], Field(max_length=16)] = ()
    """What else was done about the request, in the controller's words: source data, backups, recipients."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.due <= self.received or (self.completed is not None and self.completed < self.received):
            raise ValueError("a case is received before it is due and completed")
        return self


class ReceiptLine(Part):
    """One receipt of the request."""

    client_ref: Annotated[str, Field(max_length=64)]
    """The client's name in this request alone."""
    receipt: Digest
    """SHA-256 of the receipt's payload."""
    request: Digest
    """SHA-256 of the signed request's payload: what was logged before work started."""
    verdict: Verdict
    issued_at: UtcTime


class ReportPredicate(Part):
    """The predicate of a report."""

    request_id: RequestId
    operator: Name
    audit: Literal["full", "sampled"]
    asked: Count
    proved: Count
    failed: Count
    unreachable: Count
    receipts: Annotated[tuple[ReceiptLine, ...], Field(min_length=1, max_length=2**16)]
    case: Case
    server_key: PublicKeyHex
    issued_at: UtcTime

    @model_validator(mode="after")
    def _check(self) -> Self:
        counted = [sum(line.verdict == v for line in self.receipts) for v in ("proved", "failed", "unreachable")]
        if counted != [self.proved, self.failed, self.unreachable] or self.asked != len(self.receipts):
            raise ValueError("the numbers are not those of the receipts")
        if len({line.receipt for line in self.receipts}) != len(self.receipts):
            raise ValueError("a receipt is listed twice")
        return self


class Report(InToto):
    """The in-toto statement about a request; its subjects are the receipts' payloads."""

    kind: ClassVar[str] = "report"

    predicate_type: Annotated[Literal["https://zkapex.example/deletion-report/v1"], Field(alias="predicateType")] = (
        "https://zkapex.example/deletion-report/v1"
    )
    predicate: ReportPredicate


def lines_of(bundles: Sequence[Bundle]) -> tuple[ReceiptLine, ...]:
    """What a report says of each receipt, in the order of their digests.

    Raises
    ------
    ReceiptError
        There is none, or they are of several requests.
    """
    if len({bundle.dossier.facts.request_id for bundle in bundles}) != 1:
        raise ReceiptError("a report is about the receipts of one request")
    lines = []
    for bundle in bundles:
        outcome, facts = bundle.receipt.outcome, bundle.dossier.facts
        lines.append(
            ReceiptLine(
                client_ref=outcome.client_ref if isinstance(outcome, Outcome) else facts.client_id[:32],
                receipt=bundle.receipt.payload_digest,
                request=sha256_hex(peek(bundle.evidence.request)),
                verdict=outcome.verdict,
                issued_at=outcome.issued_at,
            )
        )
    return tuple(sorted(lines, key=lambda line: line.receipt))


def predicate_of(bundles: Sequence[Bundle], case: Case, server_key: str, now: datetime) -> ReportPredicate:
    """What there is to report about the receipts of a request; raises as `lines_of`."""
    lines, facts = lines_of(bundles), bundles[0].dossier.facts
    count = {v: sum(line.verdict == v for line in lines) for v in ("proved", "failed", "unreachable")}
    return ReportPredicate(
        request_id=facts.request_id,
        operator=facts.operator,
        audit=facts.audit_mode,
        asked=len(lines),
        receipts=lines,
        case=case,
        server_key=server_key,
        issued_at=now,
        **count,
    )


def make_report(bundles: Sequence[Bundle], case: Case, key: Ed25519PrivateKey, now: datetime) -> bytes:
    """Sign the report about the receipts of a request; the envelope as a file."""
    predicate = predicate_of(bundles, case, public_key_hex(key.public_key()), now)
    subjects = tuple(
        NamedDigest(name=f"receipt:{line.client_ref}", digest=Sha256(sha256=line.receipt))
        for line in predicate.receipts
    )
    return sign(Report(subject=subjects, predicate=predicate).to_bytes(), PAYLOAD_TYPE, key).to_bytes()


def open_report(data: bytes, trusted: Sequence[Ed25519PublicKey]) -> ReportPredicate:
    """Read a report that one of these keys has signed.

    Raises
    ------
    SignatureError
        None of them has.
    ReceiptError
        It is no report, or names another key than one that has signed it.
    FormatVersionError
        It is of a version this release does not know.
    """
    opened = open_envelope(data, PAYLOAD_TYPE, trusted)
    try:
        report = Report.from_bytes(opened.payload)
    except ProtocolError as error:
        raise ReceiptError(f"the report is wrong: {error.what}", why=error.why) from error
    if [s.digest.sha256 for s in report.subject] != [line.receipt for line in report.predicate.receipts]:
        raise ReceiptError("the report is wrong", why="its subjects are not its receipts")
    if report.predicate.server_key not in [public_key_hex(key) for key in opened.signers]:
        raise ReceiptError("the report is wrong", why="it names another key than the one that has signed it")
    return report.predicate


def check_report(report: ReportPredicate, bundles: Sequence[Bundle], opened: Mapping[str, bytes] | None = None) -> None:
    """Check a report against the receipts of its request, and against requests known to have been opened.

    Parameters
    ----------
    opened : mapping of str to bytes, optional
        Signed requests that were logged as opened, whatever became of them: file name to envelope.

    Raises
    ------
    ReceiptError
        It leaves a receipt or an opened request out, or says something else of one.
    """
    lines = {line.receipt: line for line in report.receipts}
    for line in lines_of(bundles):
        if line.receipt not in lines:
            raise ReceiptError(f"the report leaves out a receipt that says {line.verdict!r}", why=line.receipt)
        if lines[line.receipt] != line:
            raise ReceiptError("the report says something else than a receipt", why=line.receipt)
    if any(bundle.dossier.facts.request_id != report.request_id for bundle in bundles):
        raise ReceiptError("the report is about another request")
    requests = {line.request for line in report.receipts}
    for name, envelope in (opened or {}).items():
        if sha256_hex(peek(envelope)) not in requests:
            raise ReceiptError(
                "the report leaves out a request that was opened",
                why=f"{name} was logged before work started, and has no receipt in the report",
            )


def read_case(data: bytes) -> Case:
    """Read what a controller says of a case, JSON.

    Raises
    ------
    InputError
        It is malformed; names the field.
    """
    try:
        return Case.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise InputError("the description of the case is wrong", why=f"{where}: {first['msg']}") from None

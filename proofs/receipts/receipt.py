"""The deletion receipt: an in-toto Statement v1 with a predicate of our own, signed by the server in a DSSE envelope.

A receipt states *facts*, which follow from the evidence that travels with it (:mod:`zkapex.proofs.receipts.evidence`),
and an *outcome*, which is the server's word: the verdict and why, the certified distance, the time. What it shows and
does not show is signed as identifiers with arguments (:mod:`zkapex.proofs.receipts.sayings`), and put into words by
whoever reads it. Its subjects are the files of the evidence.

The receipt proves nothing by itself: that the proofs in it verify is checked by :mod:`zkapex.proofs.verify`.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, model_validator

from zkapex import __version__
from zkapex.errors import ReceiptError, SignatureError
from zkapex.proofs.messages import MAX_CHUNKS
from zkapex.proofs.receipts import v1
from zkapex.proofs.receipts.evidence import Dossier, Evidence, Facts, derive
from zkapex.proofs.receipts.sayings import DOES_NOT_SHOW, SHOWS, Saying, check_sayings, say
from zkapex.proofs.records.envelope import open_envelope, peek
from zkapex.proofs.records.record import (
    Count,
    Digest,
    Part,
    PublicKeyHex,
    Record,
    Sentence,
    UtcTime,
    is_none,
    sha256_hex,
)
from zkapex.proofs.records.signing import key_id, public_key_from_hex, public_key_hex, sign

PREDICATE_TYPE = "https://zkapex.example/deletion-receipt/v2"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

Verdict = Literal["proved", "failed", "unreachable"]
FilePath = Annotated[str, Field(max_length=64, pattern=r"^[a-z]+(/[a-z0-9]+)?\.(json|bin)$")]
Reference = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""16 random bytes that name a client in one request, and in nothing else."""
LogName = Annotated[str, Field(max_length=512, pattern=r"^[\x21-\x7e]+$")]
"""Of a log: ``name+id+key``, as signed notes have it."""
Version = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9.+-]+( [A-Za-z0-9.+-]+)?$")]


def new_reference() -> str:
    """A name for a client in one request that says nothing about other requests."""
    return secrets.token_hex(16)


class Attempt(Part):
    """An earlier attempt of the same client at the same request, and how it ended."""

    request_digest: Digest
    """SHA-256 of the signed request."""
    verdict: Verdict
    reason: Sentence
    ended_at: UtcTime


class Software(Part):
    """What the receipt was made with."""

    zkapex: Version = __version__
    prover: Version = "ezkl 23.0.5"


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
    client_ref: Reference = Field(default_factory=new_reference)
    earlier_attempts: Annotated[tuple[Attempt, ...], Field(max_length=64)] = ()
    valid_until: UtcTime | None = None
    """Until when the server answers for it; none: as long as its key is valid."""
    software: Software = Field(default_factory=Software)
    log: Annotated[LogName | None, Field(exclude_if=is_none)] = None
    """Key of the log in which the server says the receipt is to be found; whoever verifies need not rely on it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.verdict == "proved") == bool(self.reasons):
            raise ValueError("reasons belong to a verdict other than 'proved', and must then be given")
        if self.valid_until is not None and self.valid_until <= self.issued_at:
            raise ValueError("valid_until must be after issued_at")
        return self


class Predicate(Part):
    """The predicate of a receipt."""

    facts: Facts
    outcome: Outcome
    shows: Annotated[tuple[Saying, ...], Field(min_length=1, max_length=32)]
    does_not_show: Annotated[tuple[Saying, ...], Field(min_length=1, max_length=32)]
    server_key: PublicKeyHex


class FileDigest(Part):
    """SHA-256 of a file."""

    sha256: Digest


class Subject(Part):
    """An in-toto subject: a file of the receipt."""

    name: FilePath
    digest: FileDigest


class Statement(Record):
    """An in-toto Statement v1 around the predicate; its subjects are the files of the evidence."""

    kind: ClassVar[str] = "receipt"
    version_field: ClassVar[str] = "predicate_type"

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = (
        "https://in-toto.io/Statement/v1"
    )
    subject: Annotated[tuple[Subject, ...], Field(min_length=1, max_length=2 * MAX_CHUNKS + 1024)]
    predicate_type: Annotated[Literal["https://zkapex.example/deletion-receipt/v2"], Field(alias="predicateType")] = (
        "https://zkapex.example/deletion-receipt/v2"
    )
    predicate: Predicate

    @classmethod
    def payload_type(cls) -> str:
        """Return in-toto's payload type, so that its tools recognise the envelope."""
        return PAYLOAD_TYPE

    def files(self) -> dict[str, str]:
        """SHA-256 of every file of the receipt.

        Raises
        ------
        ReceiptError
            One is listed twice.
        """
        found = {subject.name: subject.digest.sha256 for subject in self.subject}
        if len(found) != len(self.subject):
            raise ReceiptError("receipt.json lists a file twice")
        return found


@dataclass(frozen=True)
class Receipt:
    """A receipt whose signature was verified.

    Attributes
    ----------
    statement : Statement or StatementV1
    envelope : bytes
    pinned : bool
        Whether it is signed by a key the caller trusted beforehand, or merely by the one named in the receipt. The
        latter detects alteration, but not a receipt that somebody else made up.
    payload_digest : str
        SHA-256 (hex) of what was signed: this is what names a receipt, however many signatures it has.
    """

    statement: Statement | v1.StatementV1
    envelope: bytes
    pinned: bool
    payload_digest: str

    @property
    def version(self) -> int:
        """Of the format."""
        return 1 if isinstance(self.statement, v1.StatementV1) else 2

    @property
    def facts(self) -> Facts | v1.FactsV1:
        """What follows from the evidence."""
        return self.statement.predicate.facts

    @property
    def outcome(self) -> Outcome | v1.OutcomeV1:
        """What the server adds to the facts."""
        return self.statement.predicate.outcome

    @property
    def files(self) -> dict[str, str]:
        """The files the evidence is in, and their SHA-256."""
        return self.statement.files()

    @property
    def signer(self) -> str:
        """Id of the key it names as the server's."""
        return key_id(public_key_from_hex(self.statement.predicate.server_key))


def issue(evidence: Evidence, outcome: Outcome, key: Ed25519PrivateKey) -> Receipt:
    """Derive the facts from the evidence, check that the outcome fits them, and sign both.

    Raises
    ------
    ReceiptError, SignatureError, FormatVersionError
        The evidence is not sound (see :func:`zkapex.proofs.receipts.evidence.derive`) or the outcome contradicts it.
    """
    dossier = derive(evidence, outcome.audit_seed, [key.public_key()])
    check_outcome(dossier, evidence, outcome)
    statement = state(dossier.facts, outcome, evidence, public_key_hex(key.public_key()))
    payload = statement.to_bytes()
    return Receipt(
        statement, sign(payload, PAYLOAD_TYPE, key).to_bytes(), pinned=True, payload_digest=sha256_hex(payload)
    )


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
    if trusted is None:
        keys: Collection[Ed25519PublicKey] = [public_key_from_hex(parse_statement(peek(data)).predicate.server_key)]
    else:
        keys = trusted
    opened = open_envelope(data, PAYLOAD_TYPE, keys)
    statement = parse_statement(opened.payload)
    if statement.predicate.server_key not in {public_key_hex(key) for key in opened.signers}:
        raise SignatureError(
            "the receipt is signed by a trusted key that is not its issuer's",
            why=f"it names the key {statement.predicate.server_key[:16]}…",
            fix="name the issuer's key with --trust",
        )
    return Receipt(statement, data, trusted is not None, sha256_hex(opened.payload))


def parse_statement(payload: bytes) -> Statement | v1.StatementV1:
    """Parse what is signed in a receipt, of whichever version.

    Raises
    ------
    FormatVersionError, ProtocolError
        It is of a version this release does not know, or no receipt.
    """
    old = re.search(rb'"predicateType":"([^"\\]{1,200})"', payload)
    if old is not None and old[1].decode("utf-8", "replace").startswith("urn:zkapex:receipt:"):
        return v1.StatementV1.from_bytes(payload)
    return Statement.from_bytes(payload)


def check_receipt(receipt: Receipt, files: Mapping[str, bytes]) -> tuple[Evidence, Dossier]:
    """Check that a receipt says what its evidence says; everything but the zero-knowledge proofs.

    Raises
    ------
    ReceiptError, SignatureError, FormatVersionError
        The evidence is not sound, or the receipt says something else; names the part.
    """
    statement = receipt.statement
    predicate, outcome = statement.predicate, statement.predicate.outcome
    evidence = Evidence.from_files(files)
    dossier = derive(evidence, outcome.audit_seed, [public_key_from_hex(predicate.server_key)])
    check_outcome(dossier, evidence, outcome)
    if isinstance(statement, v1.StatementV1):
        old = v1.state(dossier, statement.predicate.outcome, evidence, predicate.server_key)
        if old != statement:
            raise _contradicts(v1.difference(old, statement))
        return evidence, dossier
    for name in Facts.model_fields:
        if getattr(dossier.facts, name) != getattr(statement.predicate.facts, name):
            raise _contradicts(f"facts.{name}")
    if statement.files() != {path: sha256_hex(data) for path, data in evidence.files().items()}:
        raise _contradicts("its files")
    said = statement.predicate
    check_sayings(said.shows, SHOWS, dossier.facts, outcome.verdict, "shows")
    check_sayings(said.does_not_show, DOES_NOT_SHOW, dossier.facts, outcome.verdict, "does_not_show")
    return evidence, dossier


def sayings_of(receipt: Receipt, facts: Facts) -> tuple[tuple[Saying, ...], tuple[Saying, ...]]:
    """What a receipt shows and does not show, to be put into words.

    Reservations that it does not make and this release would are added: a reader is owed them, whenever it was made.
    """
    predicate = receipt.statement.predicate
    verdict = predicate.outcome.verdict
    open_now = say(DOES_NOT_SHOW, facts, verdict)
    if isinstance(predicate, Predicate):
        said = {saying.id for saying in predicate.does_not_show}
        return predicate.shows, (*predicate.does_not_show, *(s for s in open_now if s.id not in said))
    shown = tuple(saying for saying in say(SHOWS, facts, verdict))
    return shown, (*open_now, *(Saying(id=name) for name in v1.LACKS))


def state(facts: Facts, outcome: Outcome, evidence: Evidence, server_key: str) -> Statement:
    """What a receipt says about this evidence."""
    predicate = Predicate(
        facts=facts,
        outcome=outcome,
        shows=say(SHOWS, facts, outcome.verdict),
        does_not_show=say(DOES_NOT_SHOW, facts, outcome.verdict),
        server_key=server_key,
    )
    subjects = (
        Subject(name=path, digest=FileDigest(sha256=sha256_hex(data))) for path, data in evidence.files().items()
    )
    return Statement(subject=tuple(subjects), predicate=predicate)


def _contradicts(where: str) -> ReceiptError:
    return ReceiptError("the receipt contradicts its evidence", why=f"they differ in {where}")


def check_outcome(dossier: Dossier, evidence: Evidence, outcome: Outcome | v1.OutcomeV1) -> None:
    """Check that an outcome fits its evidence; raises ReceiptError otherwise."""
    if outcome.chunks_proved != len(evidence.proofs):
        raise ReceiptError(f"the receipt counts {outcome.chunks_proved} proofs, but comes with {len(evidence.proofs)}")
    if outcome.issued_at < dossier.facts.requested_at:
        raise ReceiptError("the receipt was issued before the request was made")
    if evidence.rejected and outcome.verdict != "failed":
        raise ReceiptError("the receipt comes with a rejected proof, and does not say 'failed'")
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

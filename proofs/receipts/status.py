"""A signed word of an issuer's about a receipt it has issued: superseded, withdrawn, or disputed."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field

from zkapex.errors import ProtocolError, ReceiptError, StatusError
from zkapex.proofs.receipts.receipt import Receipt
from zkapex.proofs.records.envelope import open_envelope
from zkapex.proofs.records.intoto import PAYLOAD_TYPE, InToto, NamedDigest, Sha256
from zkapex.proofs.records.record import Digest, Part, Sentence, UtcTime
from zkapex.proofs.records.signing import public_key_from_hex, sign

StatusName = Literal["superseded", "withdrawn", "disputed"]


class StatusPredicate(Part):
    """The predicate of a status."""

    receipt: Digest
    """SHA-256 of the payload of the receipt."""
    status: StatusName
    reason: Sentence
    replaced_by: Digest | None = None
    """SHA-256 of the payload of the receipt that takes its place."""
    issued_at: UtcTime


class ReceiptStatus(InToto):
    """The in-toto statement about a receipt."""

    kind: ClassVar[str] = "receipt-status"

    predicate_type: Annotated[Literal["https://zkapex.example/receipt-status/v1"], Field(alias="predicateType")] = (
        "https://zkapex.example/receipt-status/v1"
    )
    predicate: StatusPredicate


def make_status(
    receipt: str,
    status: StatusName,
    reason: str,
    key: Ed25519PrivateKey,
    now: datetime,
    replaced_by: str | None = None,
) -> bytes:
    """Sign a word about a receipt, named by the digest of its payload; the envelope as a file."""
    predicate = StatusPredicate(receipt=receipt, status=status, reason=reason, replaced_by=replaced_by, issued_at=now)
    subject = (NamedDigest(name="receipt", digest=Sha256(sha256=receipt)),)
    return sign(ReceiptStatus(subject=subject, predicate=predicate).to_bytes(), PAYLOAD_TYPE, key).to_bytes()


def check_status(data: bytes, receipt: Receipt, trusted: Collection[Ed25519PublicKey] | None) -> None:
    """Return only if a signed word is about another receipt.

    Raises
    ------
    StatusError
        It is about this one: the issuer has withdrawn, superseded or disputed it.
    SignatureError
        It is not signed by the issuer.
    ReceiptError
        It is no such word.
    """
    keys = trusted or [public_key_from_hex(receipt.statement.predicate.server_key)]
    payload = open_envelope(data, PAYLOAD_TYPE, keys).payload
    try:
        found = ReceiptStatus.from_bytes(payload).predicate
    except ProtocolError as error:
        raise ReceiptError(f"status.json is wrong: {error.what}", why=error.why) from error
    if found.receipt == receipt.payload_digest:
        raise StatusError(
            f"the receipt was {found.status} by its issuer on {found.issued_at:%Y-%m-%d}",
            why=found.reason,
            fix="ask the issuer for what holds now" if found.replaced_by is None else f"see {found.replaced_by}",
        )

"""What every signed statement of ours has in common: it is an in-toto Statement v1 (https://in-toto.io/Statement/v1)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from zkapex.proofs.records.record import Digest, Part, Record

PAYLOAD_TYPE = "application/vnd.in-toto+json"
NAMESPACE = "https://zkapex.example/"
"""Of our predicate types. A reserved name (RFC 2606): nobody can ever own it, and types are only compared."""


class Sha256(Part):
    """A digest by algorithm."""

    sha256: Digest


class NamedDigest(Part):
    """An in-toto subject: a name and a digest."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]
    digest: Sha256


class InToto(Record):
    """An in-toto Statement v1 without its predicate, which subclasses add."""

    version_field: ClassVar[str] = "predicate_type"

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = (
        "https://in-toto.io/Statement/v1"
    )
    subject: Annotated[tuple[NamedDigest, ...], Field(min_length=1, max_length=2**16)]

    @classmethod
    def payload_type(cls) -> str:
        """Return in-toto's payload type, so that its tools recognise the envelope."""
        return PAYLOAD_TYPE

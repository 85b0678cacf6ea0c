"""What every record of the protocol has in common: strictness, bounds, one byte encoding and a digest.

A record has exactly one encoding: :meth:`Record.from_bytes` refuses bytes that :meth:`Record.to_bytes` would not have
written, which rules out duplicate keys, padding, alternative number formats and non-canonical base64 in one stroke. A
signature is nevertheless made over the bytes that are sent, never over a re-encoding of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationError,
    ValidationInfo,
)

from zkapex.errors import FormatVersionError, ProtocolError

MAX_RECORD_BYTES = 64 * 2**20
"""No record is larger: 64 MiB holds the mask of a model with 380 million target weights."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 as 64 lower-case hex digits."""

Nonce = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""32 random bytes as 64 lower-case hex digits."""

PublicKeyHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A raw Ed25519 public key as 64 lower-case hex digits."""

PointHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
"""An uncompressed BN254 G1 point, x then y, big-endian, as hex. That it is on the curve is checked by the verifier."""

CommitmentHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}([0-9a-f]{64})?$")]
"""A commitment of any backend, as hex: a point, or the root of a tree of hashes. Whether it is of the manifest's is
checked by whoever verifies."""

ClientId = Digest
"""SHA-256 of the client's raw Ed25519 public key."""

RequestId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,127}$")]
Sentence = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\p{C}]+$")]
"""Text for a person: one line, no control or invisible characters."""


def _utc(value: datetime) -> datetime:
    if value.utcoffset() != timedelta(0):
        raise ValueError("must be in UTC")
    return value.astimezone(UTC)


def _iso(value: datetime) -> str:
    return value.isoformat(timespec="microseconds").replace("+00:00", "Z")


UtcTime = Annotated[AwareDatetime, AfterValidator(_utc), PlainSerializer(_iso, when_used="json")]


def _from_base64(value: object, info: ValidationInfo) -> object:
    if info.mode == "json" and isinstance(value, str):
        return base64.b64decode(value, validate=True)
    return value


def _to_base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


Blob = Annotated[bytes, BeforeValidator(_from_base64), PlainSerializer(_to_base64, when_used="json")]
"""Raw bytes; standard base64 with padding in JSON. Bound the length where it is used."""

Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]


def is_none(value: object) -> bool:
    """Whether a field is left out of the encoding: one that came to a format later, in records that do without it.

    For ``Field(exclude_if=is_none)``. Records from before the field was there keep their one encoding.
    """
    return value is None


def is_halo2(value: object) -> bool:
    """Likewise of the name of a backend: there was one when formats were made."""
    return value == "halo2"


def is_zero(value: object) -> bool:
    """Likewise of a number that is 0 in records from before the field was there."""
    return value == 0


def is_empty(value: object) -> bool:
    """Likewise of a sequence that is empty in records from before the field was there."""
    return value == ()


def encode_parts(domain: str, *parts: bytes | str | int) -> bytes:
    """Encode a sequence so that no two different sequences, nor two domains, share an encoding.

    Every part is preceded by a type byte and its length as 8 big-endian bytes. Integers are 8 big-endian bytes.
    """
    out = bytearray()
    for part in (domain, *parts):
        if isinstance(part, str):
            tag, data = b"s", part.encode("utf-8")
        elif isinstance(part, int):
            tag, data = b"i", part.to_bytes(8, "big")
        else:
            tag, data = b"b", part
        out += tag + len(data).to_bytes(8, "big") + data
    return bytes(out)


def arrays_digest(arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """Return one SHA-256 (hex) over named arrays: names, types, shapes and little-endian content, in any order."""
    digest = hashlib.sha256(encode_parts("zkapex:arrays:v1", len(arrays)))
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(encode_parts("zkapex:array:v1", name, array.dtype.str, *arrays[name].shape))
        digest.update(encode_parts("zkapex:values:v1", array.tobytes()))
    return digest.hexdigest()


def sha256_hex(data: bytes) -> str:
    """Return SHA-256 of raw bytes (a file) as lower-case hex."""
    return hashlib.sha256(data).hexdigest()


class Part(BaseModel):
    """A part of a record: immutable, strict, no unknown fields, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Record(Part):
    """A top-level record. Subclasses set ``kind`` and a ``format`` field with the literal ``zkapex.<kind>.v<n>``."""

    kind: ClassVar[str]
    version_field: ClassVar[str] = "format"
    max_bytes: ClassVar[int] = MAX_RECORD_BYTES

    @classmethod
    def payload_type(cls) -> str:
        """Return the DSSE payload type under which records of this kind and version are signed."""
        return f"application/vnd.{cls.model_fields['format'].default}+json"

    def to_bytes(self) -> bytes:
        """Return the one encoding of this record: compact UTF-8 JSON, fields in the order of the class."""
        text = json.dumps(
            self.model_dump(mode="json", by_alias=True), separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode("utf-8")

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse a record.

        Raises
        ------
        FormatVersionError
            The record is of this kind, but of a version this release does not know.
        ProtocolError
            The bytes are too many, malformed, out of bounds, or not the one encoding of what they say.
        """
        if len(data) > cls.max_bytes:
            raise ProtocolError(
                f"a {cls.kind} record of {len(data)} bytes is too large", why=f"at most {cls.max_bytes} are accepted"
            )
        try:
            record = cls.model_validate_json(data)
        except ValidationError as error:
            raise cls._explain(error) from None
        if record.to_bytes() != data:
            raise ProtocolError(
                f"a {cls.kind} record is not in its one encoding",
                why="it has repeated or missing keys, spaces, or an alternative spelling of a value",
            )
        return record

    def digest(self) -> str:
        """Return SHA-256 over the record's encoding, separated from digests of records of other kinds and versions."""
        return sha256_hex(encode_parts("zkapex:record", self.payload_type(), self.to_bytes()))

    @classmethod
    def _explain(cls, error: ValidationError) -> FormatVersionError | ProtocolError:
        problems = error.errors(include_url=False, include_context=False)
        field = cls.model_fields[cls.version_field]
        known = re.compile(re.escape(str(field.default).rpartition("v")[0]) + r"v[0-9]{1,6}")
        for problem in problems:
            version = problem["input"]
            if problem["loc"] != (field.alias or cls.version_field,) or not isinstance(version, str):
                continue
            if known.fullmatch(version):
                return FormatVersionError(
                    f"a {cls.kind} record has the unknown format {version!r}",
                    fix="use the release that wrote it, or newer",
                )
        first = problems[0]
        where = ".".join(str(step) for step in first["loc"]) or "the whole record"
        return ProtocolError(f"a {cls.kind} record is malformed", why=f"{where}: {first['msg']}")

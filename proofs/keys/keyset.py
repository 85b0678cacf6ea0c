"""A keyset: the keys somebody signs with, from when until when, and which were revoked; signed by an offline root."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, model_validator

from zkapex.errors import InputError, ProtocolError, SignatureError
from zkapex.proofs.records.envelope import open_envelope
from zkapex.proofs.records.intoto import PAYLOAD_TYPE, InToto, NamedDigest, Sha256
from zkapex.proofs.records.record import Count, Digest, Name, Part, PublicKeyHex, UtcTime
from zkapex.proofs.records.signing import key_id, public_key_from_hex, public_key_hex, sign

Reason = Literal["superseded", "compromised", "ceased"]


class KeyEntry(Part):
    """One key and when it counts."""

    key_id: Digest
    public_key: PublicKeyHex
    valid_from: UtcTime
    valid_until: UtcTime | None = None
    revoked_at: UtcTime | None = None
    """Signatures made from then on count for nothing."""
    reason: Reason | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if key_id(public_key_from_hex(self.public_key)) != self.key_id:
            raise ValueError("the key id is not the key's")
        if self.valid_until is not None and self.valid_until <= self.valid_from:
            raise ValueError("valid_until must be after valid_from")
        if (self.revoked_at is None) != (self.reason is None):
            raise ValueError("a revoked key has a reason, and no other")
        return self


class KeysetPredicate(Part):
    """The predicate of a keyset."""

    owner: Name
    sequence: Count
    """Larger than that of every earlier keyset of this owner."""
    issued_at: UtcTime
    keys: Annotated[tuple[KeyEntry, ...], Field(min_length=1, max_length=1024)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({entry.key_id for entry in self.keys}) != len(self.keys):
            raise ValueError("a key is listed twice")
        return self


class Keyset(InToto):
    """The in-toto statement about a keyset; its subjects are the keys."""

    kind: ClassVar[str] = "keyset"

    predicate_type: Annotated[Literal["https://zkapex.example/keyset/v1"], Field(alias="predicateType")] = (
        "https://zkapex.example/keyset/v1"
    )
    predicate: KeysetPredicate


def make_keyset(owner: str, sequence: int, keys: Sequence[KeyEntry], root: Ed25519PrivateKey, now: datetime) -> bytes:
    """Sign a keyset; the envelope as a file.

    Raises
    ------
    InputError
        It would be none: a key listed twice, or no key at all.
    """
    try:
        predicate = KeysetPredicate(owner=owner, sequence=sequence, issued_at=now, keys=tuple(keys))
    except ValueError as error:
        raise InputError("this makes no keyset", why=str(error)) from error
    subjects = tuple(NamedDigest(name=f"key:{k.key_id[:16]}", digest=Sha256(sha256=k.key_id)) for k in keys)
    return sign(Keyset(subject=subjects, predicate=predicate).to_bytes(), PAYLOAD_TYPE, root).to_bytes()


def open_keyset(data: bytes, roots: Sequence[Ed25519PublicKey]) -> KeysetPredicate:
    """Read a keyset that one of these roots has signed.

    Raises
    ------
    SignatureError
        None of them has, or it is no keyset.
    FormatVersionError
        It is of a version this release does not know.
    """
    payload = open_envelope(data, PAYLOAD_TYPE, roots).payload
    try:
        keyset = Keyset.from_bytes(payload)
    except ProtocolError as error:
        raise SignatureError(f"the keyset is wrong: {error.what}", why=error.why) from error
    if [s.digest.sha256 for s in keyset.subject] != [k.key_id for k in keyset.predicate.keys]:
        raise SignatureError("the keyset is wrong", why="its subjects are not its keys")
    return keyset.predicate


def entry_of(key: Ed25519PublicKey, valid_from: datetime, valid_until: datetime | None = None) -> KeyEntry:
    """A key that is valid from one time until another, or until it is revoked."""
    try:
        return KeyEntry(
            key_id=key_id(key), public_key=public_key_hex(key), valid_from=valid_from, valid_until=valid_until
        )
    except ValueError as error:
        raise InputError("a key cannot be valid like this", why=str(error)) from error


def revoke(predicate: KeysetPredicate, name: str, at: datetime, reason: Reason) -> tuple[KeyEntry, ...]:
    """The keys of a keyset with one of them revoked; `name` is its id or the beginning of it.

    Raises
    ------
    InputError
        No key, or more than one, has an id that begins like this; or it is revoked already.
    """
    found = [entry for entry in predicate.keys if entry.key_id.startswith(name)]
    if len(found) != 1 or len(name) < 8:
        raise InputError(f"{name!r} names {len(found)} keys of the keyset", fix="give 8 digits of a key's id, or more")
    if found[0].revoked_at is not None:
        raise InputError(f"the key {name} was revoked on {found[0].revoked_at:%Y-%m-%d}")
    gone = found[0].model_copy(update={"revoked_at": at, "reason": reason})
    return tuple(gone if entry is found[0] else entry for entry in predicate.keys)

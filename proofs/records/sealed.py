"""Signed records. A :class:`Sealed` value can be had only by signing or by verifying, so holding one is the evidence.

Code that acts on a record a peer sent takes ``Sealed[Enrolment]`` rather than ``Enrolment``: forgetting to verify is
then a type error.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from zkapex.errors import SignatureError
from zkapex.proofs.messages import Enrolment, EnrolRequest, PersonaliseRequest
from zkapex.proofs.records.record import Record, sha256_hex
from zkapex.proofs.records.signing import Envelope, key_id, public_key_from_hex, sign, verify

R = TypeVar("R", bound=Record)
Introduction = TypeVar("Introduction", PersonaliseRequest, EnrolRequest)


@dataclass(frozen=True, eq=False)
class Sealed(Generic[R]):
    """A record with the exact envelope bytes it was signed in, which is what two of them are compared by."""

    record: R
    envelope: bytes

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the envelope file."""
        return sha256_hex(self.envelope)

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Sealed) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)


def seal(record: R, key: Ed25519PrivateKey) -> Sealed[R]:
    """Sign a record."""
    return Sealed(record, sign(record.to_bytes(), record.payload_type(), key).to_bytes())


def unseal(kind: type[R], data: bytes, trusted: Collection[Ed25519PublicKey]) -> Sealed[R]:
    """Verify an envelope, then parse the record in it.

    Raises
    ------
    SignatureError
        The envelope is malformed, of another kind, or not signed by trusted keys alone.
    ProtocolError, FormatVersionError
        It is signed, but what was signed is not a valid record.
    """
    payload = verify(Envelope.from_bytes(data), kind.payload_type(), trusted)
    return Sealed(kind.from_bytes(payload), data)


def unseal_enrolment(data: bytes) -> Sealed[Enrolment]:
    """Verify an enrolment against the key it brings, which is what defines the client's identity.

    This is the one record that is parsed before it is verified; it proves possession of the key, and that the client id
    is that key's. Whether a client of this id is welcome is for the caller to decide.

    Raises
    ------
    SignatureError
        The enrolment is not signed with the key it names, or its client id is not that key's.
    ProtocolError, FormatVersionError
        It is not a valid enrolment.
    """
    envelope = Envelope.from_bytes(data)
    if envelope.payload_type != Enrolment.payload_type():
        raise SignatureError("an enrolment was expected", why=f"the envelope holds {envelope.payload_type}")
    enrolment = Enrolment.from_bytes(envelope.payload)
    key = public_key_from_hex(enrolment.public_key)
    if key_id(key) != enrolment.client_id:
        raise SignatureError("an enrolment's client id does not belong to its public key")
    verify(envelope, Enrolment.payload_type(), [key])
    return Sealed(enrolment, data)


def unseal_introduction(kind: type[Introduction], data: bytes) -> Sealed[Introduction]:
    """Verify a request against the server's key it brings, for a device that knows no server yet.

    It proves possession of the key, and that nobody has changed the request. Whether to trust a server with that key is
    for the caller to decide.

    Raises
    ------
    SignatureError
        The request is malformed, of another kind, or not signed with the key it names.
    ProtocolError, FormatVersionError
        It is not a valid request.
    """
    envelope = Envelope.from_bytes(data)
    if envelope.payload_type != kind.payload_type():
        raise SignatureError(f"a signed {kind.kind} was expected", why=f"the envelope holds {envelope.payload_type}")
    record = kind.from_bytes(envelope.payload)
    verify(envelope, kind.payload_type(), [public_key_from_hex(record.server_key)])
    return Sealed(record, data)


def restore(kind: type[R], data: bytes) -> Sealed[R]:
    """Rebuild a record from storage of our own, where only verified envelopes are put; does not verify it again.

    Raises
    ------
    SignatureError, ProtocolError, FormatVersionError
        The stored bytes are damaged, or from a release that is newer.
    """
    return Sealed(kind.from_bytes(Envelope.from_bytes(data).payload), data)

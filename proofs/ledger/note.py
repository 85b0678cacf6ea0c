"""Signed notes: a text, and signatures below it (https://c2sp.org/signed-note)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from zkapex.errors import InputError, LedgerError

LOG_KEY, WITNESS_KEY = 0x01, 0x04
"""Types of signatures: plain Ed25519, and Ed25519 with a time (https://c2sp.org/tlog-cosignature)."""
MAX_NOTE_BYTES = 65_536
MAX_SIGNATURES = 64
_NAME = re.compile(r"[^\s+\x00-\x20]{1,255}")
_LINE = re.compile(r"— ([^ ]+) ([A-Za-z0-9+/]+={0,2})")


@dataclass(frozen=True)
class VerifierKey:
    """A public key with the name it signs under.

    Attributes
    ----------
    name : str
        Of the log (its origin) or witness.
    kind : int
        `LOG_KEY` or `WITNESS_KEY`.
    key : bytes
        Raw Ed25519 public key.
    """

    name: str
    kind: int
    key: bytes

    @property
    def key_id(self) -> bytes:
        """The four bytes that point from a signature to this key."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.key).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(bytes([self.kind]) + self.key).decode()}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a key in the form ``name+id+base64``.

        Raises
        ------
        InputError
            It is none.
        """
        try:
            name, key_id, body = text.split("+", 2)
            data = base64.b64decode(body, validate=True)
            found = cls(name, data[0], data[1:])
            if not _NAME.fullmatch(name) or found.kind not in (LOG_KEY, WITNESS_KEY) or len(found.key) != 32:
                raise ValueError
            if found.key_id.hex() != key_id or str(found) != text:
                raise ValueError
            Ed25519PublicKey.from_public_bytes(found.key)
        except (ValueError, IndexError):
            raise InputError(
                f"{text[:80]!r} is not the key of a log or witness",
                fix="write it as published: name+id+key",
            ) from None
        return found

    @classmethod
    def of(cls, name: str, kind: int, key: Ed25519PublicKey) -> VerifierKey:
        """The key under a name.

        Raises
        ------
        InputError
            The name is none: it is empty or has spaces or a plus sign.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot name a log or witness", fix="use something like example.org/deletions")
        return cls(name, kind, key.public_bytes_raw())


@dataclass(frozen=True)
class NoteSignature:
    """One line below a note: who signed, by name and key id, and the signature's bytes."""

    name: str
    key_id: bytes
    body: bytes

    def line(self) -> str:
        """The line as it stands in a note."""
        return f"— {self.name} {base64.b64encode(self.key_id + self.body).decode()}\n"


@dataclass(frozen=True)
class Note:
    """A text that ends in a newline, and signatures."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def to_bytes(self) -> bytes:
        """The note as a file."""
        return (self.text + "\n" + "".join(signature.line() for signature in self.signatures)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Note:
        """Parse a note without verifying it.

        Raises
        ------
        LedgerError
            It is none, or not in its one encoding.
        """
        if len(data) > MAX_NOTE_BYTES:
            raise LedgerError(f"a note of {len(data)} bytes is too large")
        try:
            text, separator, lines = data.decode("utf-8").rpartition("\n\n")
            if not separator or any(ord(c) < 32 and c != "\n" for c in text + lines):
                raise ValueError
            note = cls(text + "\n", parse_signatures(lines))
            if note.to_bytes() != data or not 1 <= len(note.signatures) <= MAX_SIGNATURES:
                raise ValueError
        except ValueError:
            raise LedgerError("this is not a signed note", why="its text or signature lines are malformed") from None
        return note

    def add(self, signatures: Collection[NoteSignature]) -> Note:
        """The note with more signatures, each once."""
        new = [signature for signature in signatures if signature not in self.signatures]
        return replace(self, signatures=(*self.signatures, *new))

    def verify(self, key: VerifierKey) -> datetime | None:
        """Check that the key has signed the note; the time of a witness's signature, None for a log's.

        Raises
        ------
        LedgerError
            There is no signature by this key, or a wrong one.
        """
        found = [s for s in self.signatures if (s.name, s.key_id) == (key.name, key.key_id)]
        if not found:
            raise LedgerError(f"the checkpoint is not signed by {key.name}")
        times: list[datetime] = []
        for signature in found:
            message, body, seconds = self.text.encode(), signature.body, 0
            if key.kind == WITNESS_KEY:
                seconds, body = int.from_bytes(body[:8], "big"), body[8:]
                message = b"cosignature/v1\ntime %d\n%b" % (seconds, message)
            try:
                Ed25519PublicKey.from_public_bytes(key.key).verify(body, message)
                times.append(datetime.fromtimestamp(seconds, UTC))
            except (InvalidSignature, ValueError, OverflowError, OSError):
                raise LedgerError(f"the signature of {key.name} on the checkpoint is wrong") from None
        return min(times) if key.kind == WITNESS_KEY else None


def parse_signatures(lines: str) -> tuple[NoteSignature, ...]:
    """Parse signature lines; raises ValueError for anything else."""
    if lines and not lines.endswith("\n"):
        raise ValueError("the last line has no end")
    found = []
    for line in lines.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError("not a signature line")
        try:
            data = base64.b64decode(match[2], validate=True)
        except binascii.Error as error:
            raise ValueError("not base64") from error
        if len(data) < 5 or base64.b64encode(data).decode() != match[2]:
            raise ValueError("not a signature")
        found.append(NoteSignature(match[1], data[:4], data[4:]))
    return tuple(found)


def sign_note(text: str, name: str, key: Ed25519PrivateKey) -> NoteSignature:
    """A log's signature on a note's text."""
    verifier = VerifierKey.of(name, LOG_KEY, key.public_key())
    return NoteSignature(name, verifier.key_id, key.sign(text.encode()))


def cosign_note(text: str, name: str, key: Ed25519PrivateKey, when: datetime) -> NoteSignature:
    """A witness's signature on a note's text, with the time, in whole seconds."""
    verifier = VerifierKey.of(name, WITNESS_KEY, key.public_key())
    seconds = int(when.timestamp())
    body = key.sign(b"cosignature/v1\ntime %d\n%b" % (seconds, text.encode()))
    return NoteSignature(name, verifier.key_id, seconds.to_bytes(8, "big") + body)

"""Keys that are trusted, when their signatures count, and reading them from files."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from zkapex.errors import InputError, SignatureError
from zkapex.proofs.keys.keyset import KeyEntry, open_keyset
from zkapex.proofs.records.signing import key_id, public_key_from_hex

MAX_FILE_BYTES = 2**20
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n[A-Za-z0-9+/=\r\n]+-----END \1-----")


@dataclass(frozen=True)
class TrustedKey:
    """A key, and what is known about when its signatures count; without an entry, always."""

    key: Ed25519PublicKey
    entry: KeyEntry | None = None

    def check(self, signed_at: datetime, known: datetime | None, now: datetime) -> None:
        """Check that a signature by this key counts.

        Parameters
        ----------
        signed_at : datetime
            When it was made, as the signer says.
        known : datetime or None
            By when it existed, as somebody else says who need not be believed to be the signer: a timestamp, a witness.
        now : datetime

        Raises
        ------
        SignatureError
            It does not: the key was not valid yet, no longer, or revoked, and nothing shows the signature to be older.
        """
        entry = self.entry
        if entry is None:
            return
        name = f"the key {entry.key_id[:16]}…"
        if signed_at < entry.valid_from or (known is not None and known < entry.valid_from):
            raise SignatureError(f"{name} was not valid yet when it signed", why=f"valid from {entry.valid_from}")
        when, who = (known, "it is shown to have signed by") if known is not None else (now, "now it is")
        ends = [(entry.valid_until, "expired"), (entry.revoked_at, f"was revoked ({entry.reason})")]
        for end, what in ends:
            if end is not None and (when >= end or signed_at >= end):
                late = signed_at if signed_at >= end else when
                raise SignatureError(
                    f"{name} {what} on {end:%Y-%m-%d %H:%M} UTC, and nothing shows that it had signed before",
                    why=f"{'it says it signed on' if signed_at >= end else who} {late:%Y-%m-%d %H:%M} UTC",
                    fix="a timestamp, or the log's proof with enough witnesses, would show it",
                )


@dataclass(frozen=True)
class Trust:
    """The keys somebody trusts; none: nothing is pinned."""

    keys: tuple[TrustedKey, ...] = ()

    @classmethod
    def of(cls, keys: Iterable[Ed25519PublicKey]) -> Trust:
        """Keys that are trusted by themselves."""
        return cls(tuple(TrustedKey(key) for key in keys))

    @classmethod
    def from_keyset(cls, data: bytes, roots: Collection[Ed25519PublicKey]) -> Trust:
        """The keys of a keyset that one of these roots has signed; raises as `open_keyset`."""
        predicate = open_keyset(data, list(roots))
        return cls(tuple(TrustedKey(public_key_from_hex(entry.public_key), entry) for entry in predicate.keys))

    @property
    def public(self) -> list[Ed25519PublicKey]:
        """The keys themselves."""
        return [trusted.key for trusted in self.keys]

    def find(self, name: str) -> TrustedKey:
        """The key with this id.

        Raises
        ------
        SignatureError
            It is not among them.
        """
        for trusted in self.keys:
            if key_id(trusted.key) == name:
                return trusted
        raise SignatureError(
            f"the key {name[:16]}… is not trusted",
            fix="get the signer's public key from a source you trust and name it with --trust",
        )


def read_public_keys(path: Path) -> list[Ed25519PublicKey]:
    """All public keys of a PEM file, each in a block of its own; lines between blocks may begin with ``#``.

    Raises
    ------
    InputError
        It is missing, has something else in it, or a block that is no Ed25519 public key. Nothing is left out silently.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"there is no key file {path}", why=error.strerror or str(error)) from error
    between = _BLOCK.sub(b"", data)
    if len(data) > MAX_FILE_BYTES or any(
        line.strip() and not line.lstrip().startswith(b"#") for line in between.split(b"\n")
    ):
        raise InputError(f"{path} is not a public key in PEM", why="it has lines that belong to no key")
    keys: dict[str, Ed25519PublicKey] = {}
    for number, block in enumerate(_BLOCK.finditer(data), 1):
        if block[1] != b"PUBLIC KEY":
            raise InputError(f"block {number} of {path} is a {block[1].decode().lower()}, not a public key")
        try:
            key = load_pem_public_key(block[0] + b"\n")
        except (ValueError, UnsupportedAlgorithm):
            raise InputError(f"block {number} of {path} is not a public key in PEM") from None
        if not isinstance(key, Ed25519PublicKey):
            raise InputError(f"block {number} of {path} is not an Ed25519 key")
        keys[key_id(key)] = key
    if not keys:
        raise InputError(f"{path} is not a public key in PEM", why="there is no key in it")
    return list(keys.values())

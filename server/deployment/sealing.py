"""Encryption of an archive as it is written, and its reading: AES-256-GCM over segments, in the STREAM construction.

A file is a header and segments of 1 MiB, each with its tag of 16 bytes:

    "zkapex-sealed-backup-1", newline: what it is, and the version of all that follows
    16 bytes                   salt of scrypt (n = 2^17, r = 8, p = 1), which makes 32 bytes of key and 16 of a check
    16 bytes                   the check: that the passphrase is the one
    7 bytes                    prefix of the nonces: then come the segment's number, 4 bytes, and 1 for the last, else 0

The header is every segment's associated data. Segments that were altered, exchanged, left out at the end or added do
not open (Hoang, Reyhanitabar, Rogaway, Vizár, *Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance*, 2015). A key is used for one archive only: its salt is random.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from zkapex.errors import FormatVersionError, InputError, VerificationError

SHORTEST: Final = 16
_KIND: Final = b"zkapex-sealed-backup-"
_TAG: Final = _KIND + b"1\n"
_SALT, _CHECK, _PREFIX, _MAC = 16, 16, 7, 16
_SEGMENT: Final = 2**20


def read_passphrase(path: Path) -> bytes:
    """What a file holds, without white space around it.

    Raises
    ------
    InputError
        It cannot be read, or holds less than 16 bytes.
    """
    try:
        found = path.read_bytes().strip()
    except OSError as error:
        raise InputError(f"{path} cannot be read", why=error.strerror or str(error)) from None
    if len(found) < SHORTEST:
        raise InputError(
            f"{path} is too short for a passphrase", fix=f"write {SHORTEST} bytes or more into it, by chance"
        )
    return found


class SealedWriter:
    """Encrypts what is written to it; in a ``with`` block, at whose end the last segment is written.

    Parameters
    ----------
    file : binary file
    passphrase : bytes
    """

    def __init__(self, file: BinaryIO, passphrase: bytes) -> None:
        salt, prefix = secrets.token_bytes(_SALT), secrets.token_bytes(_PREFIX)
        key, check = _derived(passphrase, salt)
        self._segments = _Segments(key, _TAG + salt + check + prefix)
        self._file, self._waiting = file, bytearray()
        file.write(self._segments.header)

    def write(self, data: bytes) -> int:
        """Take more."""
        self._waiting += data
        while len(self._waiting) > _SEGMENT:  # the last one is known at the end only
            self._file.write(self._segments.seal(bytes(self._waiting[:_SEGMENT]), last=False))
            del self._waiting[:_SEGMENT]
        return len(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._file.write(self._segments.seal(bytes(self._waiting), last=True))


class SealedReader:
    """Reads what a `SealedWriter` has written.

    Parameters
    ----------
    file : binary file
        At its beginning, for which `sealed` holds.
    passphrase : bytes

    Raises
    ------
    FormatVersionError
        A newer release wrote it.
    InputError
        The passphrase is another one.
    """

    def __init__(self, file: BinaryIO, passphrase: bytes) -> None:
        header = file.read(len(_TAG) + _SALT + _CHECK + _PREFIX)
        if not header.startswith(_TAG):
            raise FormatVersionError(
                "the archive is encrypted in a way this release does not know", fix="use a newer one"
            )
        salt = header[len(_TAG) :][:_SALT]
        key, check = _derived(passphrase, salt)
        if not hmac.compare_digest(check, header[len(_TAG) + _SALT :][:_CHECK]):
            raise InputError("the passphrase is not the one that the archive was encrypted with")
        self._segments, self._file = _Segments(key, header), file
        self._next = file.read(_SEGMENT + _MAC)
        self._ready, self._over = bytearray(), False

    def read(self, size: int) -> bytes:
        """So many bytes, or fewer at the end.

        Raises
        ------
        VerificationError
            What follows was altered, or the end is missing.
        """
        while len(self._ready) < size and not self._over:
            piece, self._next = self._next, self._file.read(_SEGMENT + _MAC)
            self._over = not self._next
            self._ready += self._segments.open(piece, last=self._over)
        found = bytes(self._ready[:size])
        del self._ready[:size]
        return found

    def finish(self) -> None:
        """Read, and so check, what is left; raises as `read`."""
        while self.read(_SEGMENT):
            pass


def sealed(file: BinaryIO) -> bool:
    """Whether a file, at its beginning, where it stays, holds what a `SealedWriter` of any release has written."""
    found = file.read(len(_KIND)) == _KIND
    file.seek(0)
    return found


class _Segments:
    """Seals or opens the segments of one archive, in their order."""

    def __init__(self, key: bytes, header: bytes) -> None:
        self.header = header
        self._cipher, self._number = AESGCM(key), 0

    def seal(self, data: bytes, last: bool) -> bytes:
        return self._cipher.encrypt(self._nonce(last), data, self.header)

    def open(self, data: bytes, last: bool) -> bytes:
        try:
            return self._cipher.decrypt(self._nonce(last), data, self.header)
        except InvalidTag:
            raise VerificationError(
                "the archive is damaged", why=f"segment {self._number - 1} of it is missing, or not what was encrypted"
            ) from None

    def _nonce(self, last: bool) -> bytes:
        made = self.header[-_PREFIX:] + self._number.to_bytes(4, "big") + bytes([last])
        self._number += 1
        return made


def _derived(passphrase: bytes, salt: bytes) -> tuple[bytes, bytes]:
    made = Scrypt(salt=salt, length=32 + _CHECK, n=2**17, r=8, p=1).derive(passphrase)
    return made[:32], made[32:]

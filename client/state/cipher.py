"""Encryption of a device's state at rest: AES-256-GCM, each file bound to its name.

The key is derived (scrypt) from whatever the device is given: a credential of systemd's, which may be sealed to a TPM,
a passphrase in a file, or a file of random bytes. ``format.json`` says how, and which format the state has; it holds no
secret. A file is a tag, a nonce of 96 random bits, and what AES-GCM makes of the content with the file's name as
associated data: a file that was exchanged for another, or altered, is found out when it is read. An older version of
the same file is not: whoever can put back a whole old state puts back a device of that day (docs/security.md).

Format 1 was plain. `open_state` migrates it, file by file; interrupted, it goes on where it was.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from filelock import FileLock

from zkapex.errors import FormatVersionError, InputError, StorageError
from zkapex.host.files import make_private, write_private

FORMAT: Final = "format.json"
VERSION: Final = 2
CREDENTIAL: Final = "zkapex-state"
"""Name of the credential in ``$CREDENTIALS_DIRECTORY``."""
_TAG: Final = b"zkapex-sealed-1\n"
_CHECKED: Final = b"the key is the one this state was made with"
_SHORTEST: Final = 16
_SCRYPT: Final = {"length": 32, "n": 2**15, "r": 8, "p": 1}
_PLAIN_KINDS: Final = (FORMAT, ".lock")
_JOBS: Final = "jobs"
"""Folders in which worker processes, which have no key, find their jobs and leave proofs, which are public."""
_ALIASES: Final = {"enrolling": "enrolment"}
"""Folders that are renamed as a whole: their files have, from the first, the names they will have then."""


@dataclass(frozen=True)
class Cipher:
    """Seals and opens files of one device.

    Attributes
    ----------
    key : bytes
        32 bytes.
    """

    key: bytes = field(repr=False)

    def seal(self, name: str, data: bytes) -> bytes:
        """What is written for the file `name`, a path below the state's folder."""
        nonce = secrets.token_bytes(12)
        return _TAG + nonce + AESGCM(self.key).encrypt(nonce, data, _bound(name))

    def open(self, name: str, sealed: bytes) -> bytes:
        """The content of the file `name`.

        Raises
        ------
        StorageError
            It was altered, is another file, or was sealed with another key.
        """
        if not is_sealed(sealed):
            raise StorageError(f"{name} of the device's state is not encrypted", fix="do not put files there by hand")
        start = len(_TAG)
        try:
            return AESGCM(self.key).decrypt(sealed[start : start + 12], sealed[start + 12 :], _bound(name))
        except InvalidTag:
            raise StorageError(
                f"{name} of the device's state is damaged", why="it is not what was sealed under this name"
            ) from None

    def seal_line(self, name: str, number: int, line: bytes) -> bytes:
        """One line of a file that only grows, as a line of letters and digits without its end."""
        nonce = secrets.token_bytes(12)
        return base64.b64encode(nonce + AESGCM(self.key).encrypt(nonce, line, _bound(f"{name}:{number}")))

    def open_line(self, name: str, number: int, sealed: bytes) -> bytes:
        """The inverse of `seal_line`; raises as `open`."""
        try:
            data = base64.b64decode(sealed, validate=True)
            return AESGCM(self.key).decrypt(data[:12], data[12:], _bound(f"{name}:{number}"))
        except (InvalidTag, ValueError):
            raise StorageError(f"line {number} of {name} is damaged", why="it is not what was sealed there") from None


def is_sealed(data: bytes) -> bool:
    """Whether a file is encrypted."""
    return data.startswith(_TAG)


def find_secret(key_file: Path | None, own: Path) -> bytes:
    """What keys the state: the named file, else systemd's credential, else the device's own file.

    Raises
    ------
    InputError
        There is none, or it is too short to be one.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    sealed = Path(credentials) / CREDENTIAL if credentials else None
    path = key_file or (sealed if sealed is not None and sealed.is_file() else own)
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise InputError(
            "what the device's state is encrypted with is not here",
            why=str(error),
            fix=f"give systemd the credential {CREDENTIAL}, or name a file as key_file in device.toml",
        ) from None
    if len(secret.strip()) < _SHORTEST:
        raise InputError(f"{path} is too short for a key", fix=f"use {_SHORTEST} bytes or more")
    return secret


def open_state(folder: Path, secret: bytes) -> Cipher:
    """The cipher of a device's state; a new state is set up, one that was plain is encrypted.

    Raises
    ------
    InputError
        The secret is another one than the state was made with.
    FormatVersionError
        A newer release wrote the state.
    StorageError
        It is damaged, or the disk is full.
    """
    make_private(folder)
    with FileLock(folder / ".format.lock", mode=0o600):
        path = folder / FORMAT
        if not path.exists():
            salt = secrets.token_bytes(16)
            cipher = _derived(secret, salt)
            check = cipher.seal(FORMAT, _CHECKED)
            found = {"version": VERSION, "salt": salt.hex(), "check": base64.b64encode(check).decode(), "plain": True}
            write_private(path, json.dumps(found).encode())
        try:
            found = json.loads(path.read_bytes())
            version, salt = found["version"], bytes.fromhex(found["salt"])
            check, plain = base64.b64decode(found["check"]), bool(found["plain"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{path} is damaged", why=str(error), fix="restore it from a backup") from None
        if version != VERSION:
            raise FormatVersionError(
                f"the device's state has format {version}", why=f"this release knows {VERSION}", fix="update the device"
            )
        cipher = _derived(secret, salt)
        try:
            cipher.open(FORMAT, check)
        except StorageError:
            raise InputError(
                "the device's state was encrypted with another key", fix="give it the key it was made with"
            ) from None
        if plain:
            _encrypt_all(folder, cipher)
            write_private(path, json.dumps({**found, "plain": False}).encode())
    return cipher


def _derived(secret: bytes, salt: bytes) -> Cipher:
    return Cipher(Scrypt(salt=salt, **_SCRYPT).derive(secret))


def _encrypt_all(folder: Path, cipher: Cipher) -> None:
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.endswith(_PLAIN_KINDS) or path.name.endswith(".partial"):
            continue
        if _JOBS in path.relative_to(folder).parts:
            continue
        data = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        if path.name == "openings.log":
            # Plain lines are hexadecimal digests of 32 digits; what a crash left of one belongs to no proof.
            whole = data[: data.rfind(b"\n") + 1].splitlines()
            if all(len(line) == 32 for line in whole):
                sealed = [cipher.seal_line(name, number, line) + b"\n" for number, line in enumerate(whole)]
                write_private(path, b"".join(sealed))
        elif not is_sealed(data):
            write_private(path, cipher.seal(name, data))


def _bound(name: str) -> bytes:
    head, _, tail = name.partition("/")
    return f"zkapex:state:{_ALIASES.get(head, head)}/{tail}".encode()

"""Ed25519 keys on disk and DSSE envelopes (https://github.com/secure-systems-lab/dsse, protocol v1.0.0).

The pre-authentication encoding is written out here rather than taken from securesystemslib, whose envelope parser
accepts unknown fields and non-canonical base64 and whose verification skips signatures it has no key for: then a byte
of an envelope could change without the verdict changing. Here an envelope is accepted only if its bytes are the one
encoding of what they say, and only if *every* signature in it is valid and by a trusted key.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import secrets
import stat
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from zkapex.errors import InputError, SignatureError, StorageError
from zkapex.foreign import parse_json
from zkapex.proofs.records.record import MAX_RECORD_BYTES, sha256_hex

MAX_ENVELOPE_BYTES = MAX_RECORD_BYTES * 4 // 3 + 8192
MAX_SIGNATURES = 8
CHALLENGE_TYPE = "application/vnd.zkapex.challenge.v1"
"""What a device signs to show that it holds its key now; no record has this type."""
CHALLENGE_BYTES = 32
_MAX_KEY_FILE_BYTES = 8192
_FIELD = 2**255 - 19
_ORDER_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
_SMALL_ORDER = frozenset({0, 1, _FIELD - 1, (y := int.from_bytes(bytes.fromhex(_ORDER_8), "little")), _FIELD - y})
"""y of all points of order 1, 2, 4 and 8 of edwards25519; those of order 8 are +-y."""
_PAYLOAD_TYPE = re.compile(r"[a-z0-9.+/-]{1,128}")
_KEY_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Signature:
    """One signature: `keyid` names the key (see :func:`key_id`), `sig` is the raw 64-byte Ed25519 signature."""

    keyid: str
    sig: bytes


@dataclass(frozen=True)
class Envelope:
    """A DSSE envelope: a payload, its type, and signatures over both."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def to_bytes(self) -> bytes:
        """Return the one encoding of this envelope: compact ASCII JSON and a newline."""
        document = {
            "payload": base64.b64encode(self.payload).decode("ascii"),
            "payloadType": self.payload_type,
            "signatures": [{"keyid": s.keyid, "sig": base64.b64encode(s.sig).decode("ascii")} for s in self.signatures],
        }
        return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Envelope:
        """Parse an envelope without verifying it.

        Raises
        ------
        SignatureError
            It is too large, not an envelope, or not in its one encoding.
        """
        if len(data) > MAX_ENVELOPE_BYTES:
            raise SignatureError(f"a signed envelope of {len(data)} bytes is too large")
        try:
            document = parse_json(data)
            envelope = cls(
                payload_type=document["payloadType"],
                payload=base64.b64decode(document["payload"], validate=True),
                signatures=tuple(
                    Signature(entry["keyid"], base64.b64decode(entry["sig"], validate=True))
                    for entry in document["signatures"]
                ),
            )
            # Whatever the parser was lenient about (unknown or repeated fields, spaces, base64 padding bits, types)
            # does not survive this comparison.
            canonical = envelope.to_bytes() == data
            names = [envelope.payload_type, *(signature.keyid for signature in envelope.signatures)]
            if not all(isinstance(name, str) for name in names):
                raise TypeError
        except (ValueError, TypeError, LookupError, AttributeError, binascii.Error):
            raise SignatureError("this is not a DSSE envelope", why="its JSON or base64 is malformed") from None
        if not canonical:
            raise SignatureError("a signed envelope was altered", why="its bytes are not the encoding it was signed in")
        if not _PAYLOAD_TYPE.fullmatch(envelope.payload_type):
            raise SignatureError("a signed envelope has a malformed payload type")
        if not 1 <= len(envelope.signatures) <= MAX_SIGNATURES:
            raise SignatureError(f"a signed envelope has {len(envelope.signatures)} signatures")
        keyids = [signature.keyid for signature in envelope.signatures]
        if len(set(keyids)) != len(keyids) or not all(_KEY_ID.fullmatch(keyid) for keyid in keyids):
            raise SignatureError("a signed envelope has a repeated or malformed key id")
        return envelope


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: type and payload with their lengths (DSSE protocol, section "Signature Definition")."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, payload_type: str, key: Ed25519PrivateKey) -> Envelope:
    """Sign a payload."""
    signature = key.sign(pre_authentication_encoding(payload_type, payload))
    return Envelope(payload_type, payload, (Signature(key_id(key.public_key()), signature),))


def verify(envelope: Envelope, payload_type: str, trusted: Collection[Ed25519PublicKey]) -> bytes:
    """Verify every signature of an envelope and only then return its payload.

    Raises
    ------
    SignatureError
        The payload is of another type, there is no signature, or one is wrong or by a key that is not in `trusted`.
    """
    if envelope.payload_type != payload_type:
        raise SignatureError(f"a {payload_type} was expected", why=f"the envelope holds {envelope.payload_type}")
    keys = {key_id(key): key for key in trusted}
    message = pre_authentication_encoding(envelope.payload_type, envelope.payload)
    for signature in envelope.signatures:
        key = keys.get(signature.keyid)
        if key is None:
            raise SignatureError(
                f"the signature by key {signature.keyid[:16]}… is not by a trusted key",
                fix="get the signer's public key from a source you trust and name it with --trust",
            )
        try:
            key.verify(signature.sig, message)
        except InvalidSignature:
            raise SignatureError(
                f"the signature by key {signature.keyid[:16]}… is wrong", why="what was signed has been changed"
            ) from None
    if not envelope.signatures:
        raise SignatureError("the envelope is not signed")
    return envelope.payload


def key_id(key: Ed25519PublicKey) -> str:
    """Return SHA-256 of the raw public key as hex; also a client's id."""
    return sha256_hex(key.public_bytes_raw())


def public_key_hex(key: Ed25519PublicKey) -> str:
    """Return the raw public key as 64 hex digits."""
    return key.public_bytes_raw().hex()


def public_key_from_hex(text: str) -> Ed25519PublicKey:
    """Invert :func:`public_key_hex`; raises :class:`SignatureError` for anything else, and for keys of small order."""
    try:
        raw = bytes.fromhex(text)
        key = Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        raise SignatureError("a public key is malformed", why="64 hex digits are needed") from None
    _refuse_small_order(raw)
    return key


def _refuse_small_order(raw: bytes) -> None:
    """Refuse the points of order 1, 2, 4 and 8: under them one signature is valid for every message, or for many."""
    y = int.from_bytes(raw, "little") & ((1 << 255) - 1)
    if y >= _FIELD or y in _SMALL_ORDER:
        raise SignatureError("a public key is none that anybody can own", why="it is a point of small order")


PASSPHRASE = "ZKAPEX_KEY_PASSPHRASE"  # noqa: S105 (the name of a variable)
"""Environment variable with the passphrase of encrypted keys, for programs that nobody sits before."""


def create_private_key(path: Path, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """Make a new key and store it as PEM, readable by its owner only, and encrypted if there is a passphrase.

    The file appears complete or not at all, and an existing file is never replaced.

    Raises
    ------
    InputError
        There is a file of that name.
    StorageError
        It could not be written.
    """
    key = Ed25519PrivateKey.generate()
    how = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)
    _create(path, pem, 0o600)
    return key


def load_private_key(path: Path, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """Read a key made by :func:`create_private_key`; an encrypted one with the passphrase, or that in `PASSPHRASE`.

    Raises
    ------
    InputError
        It is missing, not an Ed25519 key in PEM, others than its owner may read it, or the passphrase is wrong.
    StorageError
        It could not be read.
    """
    data, mode = _read(path)
    if mode & 0o077:
        raise InputError(f"the private key {path} can be read by others", fix=f"chmod 600 {path}, or make a new key")
    secret = passphrase or os.environ.get(PASSPHRASE, "").encode() or None
    if b"ENCRYPTED" not in data:
        secret = None
    elif secret is None:
        raise InputError(f"the private key {path} is encrypted", fix=f"set {PASSPHRASE} to its passphrase")
    try:
        key = load_pem_private_key(data, password=secret)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        wrong = "cannot be read with this passphrase" if secret else "is not a private key in PEM"
        raise InputError(f"{path} {wrong}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is not an Ed25519 key")
    return key


def load_or_create_private_key(path: Path) -> Ed25519PrivateKey:
    """Read the key at `path`, or make one if there is none; safe against another process doing the same."""
    if not path.exists():
        with suppress(InputError):
            return create_private_key(path)
    return load_private_key(path)


def save_public_key(key: Ed25519PublicKey, path: Path) -> None:
    """Store a public key as PEM; does nothing if exactly this key is there already.

    Raises
    ------
    InputError
        There is another file of that name.
    StorageError
        It could not be written.
    """
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if path.exists() and _read(path)[0] == pem:
        return
    _create(path, pem, 0o644)


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key in PEM.

    Raises
    ------
    InputError
        It is missing or not an Ed25519 public key in PEM.
    StorageError
        It could not be read.
    """
    data, _ = _read(path)
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{path} is not a public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} is not an Ed25519 key")
    _refuse_small_order(key.public_bytes_raw())
    return key


def _create(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # unlike rename, fails if there is a file of that name
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        raise InputError(f"{path} exists already", fix="remove it, or choose another name") from None
    except OSError as error:
        raise StorageError(f"{path} could not be written", why=error.strerror or str(error)) from error


def _read(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise InputError(f"{path} is not a file")
            return file.read(_MAX_KEY_FILE_BYTES), mode
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"there is no key file {path}", why=error.strerror or "") from None
    except OSError as error:
        raise StorageError(f"{path} could not be read", why=error.strerror or str(error)) from error

"""Reading signed documents that live longer than a conversation: receipts, reports, keysets.

Messages between our own parties have one encoding and nothing but valid signatures (`zkapex.proofs.records.signing`).
What is published passes through other people's tools: they may indent it, leave the key id out, or add a signature of
their own. What counts then is the payload, one valid signature on it by a trusted key, and that no signature under a
trusted key's name is wrong (https://github.com/secure-systems-lab/dsse, protocol v1.0.0).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from zkapex.errors import SignatureError
from zkapex.proofs.records.signing import MAX_ENVELOPE_BYTES, MAX_SIGNATURES, key_id, pre_authentication_encoding

_ENVELOPE = {"payload", "payloadType", "signatures"}
_SIGNATURE = {"sig", "keyid"}


@dataclass(frozen=True)
class Opened:
    """What was signed, and by which trusted keys."""

    payload: bytes
    signers: tuple[Ed25519PublicKey, ...]


def open_envelope(data: bytes, payload_type: str, trusted: Collection[Ed25519PublicKey]) -> Opened:
    """Verify that a trusted key has signed, and return what.

    A signature under an unknown key id is somebody else's and ignored; one without a key id is tried with every key.

    Raises
    ------
    SignatureError
        It is no envelope, holds something of another type, or no trusted key has signed it, or one has not signed this.
    """
    kind, payload, signatures = _parse(data)
    if kind != payload_type:
        raise SignatureError(f"a {payload_type} was expected", why=f"the envelope holds {kind[:100]}")
    keys = {key_id(key): key for key in trusted}
    message = pre_authentication_encoding(kind, payload)
    signers: dict[str, Ed25519PublicKey] = {}
    for name, signature in signatures:
        candidates = keys if not name else {name: keys[name]} if name in keys else {}
        for candidate, key in candidates.items():
            if _signed(key, signature, message):
                signers[candidate] = key
            elif name:
                raise SignatureError(
                    f"the signature by key {name[:16]}… is wrong", why="what was signed has been changed"
                )
    if not signers:
        names = " and ".join(f"key {name[:16]}…" if name else "a key it does not name" for name, _ in signatures)
        raise SignatureError(
            f"the signature by {names} is not by a trusted key",
            fix="get the signer's public key from a source you trust and name it with --trust",
        )
    return Opened(payload, tuple(signers.values()))


def peek(data: bytes) -> bytes:
    """The payload of an envelope nobody has verified yet.

    Raises
    ------
    SignatureError
        It is no envelope.
    """
    return _parse(data)[1]


def _signed(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _parse(data: bytes) -> tuple[str, bytes, list[tuple[str, bytes]]]:
    """Type, payload and signatures with their key ids, empty where there is none."""
    malformed = SignatureError("this is not a DSSE envelope", why="its JSON or base64 is malformed")
    if len(data) > MAX_ENVELOPE_BYTES:
        raise SignatureError(f"a signed envelope of {len(data)} bytes is too large")
    if data.count(b"[") + data.count(b"{") > MAX_SIGNATURES + 2:
        # Python's parser recurses in C: deeply nested lists can end the process before it raises RecursionError.
        raise SignatureError("this is not a DSSE envelope", why="it nests more lists and objects than one has")
    try:
        document = json.loads(data.decode("ascii"), object_pairs_hook=_once)
        if not isinstance(document, dict) or set(document) != _ENVELOPE:
            raise malformed
        kind, signatures = document["payloadType"], document["signatures"]
        if not isinstance(kind, str) or not isinstance(signatures, list):
            raise malformed
        found = []
        for entry in signatures:
            if not isinstance(entry, dict) or not {"sig"} <= set(entry) <= _SIGNATURE:
                raise malformed
            name = entry.get("keyid", "")
            if not isinstance(name, str) or len(name) > 256:
                raise malformed
            found.append((name, _decoded(entry["sig"])))
        payload = _decoded(document["payload"])
    except (ValueError, TypeError, LookupError, RecursionError, binascii.Error):
        raise malformed from None
    if not 1 <= len(found) <= MAX_SIGNATURES:
        raise SignatureError(f"a signed envelope has {len(found)} signatures")
    return kind, payload, found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is used twice")
    return found


def _decoded(text: Any) -> bytes:
    """Base64 in the standard alphabet, with padding, and with nothing in the bits that stand for nothing."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode("ascii") != text:
        raise ValueError("not the one encoding of its bytes")
    return data

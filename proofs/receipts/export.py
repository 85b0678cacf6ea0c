"""Receipts in other people's containers; what they say and who signed it stays the same."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from zkapex.errors import InputError
from zkapex.proofs.records.envelope import peek
from zkapex.proofs.records.intoto import PAYLOAD_TYPE
from zkapex.proofs.records.signing import Envelope

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def sigstore_bundle(envelope: bytes) -> bytes:
    """A receipt's envelope as a sigstore bundle v0.3, verified with a public key that is given, not with a certificate.

    https://docs.sigstore.dev/about/bundle/ : the key is named by the hint, which here is its id.
    """
    signed = Envelope.from_bytes(envelope)
    bundle: dict[str, Any] = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": signed.signatures[0].keyid}},
        "dsseEnvelope": {
            "payload": base64.b64encode(signed.payload).decode("ascii"),
            "payloadType": signed.payload_type,
            "signatures": [
                {"sig": base64.b64encode(s.sig).decode("ascii"), "keyid": s.keyid} for s in signed.signatures
            ],
        },
    }
    return json.dumps(bundle, indent=1).encode("ascii") + b"\n"


def cose_statement(envelope: bytes, key: Ed25519PrivateKey) -> bytes:
    """The payload of a receipt as a COSE_Sign1 (RFC 9052), with in-toto's content type, for SCITT's services.

    Raises
    ------
    InputError
        The extra ``scitt``, which brings CBOR, is not installed.
    """
    try:
        import cbor2
    except ImportError:
        raise InputError("COSE needs the extra `scitt`", fix="pip install 'zkapex[scitt]'") from None
    payload = peek(envelope)
    kid = key.public_key().public_bytes_raw()
    protected = cbor2.dumps({1: -8, 3: PAYLOAD_TYPE, 4: kid}, canonical=True)
    signed = cbor2.dumps(["Signature1", protected, b"", payload], canonical=True)
    return cbor2.dumps(cbor2.CBORTag(18, [protected, {}, payload, key.sign(signed)]), canonical=True)

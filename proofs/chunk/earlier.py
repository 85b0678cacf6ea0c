"""What the proofs of an enrolment that continues another one are tied to."""

from __future__ import annotations

import hashlib

from zkapex.proofs.records.record import encode_parts


def continuation_context(client_id: str, manifest_digest: str, nonce: str, previous: str) -> str:
    """Everything a proof about an enrolment must not be detached from, as hex."""
    return hashlib.sha256(
        encode_parts("zkapex:continuation:v1", client_id, manifest_digest, nonce, previous)
    ).hexdigest()

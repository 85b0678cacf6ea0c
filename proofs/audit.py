"""The audit draw: which touched chunks must be proved, decided by a seed the server committed to beforehand.

The server publishes the seed's hash in the request, the client answers with all its new commitments, and only then is
the draw made, from seed *and* commitments: neither side can steer it. The receipt reveals the seed, so that anyone can
repeat the draw.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Sequence

from zkapex.errors import ReceiptError
from zkapex.proofs.messages import Audit
from zkapex.proofs.record import encode_parts, sha256_hex


def seed_commitment(seed: str) -> str:
    """Return the hash to publish of a secret random seed (64 hex digits)."""
    return sha256_hex(encode_parts("zkapex:audit-seed:v1", bytes.fromhex(seed)))


def draw(audit: Audit, seed: str | None, response_root: str, touched: Sequence[int]) -> tuple[int, ...]:
    """Return the chunks to prove, ascending.

    Chunks are ordered by HMAC-SHA256 under the seed of the response's Merkle root and their own number; the first
    ``audit.count`` are drawn. A uniformly random subset to whoever does not know the seed.

    Raises
    ------
    ReceiptError
        The seed is not the one committed to, or one is given where none belongs.
    """
    if audit.count is None or audit.seed_commitment is None:
        if seed is not None:
            raise ReceiptError("a full audit has no seed")
        return tuple(sorted(touched))
    if seed is None or not hmac.compare_digest(seed_commitment(seed), audit.seed_commitment):
        raise ReceiptError("the audit seed is not the one the server committed to in its request")
    key = bytes.fromhex(seed)

    def rank(chunk: int) -> bytes:
        return hmac.digest(key, encode_parts("zkapex:audit-draw:v1", response_root, chunk), hashlib.sha256)

    return tuple(sorted(sorted(touched, key=rank)[: audit.count]))


def detection_probability(touched: int, proved: int, cheated: int) -> float:
    """Return the chance that a draw of `proved` out of `touched` chunks hits at least one of `cheated` bad ones."""
    if cheated <= 0:
        return 0.0
    return 1.0 - math.comb(touched - cheated, proved) / math.comb(touched, proved)

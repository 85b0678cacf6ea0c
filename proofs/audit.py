"""The audit draw: which touched chunks must be proved, decided by a seed the server committed to beforehand.

The server publishes the seed's hash in the request, the client answers with all its new commitments, and only then is
the draw made, from seed *and* commitments: neither side can steer it. The receipt reveals the seed, so that anyone can
repeat the draw.

How many chunks are drawn follows from two stated numbers: the fraction of the touched chunks that a cheat is assumed to
leave undone, and the probability with which such a cheat is to be found out. The draw is without replacement, so the
number of bad chunks in it is hypergeometric.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Sequence
from fractions import Fraction

from zkapex.errors import InputError, ReceiptError
from zkapex.proofs.messages import Audit
from zkapex.proofs.records.record import encode_parts, sha256_hex


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


def assumed_bad(touched: int, cheating: float) -> int:
    """Return how many of `touched` chunks are bad at least, if a fraction of at least `cheating` of them is.

    Never 0: somebody who cheats does so in one chunk or more. The fraction is taken as the decimal it is written as.
    """
    return max(1, math.ceil(Fraction(str(cheating)) * touched))


def detection_probability(touched: int, proved: int, cheated: int) -> float:
    """Return the chance that a draw of `proved` out of `touched` chunks hits at least one of `cheated` bad ones.

    ``1 - C(n - b, q) / C(n, q)``, exactly, then rounded once: the same on every machine. Less than certain stays so.
    """
    exact = _detection(touched, proved, cheated)
    return float(exact) if exact == 1 else min(float(exact), math.nextafter(1.0, 0.0))


def draws_for(touched: int, cheating: float, detect: float) -> int:
    """Return the smallest number of draws that finds out a cheat with probability `detect` or more.

    Parameters
    ----------
    touched : int
        Chunks the mask touches.
    cheating : float
        Fraction of them that the cheat is assumed to leave undone, in (0, 1]; see :func:`assumed_bad`.
    detect : float
        In (0, 1].

    Raises
    ------
    InputError
        A number is out of range.
    """
    if touched < 1 or not 0 < cheating <= 1 or not 0 < detect <= 1:
        raise InputError(
            f"no audit of {touched} chunks finds a cheat in {cheating} of them with probability {detect}",
            fix="give two fractions above 0, and at most 1",
        )
    bad, target = assumed_bad(touched, cheating), Fraction(str(detect))
    low, high = 1, touched - bad + 1  # with `high` draws, one must be bad
    while low < high:
        middle = (low + high) // 2
        if _detection(touched, middle, bad) >= target:
            high = middle
        else:
            low = middle + 1
    return low


def check_audit(audit: Audit, touched: int) -> None:
    """Check that a request's audit states the detection probability its own numbers have.

    Raises
    ------
    ReceiptError
        It draws more chunks than the mask touches, or states another probability.
    """
    if audit.count is None or audit.cheating is None:
        return
    if audit.count > touched:
        raise ReceiptError(f"an audit of {audit.count} chunks cannot be drawn from {touched} touched ones")
    found = detection_probability(touched, audit.count, assumed_bad(touched, audit.cheating))
    if audit.detection != found:
        raise ReceiptError(
            "the audit states another probability of detection than it has",
            why=f"{audit.count} of {touched} chunks find a cheat in {audit.cheating:.2%} of them with {found:.6f}",
        )


def sampled_audit(touched: int, cheating: float, detect: float, seed: str) -> Audit:
    """Return the audit that finds out a cheat in a fraction `cheating` of the chunks with probability `detect` or more.

    Raises
    ------
    InputError
        See :func:`draws_for`.
    """
    count = draws_for(touched, cheating, detect)
    return Audit(
        mode="sampled",
        count=count,
        seed_commitment=seed_commitment(seed),
        cheating=float(cheating),
        detection=detection_probability(touched, count, assumed_bad(touched, cheating)),
    )


def _detection(touched: int, proved: int, cheated: int) -> Fraction:
    if cheated <= 0 or proved <= 0:
        return Fraction(0)
    # C(n - b, q) / C(n, q) = C(n - q, b) / C(n, b): the smaller of b and q makes the smaller numbers.
    few, many = sorted((proved, cheated))
    return 1 - Fraction(math.comb(touched - many, few), math.comb(touched, few))

"""Parameters of a proof, and every term of the soundness error they have.

Sources: BCIKS, "Proximity gaps for Reed-Solomon codes" (ePrint 2020/654); Ligero (CCS 2017, ePrint 2022/1608); the
two lemmas on random projections are proved in docs/transparent.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from zkapex.circuits.transparent.code import BLOWUP
from zkapex.circuits.transparent.field import P

PROJECTIONS = 256
"""Columns of a random projection, whose entries are -1, 0 and 1 with probabilities 1/4, 1/2 and 1/4."""
NORM_SQUARE = 26
"""|Pi w|^2 >= 26 |w|^2 for any w, but for a probability of 2^LOG2_NORM_ERROR; the mean is 128 |w|^2."""
LOG2_NORM_ERROR = -132.0
"""A bound on `norm_error`, which `tests/circuits/transparent/test_norm.py` redoes with interval arithmetic."""
TARGET = -128.0
"""log2 of the soundness error that every proof must stay below."""
MAX_LOG2_K = 16
"""The largest code is of dimension 65536; a verifier allocates for no larger one."""


@dataclass(frozen=True)
class Parameters:
    """What determines the size of a proof.

    Parameters
    ----------
    k : int
        Length of a message, its padding included; a power of two.
    queries : int
        Columns that a proof opens.
    openings : int
        Proofs that may open one commitment; each uses up ``queries`` symbols of every row's padding.
    """

    k: int
    queries: int = 192
    openings: int = 3

    def __post_init__(self) -> None:
        if self.k & (self.k - 1) or not 64 <= self.k <= 1 << MAX_LOG2_K:
            raise ValueError(f"k = {self.k} is no power of two from 64 to 2^{MAX_LOG2_K}")
        if self.queries < 1 or self.openings < 1 or self.slots < self.k // 4:
            raise ValueError(f"{self.queries} queries and {self.openings} openings leave too few slots of {self.k}")

    @property
    def n(self) -> int:
        """Length of a word."""
        return BLOWUP * self.k

    @property
    def slots(self) -> int:
        """Values in a row: what is not padding."""
        return self.k - self.openings * self.queries


def soundness(parameters: Parameters, rows: int) -> dict[str, float]:
    """log2 of each term of the soundness error of one proof, and of their sum, ``total``.

    ``proximity``
        Words that are not all close to the code, in the same columns, have a combination that is: n / |K|, the affine
        form of the correlated agreement theorem within the unique decoding radius (BCIKS, theorem 1.6).
    ``columns``
        A column in which some row differs from its code word does not show in the combination: errors / |K|.
    ``batching``
        A false equation vanishes in a random combination: polynomials of degree at most 5 in each challenge, of which
        fewer than 2^8 in all are drawn before the last one that could save a false statement.
    ``queries``
        All opened columns are good ones, the largest of: words too far from the code, a false combination of close
        ones, a false sum or vanishing polynomial of degree below 2k on columns without errors.
    ``norms``, ``ranges``
        The lemmas on random projections: in the 2-norm, and modulo p in the largest entry (twice).

    Parameters
    ----------
    rows : int
        Rows of all commitments together; no term depends on it as long as it is below 2^20, which is checked.
    """
    if rows >= 1 << 20:
        raise ValueError(f"{rows} rows are more than the analysis covers")
    k, n = parameters.k, parameters.n
    field = 3 * math.log2(P)
    errors = (n - k) // 2
    query = max((n - errors - 1) / n, (errors + k - 1) / n, (2 * k - 1) / n)
    terms = {
        "proximity": math.log2(n) - field,
        "columns": math.log2(errors) - field,
        "batching": 8 + math.log2(5) - field,
        "queries": parameters.queries * math.log2(query),
        "norms": LOG2_NORM_ERROR,
        "ranges": 1.0 - PROJECTIONS,
    }
    return terms | {"total": math.log2(sum(2.0**t for t in terms.values()))}

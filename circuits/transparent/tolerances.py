"""How far honest rounding can be off, for any part of a layer: what the proofs of guarded Group-OBS tolerate.

The formulas are those of `zkapex.unlearning.operators.group_obs.tolerances`, which has their proof; they are needed
here for pieces of other sizes, and where torch is not installed. A test compares the two.
"""

from __future__ import annotations

import math

LOG_FAILURE = 32.0
"""Honest rounding exceeds a tolerance with probability at most exp(-LOG_FAILURE): 1.3e-14."""


def tolerances(rows: int, width: int, rank: int, kappa: int, guard_bits: int) -> tuple[int, int]:
    """Bounds on the sums of squares of stationarity and guard residuals of this many touched (block, row) pairs."""
    if not rows:
        return 0, 0
    t, spectral = LOG_FAILURE, 2.0**guard_bits + math.sqrt(width * rank) / 2
    pairs = rows * rank
    stationarity = (rows + 2 * math.sqrt(rows * t) + 2 * t) * 4.0**kappa / 12 + pairs * spectral**2 / 4
    guard = (pairs + 2 * math.sqrt(pairs * t) + 2 * t) * spectral**2 / 12 if rank else 0.0
    return math.ceil(stationarity), math.ceil(guard)

"""What honest rounding may do to stationarity and guard: who makes a request and who checks it compute the same."""

from __future__ import annotations

import math

from zkapex.errors import InputError

#: Dampening factors are whole multiples of ``1 / FACTOR_UNIT``.
FACTOR_UNIT = 256
#: log2 of the guard's scale. As large as kappa or nearly so, or else the multipliers outgrow the weights' range.
GUARD_BITS = 13
#: Honest rounding exceeds a tolerance with probability at most exp(-LOG_FAILURE) per chunk: 1.3e-14.
LOG_FAILURE = 32.0


def tolerances(rows: int, block_width: int, guard_rank: int, kappa: int, guard_bits: int) -> tuple[int, int]:
    """Upper bounds ``(tau_s, tau_g)`` on the sums of `zkapex.proofs.chunk.witness.square_sums` for honest rounding.

    Parameters
    ----------
    rows : int
        Rows with at least one masked weight; the others contribute nothing.
    block_width, guard_rank : int
        B and r.
    kappa : int
        log2 of the largest Frobenius norm of the encoded curvature.
    guard_bits : int
        log2 of the norm of the encoded guard's columns.

    Notes
    -----
    Rounding turns the exact d into d + e with e independent and uniform on [-1/2, 1/2] on U and zero on S (where d is
    an integer already). A uniform variable is strictly sub-Gaussian: its variance proxy is its variance, 1/12. For such
    e and any matrix A, with t > 0 (Hsu, Kakade and Zhang 2012, theorem 2.1, for the rows together):

        P[ |A e|^2 > (tr S + 2 sqrt(tr S^2 t) + 2 |S| t) / 12 ] <= exp(-t),   S = A^T A.

    *Stationarity.* mu is fitted to the rounded d by least squares and then rounded, so the residual of a row is
    ``P H e + V_U f``: P projects onto the complement of V_U's range (which leaves tr S no larger) and is orthogonal to
    the second part, where ``|f| <= 1/2`` per entry. Per row tr S <= |H|_F^2 <= 4**kappa, and tr S^2 <= (tr S)^2,
    |S| <= tr S, which a matrix of rank one attains:

        tau_s = (R + 2 sqrt(R t) + 2 t) 4**kappa / 12  +  R r g^2 / 4,    g = 2**guard_bits + sqrt(B r) / 2 >= |V|.

    *Guard.* Its residual is ``V_U^T e``, with tr S <= r g^2, tr S^2 <= r g^4 and |S| <= g^2 per row:

        tau_g = (R r + 2 sqrt(R r t) + 2 t) g^2 / 12.

    What they buy is in `zkapex.proofs.chunk.certificate`.

    Raises
    ------
    InputError
        If a size is negative, or there are no rows or columns.
    """
    if rows < 1 or block_width < 1 or guard_rank < 0 or kappa < 0 or guard_bits < 0:
        raise InputError("tolerances need at least one row and column, and no negative size")
    t = LOG_FAILURE
    spectral = 2.0**guard_bits + math.sqrt(block_width * guard_rank) / 2
    mu_part = rows * guard_rank * spectral**2 / 4
    tau_s = (rows + 2 * math.sqrt(rows * t) + 2 * t) * 4.0**kappa / 12 + mu_part
    total = rows * guard_rank
    tau_g = (total + 2 * math.sqrt(total * t) + 2 * t) * spectral**2 / 12 if guard_rank else 0.0
    return math.ceil(tau_s), math.ceil(tau_g)

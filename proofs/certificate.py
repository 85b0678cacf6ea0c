"""How far an accepted change can be from the exact operator: the certified distance.

Let e be the difference between an accepted delta and the exact one, on the unmasked weights U of one row, r_s the
stationarity residual and r_g the guard residual of that row. Then ``H_UU e - V_U nu = r_s`` and ``V_U^T e = r_g``.
Split ``e = e_0 + e_1`` with e_1 in the range of V_U and e_0 orthogonal to it. Then ``|e_1| <= |r_g| / sigma``, sigma
the smallest singular value of V_U, and from ``e_0^T H e_0 = e_0^T (r_s - H e_1)`` follows
``|e_0| <= (|r_s| + |H| |e_1|) / lambda``, with lambda the smallest eigenvalue of H. Both residuals are bounded over the
whole chunk by the enforced tolerances, and ``|H| <= sqrt(B)`` times the largest column norm.

Sigma follows from public data. Lambda and the column norm are what the device declared with the committed curvature:
the distance is certified relative to them, and worth as much as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from zkapex.circuits.statement import StatementSpec
from zkapex.proofs.chunk import PublicInputs
from zkapex.proofs.instance import Instance, place


def chunk_distance(spec: StatementSpec, public: PublicInputs, curvature_bits: int, lambda_min: float) -> float:
    """Upper bound on the Frobenius norm of (accepted - exact delta) over one chunk, in integer weight units.

    Parameters
    ----------
    curvature_bits : int
        log2 of the largest column norm of the encoded curvature.
    lambda_min : float
        Of the encoded curvature, as declared; positive.
    """
    stationarity, guard = (math.sqrt(s.largest) for s in public.slacks(spec))
    columns = public.guard[:, np.abs(public.guard).any(0)].astype(np.float64)
    along = 0.0
    if columns.shape[1]:
        sigma = min(
            float(np.linalg.svd(columns[~row], compute_uv=False)[-1]) if (~row).sum() >= columns.shape[1] else 0.0
            for row in public.mask
            if row.any()
        )
        along = guard / sigma if sigma > 0 else math.inf
    norm = math.sqrt(spec.block_width) * 2.0**curvature_bits
    across = (stationarity + norm * along) / lambda_min
    return math.hypot(across, along)


def request_distance(instance: Instance, lambda_min: Sequence[float]) -> float:
    """`chunk_distance` over all touched chunks of a request, in weight units (not integers): the 2-norm of the whole.

    Parameters
    ----------
    lambda_min : sequence of float
        Of every (layer, column block), as the client's enrolment declares them.
    """
    manifest = instance.manifest
    exponents = {layer.name: layer.exponent for layer in manifest.layers}
    total = 0.0
    for chunk in instance.touched:
        where = place(manifest, chunk)
        smallest = lambda_min[where.curvature]
        distance = chunk_distance(manifest.statement, instance.public(chunk), manifest.curvature_bits, smallest)
        total += (distance * 2.0 ** -exponents[where.layer]) ** 2
    return math.sqrt(total)

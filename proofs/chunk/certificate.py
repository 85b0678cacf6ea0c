"""How far an accepted change can be from the exact operator: the certified distance.

Let d be an accepted change of one row and d* the exact guarded Group-OBS change whose component along the guard is
that of d (``V_U^T d* = V_U^T d``; the tolerance of the guard bounds it). Then e = d - d* is orthogonal to V_U on the
unmasked weights U, zero elsewhere, and satisfies ``H_UU e - V_U nu = r`` with r the stationarity residual. So
``e^T H e = e^T r`` and ``|e| <= |r| / lambda``, with lambda the smallest eigenvalue of H.

H is ``F^T F + ridge I`` with F committed and ridge public: lambda is at least the ridge, whatever the device committed
to. The residuals are bounded over the whole chunk by the enforced tolerance, so the distance holds for the chunk as a
whole, and rests on nothing a device declares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from zkapex.circuits.statement import StatementSpec
from zkapex.proofs.chunk.instance import Instance, place
from zkapex.proofs.chunk.public import PublicInputs
from zkapex.proofs.operators import rules


def chunk_distance(spec: StatementSpec, public: PublicInputs) -> float | None:
    """Upper bound on the Frobenius norm of (accepted - exact change) over one chunk, in integer weight units.

    None if the statement says nothing about unmasked weights.
    """
    return rules(spec.kind).distance(spec, public)


def request_distance(instance: Instance, chunks: Iterable[int]) -> float | None:
    """`chunk_distances` of several chunks together, their 2-norm; None if the statement has none."""
    distances = chunk_distances(instance, chunks)
    return None if distances is None else math.sqrt(sum(distance**2 for distance in distances.values()))


def chunk_distances(instance: Instance, chunks: Iterable[int]) -> dict[int, float] | None:
    """`chunk_distance` of each chunk, in weight units instead of integers; None if the statement has none."""
    manifest = instance.manifest
    exponents = {layer.name: layer.exponent for layer in manifest.layers}
    distances = {}
    if manifest.by_layer:
        from zkapex.proofs.layer.terms import layer_distance, terms_of
    for chunk in chunks:
        if manifest.by_layer:
            distance = layer_distance(terms_of(instance, chunk))
        else:
            distance = chunk_distance(manifest.statement, instance.public(chunk))
        if distance is None:
            return None
        distances[chunk] = distance * 2.0 ** -exponents[place(manifest, chunk).layer]
    return distances

"""The statement that masked weights are zero, whatever the others are: standing compliance after personalisation.

Committed vectors: ``theta_u`` (``R x B``) and ``public`` (``mask_powers``: ``m_ij z^(i B + j)`` for a challenge z
hashed from the commitment to theta_u; context). One public output: ``<mask_powers, theta_u> == 0``, a polynomial in z
whose coefficients are the masked weights, so it vanishes with probability below ``R B / 2^253`` unless all are zero.
Every weight passes through the lookup, so the committed vector is one of weights in range.
"""

from __future__ import annotations

import onnx

from zkapex.circuits.halo2.graph import Graph
from zkapex.circuits.statement import StatementSpec


def build(spec: StatementSpec) -> onnx.ModelProto:
    """The graph, with one output."""
    g = Graph(spec)
    return g.model(g.dot(g.part("public", "mask_powers"), g.bounded(g.part("theta_u", "values"))))

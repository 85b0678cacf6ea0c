"""The operator dampening: multiply what is masked by factors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from zkapex.circuits.statement import FACTOR_UNIT
from zkapex.proofs.chunk.public import IntArray
from zkapex.unlearning.operators import Applied, Curvature, Operator, Terms


class Dampening(Operator):
    """Multiply the masked weights by the request's factors and round: selective synaptic dampening.

    Foster, Schoepf and Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening",
    AAAI 2024 (arXiv 2308.07707), equation 4.
    """

    name = "dampening"

    def change(self, weights: Mapping[str, IntArray], terms: Terms, curvature: Curvature, limit: int) -> Applied:
        """See `Operator`."""
        after = dict(weights)
        for name, mask in terms.masks.items():
            dampened = np.rint(weights[name] * terms.factors[name] / FACTOR_UNIT).astype(np.int64)
            after[name] = np.where(mask, dampened, weights[name])
        return after, {}

"""What halving does to weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from zkapex.proofs.chunk.public import IntArray
from zkapex.unlearning.operators import Applied, Curvature, Operator, Terms


class Halving(Operator):
    """Half of every masked weight, rounded."""

    name = "halving"

    def change(self, weights: Mapping[str, IntArray], terms: Terms, curvature: Curvature, limit: int) -> Applied:
        halved = {n: np.where(m, np.rint(weights[n] / 2).astype(np.int64), weights[n]) for n, m in terms.masks.items()}
        return {**weights, **halved}, {}

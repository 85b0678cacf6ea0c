"""The operator mask-only: zero what is masked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from zkapex.proofs.chunk.public import IntArray
from zkapex.unlearning.operators import Applied, Curvature, Operator, Terms


class MaskOnly(Operator):
    """Zero the masked weights and leave the rest as it is; proved is only the former, so weights may move meanwhile."""

    name = "mask-only"

    def change(self, weights: Mapping[str, IntArray], terms: Terms, curvature: Curvature, limit: int) -> Applied:
        """See `Operator`."""
        return {**weights, **{name: np.where(mask, 0, weights[name]) for name, mask in terms.masks.items()}}, {}

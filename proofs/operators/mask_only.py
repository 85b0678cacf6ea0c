"""Mask-only: masked weights are zero; nothing is said about the others, so there is no distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from zkapex.circuits.field import MODULUS, felts
from zkapex.circuits.statement import StatementSpec
from zkapex.proofs.operators.rules import Rules, outer, powers

if TYPE_CHECKING:
    from zkapex.proofs.chunk.public import PublicInputs


class MaskOnlyRules(Rules):
    """See `zkapex.circuits.operators.mask_only`."""

    def values(self, spec: StatementSpec, public: PublicInputs, challenge: int) -> Mapping[str, list[str]]:
        """See `Rules`."""
        rows = powers(pow(challenge, spec.block_width, MODULUS), spec.rows_per_chunk)
        masked = outer(public.mask, rows, powers(challenge, spec.block_width))
        return {"mask_powers": masked, "context": felts([public.context])}

    def distance(self, spec: StatementSpec, public: PublicInputs) -> float | None:
        """None."""
        return None


RULES = MaskOnlyRules()

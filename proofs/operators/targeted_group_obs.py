"""Targeted Group-OBS: as guarded Group-OBS, with the weights that result in place of their change along the guard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from zkapex.circuits.statement import StatementSpec
from zkapex.proofs.operators.guarded_group_obs import GuardedGroupObsRules

if TYPE_CHECKING:
    from zkapex.proofs.chunk.public import PublicInputs


class TargetedGroupObsRules(GuardedGroupObsRules):
    """See `zkapex.circuits.operators.targeted_group_obs`.

    The certified distance is that of guarded Group-OBS: its argument does not ask what is along the guard, only that
    the accepted and the exact change agree on it.
    """

    def values(self, spec: StatementSpec, public: PublicInputs, challenge: int) -> Mapping[str, list[str]]:
        """See `Rules`."""
        found = super().values(spec, public, challenge)
        return {name: value for name, value in found.items() if name != "guard_powers"}


RULES = TargetedGroupObsRules()

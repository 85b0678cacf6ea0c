"""The search for a mask on the device that holds what is to be forgotten; a `zkapex.client.agent.proposal.Planner`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zkapex.circuits.operators import declared
from zkapex.client.agent.proposal import Candidate, Draft
from zkapex.errors import InputError
from zkapex.proofs.messages import Claims, ModelManifest, ProposeRequest
from zkapex.unlearning.planning.search import FixedPoint, SearchSpace, search
from zkapex.unlearning.planning.trials import Copy, Examples


def plan_for_holder(
    candidates: Sequence[Candidate], forget_set: Examples, manifest: ModelManifest, request: ProposeRequest
) -> Draft:
    """The provider's own search on a device's models and data, within a request's limits.

    See `zkapex.unlearning.planning.search`.

    Raises
    ------
    InputError
        The operator is none whose mask grows, a scorer is unknown, or there is nothing to search on.
    RangeExceededError
        No mask of the search stays within the circuit's range.
    """
    if not declared(manifest.statement.kind).holder_plans:
        raise InputError(f"a holder proposes masks and guards, not the factors of {manifest.statement.kind}")
    space = SearchSpace(
        scorers=request.scorers,
        fractions=request.fractions,
        forget_target=request.forget_target,
        retain_cost=request.retain_cost,
        margin=request.margin,
        concentration=request.concentration,
        steer=None,  # proposals carry mask and guard only
        # What others lose is not seen here; a few samples may be no reason to take much from them.
        cost_first=True,
    )
    copies = [Copy(c.model, c.calibration, c.retain, c.personal) for c in candidates]
    encoding = FixedPoint(manifest.statement, manifest.curvature_bits)
    found = search(copies, [layer.name for layer in manifest.layers], forget_set, encoding, space)
    chosen = found.chosen
    guards = {
        (name, index): block.astype(np.int16)
        for name, blocks in found.guards.items()
        for index, block in enumerate(blocks)
        if block.any()
    }
    claims = Claims(
        scorer=chosen.setting.scorer,
        fraction=chosen.setting.fraction,
        forget=chosen.forget,
        forget_raised=chosen.forget_raised,
        retain=chosen.retain,
        personal=chosen.personal,
        retain_loss=chosen.retain_loss,
        personal_loss=chosen.personal_loss,
        reaches_target=chosen.reaches_target,
        within_cost=chosen.within_cost,
    )
    return Draft(found.masks, guards, claims)

"""What a provider asks of every client when something is to be forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from zkapex.proofs.backends import about
from zkapex.proofs.messages import ModelManifest
from zkapex.server.federation.settings import RunSettings
from zkapex.server.requests.plan import StoredPlan
from zkapex.unlearning.operators import operator


@dataclass(frozen=True)
class Deletion:
    """What is asked of every client.

    Attributes
    ----------
    request_id : str
    masks : mapping of str to bool [rows, cols]
    guards : mapping of (layer, block) to int16 [B, r]
    steering : mapping of (layer, block) to int16 [n, r]
        Along the guards, in units of the statement's ``guard_limit``, of the n rows with a masked weight in the block.
    operator : str
    tau_s, tau_g : int
        Tolerances.
    forget_digest : str
    lifetime : timedelta
        How long clients may take to answer.
    cheating : float or None
        Fraction of its touched chunks, one at least, that a cheat is assumed to leave undone; each client must then
        prove a random sample of its chunks, just large enough to find such a cheat out. None has all chunks proved.
    detect : float
        Probability with which the sample is to find it out.
    factors : mapping of str to int64 [rows, cols], optional
        For dampening, in units of ``1 / FACTOR_UNIT``.
    """

    request_id: str
    masks: Mapping[str, npt.NDArray[np.bool_]]
    guards: Mapping[tuple[str, int], npt.NDArray[np.int16]]
    operator: str
    tau_s: int
    tau_g: int
    forget_digest: str
    lifetime: timedelta = timedelta(days=7)
    cheating: float | None = None
    detect: float = 0.99
    factors: Mapping[str, npt.NDArray[np.int64]] | None = None
    steering: Mapping[tuple[str, int], npt.NDArray[np.int16]] | None = None


def deletion_of(
    request_id: str, plan: StoredPlan, manifest: ModelManifest, settings: RunSettings, digest: str, lifetime: timedelta
) -> Deletion:
    """What a plan asks of clients under a manifest and the federation's settings.

    Parameters
    ----------
    digest : str
        The commitment to what is deleted, of the provider's log.
    lifetime : timedelta
        How long clients may take.
    """
    statement = manifest.statement
    stated = about(manifest.backend).tolerances_stated  # else they follow from the mask
    tau_s, tau_g = operator(statement.kind).tolerances(statement) if stated else (0, 0)
    return Deletion(
        request_id=request_id,
        masks=plan.masks,
        guards=plan.guard_map(),
        operator=statement.kind,
        tau_s=tau_s,
        tau_g=tau_g,
        forget_digest=digest,
        lifetime=lifetime,
        cheating=settings.audit_cheating if settings.audit == "sampled" else None,
        detect=settings.audit_detect,
        factors=plan.factors or None,
        steering=plan.steering_map(statement.guard_limit),
    )

"""What a provider asks of every client when something is to be forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt


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

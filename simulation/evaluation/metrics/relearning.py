"""Relearning: whether what was forgotten comes back while the client goes on training on what it keeps."""

from __future__ import annotations

import copy

from torch import nn

from zkapex.simulation.data.digits import Examples
from zkapex.unlearning.personalise import FitSettings, fit


def relearned(model: nn.Module, retain: Examples, settings: FitSettings, seed: int) -> nn.Module:
    """A copy of a model after further training on retain examples alone, with nothing held at zero.

    A client that keeps to the protocol holds masked weights at zero (`zkapex.unlearning.personalise`). This is what one
    does that does not.
    """
    trained = copy.deepcopy(model)
    fit(trained, retain.inputs, retain.labels, settings, seed)
    return trained

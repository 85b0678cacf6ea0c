"""What stands when a request is planned: the fixed point of the manifest, and what earlier requests demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from zkapex.proofs.chunk.demands import Demands
from zkapex.proofs.messages import ModelManifest


@dataclass(frozen=True)
class Standing:
    """What later plans build upon; nothing, for the first.

    Attributes
    ----------
    exponents : mapping of str to int
        log2 of the layers' scales. Weights grow and shrink in training; what is prescribed of clients' integers is in
        the scales of the manifest. Layers that are not named have the scale of the model that is planned on.
    demands : Demands
    """

    exponents: Mapping[str, int] = field(default_factory=dict)
    demands: Demands = field(default_factory=Demands)

    @classmethod
    def of(cls, manifest: ModelManifest, demands: Demands) -> Standing:
        """Under a manifest."""
        return cls({layer.name: layer.exponent for layer in manifest.layers}, demands)

"""What prover and verifier compute about a chunk whose masked weights were halved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zkapex.circuits.field import MODULUS, felts, from_felt
from zkapex.errors import ProverError
from zkapex.proofs.operators import Rules

if TYPE_CHECKING:
    from zkapex.circuits.statement import StatementSpec
    from zkapex.proofs.chunk.public import PublicInputs


class HalvingRules(Rules):
    """Coefficients of the graph, and how far a halved weight is from exactly half."""

    def values(self, spec: StatementSpec, public: PublicInputs, challenge: int) -> Mapping[str, list[str]]:
        k, mask = spec.weight_limit, public.mask.astype(np.int64)
        rest = {"zero": felts([0]), "context": felts([public.context])}
        return {"of_theta": felts(k * mask), "of_delta": felts(2 * k - k * mask), **rest}

    def check_lookups(self, spec: StatementSpec, vectors: Mapping[str, Sequence[str]]) -> None:
        theta, delta, public = ([from_felt(x) for x in vectors[name]] for name in spec.inputs)
        n = spec.weights
        for t, d, of_theta, of_delta in zip(theta[:n], delta[:n], public[:n], public[n : 2 * n], strict=True):
            error = (of_theta * t + of_delta * d) % MODULUS
            if min(error, MODULUS - error) > spec.weight_limit:
                raise ProverError("a weight is not what halving makes of it")

    def distance(self, spec: StatementSpec, public: PublicInputs) -> float:
        return 0.5 * math.sqrt(int(public.mask.sum()))


RULES = HalvingRules()

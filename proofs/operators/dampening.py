"""Dampening: every weight is a public factor times the one before, rounded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zkapex.circuits.field import MODULUS, felts, from_felt
from zkapex.circuits.statement import FACTOR_UNIT, StatementSpec
from zkapex.errors import InputError, ProverError
from zkapex.proofs.operators.rules import Rules

if TYPE_CHECKING:
    from zkapex.proofs.chunk.public import PublicInputs


class DampeningRules(Rules):
    """See `zkapex.circuits.operators.dampening`."""

    def values(self, spec: StatementSpec, public: PublicInputs, challenge: int) -> Mapping[str, list[str]]:
        """See `Rules`."""
        if public.dampening is None:
            raise InputError("dampening needs factors")
        weighted = spec.rounding_weight * public.dampening
        return {
            "from_theta": felts(spec.rounding_weight * FACTOR_UNIT - weighted),
            "from_delta": felts(weighted),
            "zero": felts([0]),
            "context": felts([public.context]),
        }

    def check_lookups(self, spec: StatementSpec, vectors: Mapping[str, Sequence[str]]) -> None:
        """See `Rules`: the rounding errors."""
        theta_u, delta, public = ([from_felt(x) for x in vectors[name]] for name in ("theta_u", "delta", "public"))
        count = spec.weights
        for u, d, from_theta, from_delta in zip(theta_u[:count], delta, public, public[count:], strict=False):
            error = (from_theta * u + from_delta * d) % MODULUS
            if min(error, MODULUS - error) > spec.weight_limit:
                raise ProverError(
                    "a weight is not what its dampening factor makes of it",
                    fix="recompute the weights with the factors of this request",
                )

    def distance(self, spec: StatementSpec, public: PublicInputs) -> float:
        """Rounding each weight, by `StatementSpec.largest_rounding` at most."""
        return spec.largest_rounding * math.sqrt(spec.weights)


RULES = DampeningRules()

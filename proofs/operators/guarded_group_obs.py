"""Guarded Group-OBS: mask, guard and steering at a challenge, slack for both tolerances, and the certified distance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from zkapex.circuits.field import MODULUS, felts
from zkapex.circuits.halo2.slack import slack_limbs
from zkapex.circuits.operators.tolerances import GUARD_BITS, tolerances
from zkapex.circuits.statement import StatementSpec
from zkapex.errors import InputError
from zkapex.proofs.chunk.witness import square_sums
from zkapex.proofs.operators.rules import Rules, outer, powers

if TYPE_CHECKING:
    from zkapex.proofs.chunk.public import PublicInputs
    from zkapex.proofs.chunk.witness import Witness


class GuardedGroupObsRules(Rules):
    """See `zkapex.circuits.operators.guarded_group_obs`."""

    def largest_tolerances(self, spec: StatementSpec, kappa: int) -> tuple[int, int]:
        """See `Rules`."""
        return tolerances(spec.rows_per_chunk, spec.block_width, spec.guard_rank, kappa, GUARD_BITS)

    def values(self, spec: StatementSpec, public: PublicInputs, challenge: int) -> Mapping[str, list[str]]:
        """See `Rules`."""
        stationarity, guard = public.slacks(spec)
        keep = felts((~public.mask).astype(np.int64))
        common = {
            "keep": keep,
            "slack": felts([*stationarity.weights, *guard.weights]),
            "unit": felts([1]),
            "ridge": felts([spec.ridge]),
            "context": felts([public.context]),
        }
        if not spec.freivalds:
            transposed = felts(np.ascontiguousarray(public.guard.T))
            return {**common, "mask": felts(public.mask.astype(np.int64)), "guard": transposed}
        rank = spec.guard_rank
        a, b, c = challenge_powers(spec, challenge)
        derived = {**common, "mask_powers": outer(public.mask, a, b), "a": felts(a), "b": felts(b)}
        if rank:
            v = public.guard.tolist()
            guard_c = [sum(x * y for x, y in zip(row, c, strict=True)) % MODULUS for row in v]
            guard_b = [sum(row[k] * y for row, y in zip(v, b, strict=True)) % MODULUS for k in range(rank)]
            derived |= {
                "guard_powers": outer(public.mask, a, guard_c),
                "guard_c": felts(guard_c),
                "guard_b": felts(guard_b),
                "c": felts(c),
            }
        return derived

    def outputs(self, spec: StatementSpec, public: PublicInputs, challenge: int | None) -> list[str]:
        """See `Rules`."""
        stationarity, guard = public.slacks(spec)
        return felts([0, stationarity.half, guard.half] + [prescribed(spec, public, challenge)] * spec.freivalds)

    def private(self, spec: StatementSpec, public: PublicInputs, witness: Witness) -> dict[str, list[str]]:
        """See `Rules`; residuals and the slack of both sums are added."""
        residuals = witness.residuals(spec, public)
        limbs: list[int] = []
        for total, slack in zip(square_sums(residuals, public.mask), public.slacks(spec), strict=True):
            limbs += slack_limbs(slack, total, spec.weight_limit)
        return witness.with_limbs(spec, residuals, limbs)

    def distance(self, spec: StatementSpec, public: PublicInputs) -> float:
        """What stationarity leaves over the smallest eigenvalue of H."""
        return math.sqrt(public.slacks(spec)[0].largest) / spec.ridge


def prescribed(spec: StatementSpec, public: PublicInputs, challenge: int | None) -> int:
    """``a^T C c``, or with T, of what is prescribed along the guard.

    Raises
    ------
    InputError
        There is no challenge.
    """
    if public.steering is None:
        return 0
    if challenge is None:
        raise InputError("the outputs of a steered statement depend on its challenge")
    a, _, c = challenge_powers(spec, challenge)
    rows: list[list[int]] = public.steering.tolist()
    terms = (x * sum(y * z for y, z in zip(row, c, strict=True)) for x, row in zip(a, rows, strict=True) if any(row))
    return sum(terms) % MODULUS


def challenge_powers(spec: StatementSpec, challenge: int) -> tuple[list[int], list[int], list[int]]:
    """a, b and c of `zkapex.circuits.operators.guarded_group_obs`."""
    width, rank = spec.block_width, spec.guard_rank
    across = powers(challenge, width + rank)
    a = powers(pow(challenge, width + rank, MODULUS), spec.rows_per_chunk)
    return a, across[:width], across[width:]


RULES = GuardedGroupObsRules()

"""What prover and verifier agree on for one chunk, and the committed public vector that follows from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zkapex.circuits.field import MODULUS, felts
from zkapex.circuits.halo2.slack import Slack, slack_for
from zkapex.circuits.statement import FACTOR_UNIT, StatementSpec
from zkapex.errors import InputError
from zkapex.proofs.records.record import encode_parts

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MAX_STEERING = 2**31
"""Largest entry of the steering: far beyond what weights in range can reach, and no danger to exact arithmetic."""


@dataclass(frozen=True)
class PublicInputs:
    """What prover and verifier agree on for one chunk before a proof exists.

    Attributes
    ----------
    mask : bool [R, B]
        True where a weight must be zero; for dampening, where it may change.
    guard : int64 [B, r]
    tau_stationarity, tau_guard : int
        Requested tolerances; enforced are the slightly larger ones of `slacks`.
    context : int
        Field element binding the proof to its request, client, chunk, circuit and nonce.
    dampening : int64 [R, B], optional
        Factors of the weights in multiples of ``1 / FACTOR_UNIT``; for dampening only.
    steering : int64 [R, r], optional
        What is prescribed along the guard; all zero if left out. For guarded-group-obs C, of the unmasked change, zero
        in rows without a masked weight; for targeted-group-obs and constraint-only T, of the weights that result.
    """

    mask: BoolArray
    guard: IntArray
    tau_stationarity: int
    tau_guard: int
    context: int
    dampening: IntArray | None = None
    steering: IntArray | None = None

    def check(self, spec: StatementSpec) -> None:
        """Raise InputError if a shape or range does not fit the statement."""
        shape = (spec.rows_per_chunk, spec.block_width)
        if self.mask.shape != shape or self.mask.dtype != np.bool_:
            raise InputError(f"mask must be bool of shape {shape}, got {self.mask.dtype} {self.mask.shape}")
        if self.guard.shape != (spec.block_width, spec.guard_rank):
            raise InputError(f"guard must have shape {(spec.block_width, spec.guard_rank)}, got {self.guard.shape}")
        if self.guard.dtype != np.int64 or any(x.dtype != np.int64 for x in [self.dampening] if x is not None):
            raise InputError("guard and dampening factors must be int64")
        if self.guard.size and max(int(self.guard.max()), -int(self.guard.min())) > spec.guard_limit:
            raise InputError(f"a guard entry exceeds {spec.guard_limit}")
        if not 0 <= self.context < MODULUS:
            raise InputError("the context is not a field element")
        self._check_steering(spec)
        if (self.dampening is not None) != (spec.kind == "dampening"):
            raise InputError("dampening factors belong to the dampening statement, and to no other")
        if self.dampening is not None:
            if self.dampening.shape != shape or self.dampening.min() < 0 or self.dampening.max() > FACTOR_UNIT:
                raise InputError(f"dampening factors must have shape {shape} and lie between 0 and {FACTOR_UNIT}")
            if (self.dampening[~self.mask] != FACTOR_UNIT).any():
                raise InputError("a weight outside the mask has a dampening factor other than one")

    def _check_steering(self, spec: StatementSpec) -> None:
        if self.steering is None:
            return
        if not (spec.solves or spec.constrains_result) or not spec.freivalds:
            raise InputError("only statements with a guard and product checks prescribe anything along it")
        if self.steering.shape != (spec.rows_per_chunk, spec.guard_rank) or self.steering.dtype != np.int64:
            raise InputError(f"steering must be int64 of shape {(spec.rows_per_chunk, spec.guard_rank)}")
        if not spec.constrains_result and self.steering[~self.mask.any(1)].any():
            raise InputError("a row without a masked weight is steered", why="such rows do not change")
        if self.steering.size and max(int(self.steering.max()), -int(self.steering.min())) > MAX_STEERING:
            raise InputError(f"steering exceeds {MAX_STEERING}")

    def slacks(self, spec: StatementSpec) -> tuple[Slack, Slack]:
        """Both tolerances in the circuit's form."""
        try:
            return (slack_for(self.tau_stationarity, spec.weight_limit), slack_for(self.tau_guard, spec.weight_limit))
        except ValueError as e:
            raise InputError("a tolerance cannot be expressed in this circuit", why=str(e)) from e

    def digest(self, spec: StatementSpec) -> str:
        """SHA-256 (hex) of all of it: what is known before the prover has committed to anything.

        Raises
        ------
        InputError
            If a shape or range does not fit the statement.
        """
        self.check(spec)
        arrays = [np.packbits(self.mask), self.guard.astype("<i4")]
        if self.dampening is not None:
            arrays.append(self.dampening.astype("<i4"))
        if self.steering is not None:
            arrays.append(self.steering.astype("<i8"))
        numbers = [str(self.tau_stationarity), str(self.tau_guard), str(self.context)]
        message = encode_parts("zkapex:chunk:v2", *numbers, *(a.tobytes() for a in arrays))
        return hashlib.sha256(message).hexdigest()

    def outputs(self, spec: StatementSpec, challenge: int | None = None) -> list[str]:
        """The circuit's public outputs, as field elements.

        Raises
        ------
        InputError
            If there is steering, and no challenge.
        """
        if spec.kind == "constraint-only":
            return felts([0, self.slacks(spec)[1].half, self._steered(spec, challenge)])
        if not spec.solves:
            return felts([0])
        stationarity, guard = self.slacks(spec)
        return felts([0, stationarity.half, guard.half] + [self._steered(spec, challenge)] * spec.freivalds)

    def _steered(self, spec: StatementSpec, challenge: int | None) -> int:
        """``a^T C c``, or with T, see `zkapex.circuits.operators.guarded_group_obs`."""
        if self.steering is None:
            return 0
        if challenge is None:
            raise InputError("the outputs of a steered statement depend on its challenge")
        a, _, c = self._powers(spec, challenge)
        rows: list[list[int]] = self.steering.tolist()
        terms = (
            x * sum(y * z for y, z in zip(row, c, strict=True)) for x, row in zip(a, rows, strict=True) if any(row)
        )
        return sum(terms) % MODULUS

    @staticmethod
    def _powers(spec: StatementSpec, challenge: int) -> tuple[list[int], list[int], list[int]]:
        """a, b and c of `zkapex.circuits.operators.guarded_group_obs`."""
        width, rank = spec.block_width, spec.guard_rank
        across = powers(challenge, width + rank)
        a = powers(pow(challenge, width + rank, MODULUS), spec.rows_per_chunk)
        return a, across[:width], across[width:]

    def vector(self, spec: StatementSpec, challenge: int) -> list[str]:
        """The public committed vector, complete with what is derived from the challenge.

        Raises
        ------
        InputError
            If a shape or range does not fit the statement.
        """
        self.check(spec)
        values = {
            "guarded-group-obs": self._guarded_group_obs,
            "targeted-group-obs": self._guarded_group_obs,
            "constraint-only": self._constraint_only,
            "mask-only": self._mask_only,
            "dampening": self._dampening,
        }[spec.kind](spec, challenge)
        parts = spec.parts("public")
        if {name: len(v) for name, v in values.items()} != parts:
            raise InputError("the public vector does not have the parts the statement lists")
        return [felt for name in parts for felt in values[name]]

    def _guarded_group_obs(self, spec: StatementSpec, challenge: int) -> Mapping[str, list[str]]:
        stationarity, guard = self.slacks(spec)
        keep = felts((~self.mask).astype(np.int64))
        common = {
            "keep": keep,
            "slack": felts([*stationarity.weights, *guard.weights]),
            "unit": felts([1]),
            "ridge": felts([spec.ridge]),
            "context": felts([self.context]),
        }
        if not spec.freivalds:
            transposed = felts(np.ascontiguousarray(self.guard.T))
            return {**common, "mask": felts(self.mask.astype(np.int64)), "guard": transposed}
        rank = spec.guard_rank
        a, b, c = self._powers(spec, challenge)
        derived = {**common, "mask_powers": self._outer(a, b), "a": felts(a), "b": felts(b)}
        if rank:
            v = self.guard.tolist()
            guard_c = [sum(x * y for x, y in zip(row, c, strict=True)) % MODULUS for row in v]
            guard_b = [sum(row[k] * y for row, y in zip(v, b, strict=True)) % MODULUS for k in range(rank)]
            derived |= {"guard_c": felts(guard_c), "guard_b": felts(guard_b), "c": felts(c)}
            if not spec.constrains_result:
                derived["guard_powers"] = self._outer(a, guard_c)
        return derived

    def _constraint_only(self, spec: StatementSpec, challenge: int) -> Mapping[str, list[str]]:
        a, b, c = self._powers(spec, challenge)
        guard_c = [sum(x * y for x, y in zip(row, c, strict=True)) % MODULUS for row in self.guard.tolist()]
        return {
            "mask_powers": self._outer(a, b),
            "guard_c": felts(guard_c),
            "c": felts(c),
            "slack": felts(self.slacks(spec)[1].weights),
            "unit": felts([1]),
            "context": felts([self.context]),
            "a": felts(a),
        }

    def _mask_only(self, spec: StatementSpec, challenge: int) -> Mapping[str, list[str]]:
        a = powers(pow(challenge, spec.block_width, MODULUS), spec.rows_per_chunk)
        return {"mask_powers": self._outer(a, powers(challenge, spec.block_width)), "context": felts([self.context])}

    def _dampening(self, spec: StatementSpec, challenge: int) -> Mapping[str, list[str]]:
        if self.dampening is None:
            raise InputError("dampening needs factors")
        weighted = spec.rounding_weight * self.dampening
        from_theta = felts(spec.rounding_weight * FACTOR_UNIT - weighted)
        return {
            "from_theta": from_theta,
            "from_delta": felts(weighted),
            "zero": felts([0]),
            "context": felts([self.context]),
        }

    def _outer(self, rows: list[int], columns: list[int]) -> list[str]:
        """``m_ij rows_i columns_j``, row by row; nothing is computed where nothing is masked."""
        values = [0] * self.mask.size
        width = self.mask.shape[1]
        for i, j in np.argwhere(self.mask).tolist():
            values[i * width + j] = rows[i] * columns[j] % MODULUS
        return felts(values)


def powers(base: int, count: int) -> list[int]:
    """``base^0 .. base^(count - 1)`` in the field."""
    values = [1]
    for _ in range(count - 1):
        values.append(values[-1] * base % MODULUS)
    return values[:count]

"""What prover and verifier agree on for one chunk, and the committed public vector that follows from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zkapex.circuits.field import MODULUS
from zkapex.circuits.halo2.slack import Slack, slack_for
from zkapex.circuits.operators import declared
from zkapex.circuits.statement import FACTOR_UNIT, StatementSpec
from zkapex.errors import InputError
from zkapex.proofs.operators import rules
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
        Factors of the weights in multiples of ``1 / FACTOR_UNIT``; for operators with factors.
    steering : int64 [R, r], optional
        What is prescribed along the guard; all zero if left out. For guarded-group-obs C, of the unmasked change, zero
        in rows without a masked weight; where the result is constrained T, of the weights that result.
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
        if (self.dampening is not None) != ("factors" in declared(spec.kind).terms):
            raise InputError("dampening factors belong to operators with factors, and to no others", why=spec.kind)
        if self.dampening is not None:
            if self.dampening.shape != shape or self.dampening.min() < 0 or self.dampening.max() > FACTOR_UNIT:
                raise InputError(f"dampening factors must have shape {shape} and lie between 0 and {FACTOR_UNIT}")
            if (self.dampening[~self.mask] != FACTOR_UNIT).any():
                raise InputError("a weight outside the mask has a dampening factor other than one")

    def _check_steering(self, spec: StatementSpec) -> None:
        if self.steering is None:
            return
        if not {"steering", "targets"} & declared(spec.kind).terms or not spec.freivalds:
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
            They depend on a challenge, and there is none.
        """
        return rules(spec.kind).outputs(spec, self, challenge)

    def vector(self, spec: StatementSpec, challenge: int) -> list[str]:
        """The public committed vector, complete with what is derived from the challenge.

        Raises
        ------
        InputError
            If a shape or range does not fit the statement.
        """
        self.check(spec)
        values = rules(spec.kind).values(spec, self, challenge)
        parts = spec.parts("public")
        if {name: len(v) for name, v in values.items()} != parts:
            raise InputError("the public vector does not have the parts the statement lists")
        return [felt for name in parts for felt in values[name]]

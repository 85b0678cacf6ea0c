"""What only the client knows about one chunk, and the committed private vectors it makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from zkapex.circuits.field import MODULUS, felts, from_felt, random_elements
from zkapex.circuits.operators import operator_names
from zkapex.circuits.statement import SALTS, StatementSpec
from zkapex.errors import ProverError
from zkapex.proofs.chunk.public import BoolArray, IntArray, PublicInputs
from zkapex.proofs.operators import rules


@dataclass(frozen=True)
class SaltedVector:
    """A private committed vector: its values and the salts that hide them.

    Attributes
    ----------
    values : int64
        Any shape; committed in row-major order.
    salts : tuple of int
        Uniform field elements. Never printed.
    """

    values: IntArray
    salts: tuple[int, ...] = field(default_factory=lambda: random_elements(SALTS), repr=False)

    def vector(self) -> list[str]:
        """The committed vector, values then salts, as field elements."""
        return felts(self.values) + felts(self.salts)


@dataclass(frozen=True)
class Witness:
    """What only the client knows about one chunk.

    Attributes
    ----------
    theta_u : SaltedVector of int64 [R, B]
    delta : SaltedVector of int64 [R, B], optional
        ``theta_u - theta_p``; its salts are the difference of theirs. Not for mask-only.
    factor : SaltedVector of int64 [q, B] or [R, q, B], optional
        F of the curvature ``F^T F + ridge I``; for guarded-group-obs.
    mu : int64 [R, r], optional
        Multipliers of the guard; for guarded-group-obs.
    """

    theta_u: SaltedVector
    delta: SaltedVector | None = None
    factor: SaltedVector | None = None
    mu: IntArray | None = None

    @classmethod
    def build(
        cls,
        theta_p: SaltedVector,
        theta_u: SaltedVector,
        factor: SaltedVector | None = None,
        mu: IntArray | None = None,
    ) -> Witness:
        """The witness whose delta is the difference of two committed vectors, salts included."""
        salts = tuple((u - p) % MODULUS for u, p in zip(theta_u.salts, theta_p.salts, strict=True))
        return cls(theta_u, SaltedVector(theta_u.values - theta_p.values, salts), factor, mu)

    def salted(self) -> dict[str, SaltedVector]:
        """The salted vectors there are, by the statement's names for them."""
        named = {"theta_u": self.theta_u, "delta": self.delta, "factor": self.factor}
        return {name: vector for name, vector in named.items() if vector is not None}

    def private(self, spec: StatementSpec, public: PublicInputs) -> dict[str, list[str]]:
        """The private committed vectors, by name.

        Raises
        ------
        ProverError
            If a sum of squares exceeds its tolerance, a value the range, or a part does not fit the statement.
        """
        self._check(spec)
        return rules(spec.kind).private(spec, public, self)

    def residuals(self, spec: StatementSpec, public: PublicInputs) -> tuple[IntArray, IntArray]:
        """``E = delta H - mu V^T``, int64 [R, B], and `leak`, exactly."""
        if self.delta is None or self.factor is None or self.mu is None:
            raise ProverError(f"{spec.kind} needs delta, factor and multipliers")
        delta, factor = self.delta.values, self.factor.values.reshape(spec.factor_shape)
        if spec.curvature == "kfac":
            product = (delta @ factor.T) @ factor
        else:
            product = np.einsum("ik,ikj->ij", np.einsum("ij,ikj->ik", delta, factor), factor)
        return product + spec.ridge * delta - self.mu @ public.guard.T, self.leak(spec, public)

    def leak(self, spec: StatementSpec, public: PublicInputs) -> IntArray:
        """``L = (delta * keep) V - C`` or, where the result is constrained, ``theta_u V - T``; int64 [R, r], exactly.

        Raises
        ------
        ProverError
            The statement is about a change, and there is none.
        """
        if spec.constrains_result:
            along: IntArray = self.theta_u.values @ public.guard
        elif self.delta is not None:
            along = (self.delta.values * ~public.mask) @ public.guard
        else:
            raise ProverError(f"{spec.kind} needs delta")
        return along if public.steering is None else along - public.steering

    def with_limbs(
        self, spec: StatementSpec, residuals: tuple[IntArray, IntArray], limbs: Sequence[int]
    ) -> dict[str, list[str]]:
        """The private vectors for given residuals and slack limbs, whether or not the statement then holds."""
        aux = felts(np.empty(0, np.int64) if self.mu is None else self.mu) + felts(limbs)
        if spec.freivalds:
            aux += felts(residuals[0]) + felts(residuals[1])
        salted = {name: vector.vector() for name, vector in self.salted().items()}
        return {**salted, "aux": aux + felts(random_elements(SALTS))}

    def _check(self, spec: StatementSpec) -> None:
        given = self.salted()
        for name in spec.inputs:
            parts = spec.parts(name)
            if "values" not in parts:
                continue
            vector = given.get(name)
            if vector is None:
                raise ProverError(f"a {spec.kind} statement needs {name}")
            if (vector.values.size, len(vector.salts)) != (parts["values"], parts["salts"]):
                raise ProverError(
                    f"{name} has {vector.values.size} values and {len(vector.salts)} salts",
                    why=f"the circuit wants {parts['values']} and {parts['salts']}",
                )
        values = {name: vector.values for name, vector in given.items() if name in spec.inputs}
        for name, array in {**values, "mu": self.mu}.items():
            if array is None or not array.size:
                continue
            extreme = max(int(array.max()), int(array.min()), key=abs)  # numpy has no absolute value of -2^63
            if abs(extreme) > spec.weight_limit:
                raise ProverError(
                    f"{name} holds {extreme}, outside the circuit's range of {spec.weight_limit}",
                    fix="choose a smaller scale for the layer or a profile with a larger weight limit",
                )


def square_sums(residuals: tuple[IntArray, IntArray], mask: BoolArray) -> tuple[int, int]:
    """The two sums the circuit bounds, exactly: stationarity and guard.

    The residuals are far below 2^63 for every admissible statement; their squares are summed as Python integers.
    """
    stationarity, leak = residuals
    kept = stationarity * ~mask
    return sum(v * v for v in kept.ravel().tolist()), sum(v * v for v in leak.ravel().tolist())


def check_lookups(spec: StatementSpec, vectors: Mapping[str, Sequence[str]]) -> None:
    """Raise ProverError for what the lookup does not admit: ezkl would never return, having looked for the value."""
    for name, vector in vectors.items():
        parts = spec.parts(name)
        count = sum(parts.get(part, 0) for part in ("values", "mu", "limbs"))
        for text in vector[:count]:
            value = from_felt(text)
            if min(value, MODULUS - value) > spec.weight_limit:
                raise ProverError(f"{name} holds a value outside the circuit's range of {spec.weight_limit}")
    if spec.kind in operator_names():
        rules(spec.kind).check_lookups(spec, vectors)

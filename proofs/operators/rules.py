"""What an operator's proofs are made of and checked against; the base of its rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from zkapex.circuits.field import MODULUS, felts
from zkapex.circuits.statement import StatementSpec

if TYPE_CHECKING:
    from zkapex.proofs.chunk.public import PublicInputs
    from zkapex.proofs.chunk.witness import Witness


class Rules(ABC):
    """What prover and verifier compute about one chunk; both sides run the same code.

    Shapes and ranges of a chunk's public terms, and that there are none which the declaration does not list, are
    checked before (`zkapex.proofs.chunk.public.PublicInputs.check`).
    """

    @abstractmethod
    def values(self, spec: StatementSpec, public: PublicInputs, challenge: int) -> Mapping[str, list[str]]:
        """The public committed vector by its parts, as field elements.

        Parameters
        ----------
        challenge : int
            A hash of the commitments to all private vectors, fixed before this vector is.
        """

    def outputs(self, spec: StatementSpec, public: PublicInputs, challenge: int | None) -> list[str]:
        """The circuit's public outputs as field elements: one zero.

        Raises
        ------
        InputError
            They depend on the challenge, and there is none.
        """
        return felts([0])

    def private(self, spec: StatementSpec, public: PublicInputs, witness: Witness) -> dict[str, list[str]]:
        """The private committed vectors by name: those of the witness that the statement lists.

        Raises
        ------
        ProverError
            The witness does not satisfy the statement.
        """
        return {name: vector.vector() for name, vector in witness.salted().items() if name in spec.inputs}

    def check_lookups(  # noqa: B027 - most circuits look up nothing that they compute
        self, spec: StatementSpec, vectors: Mapping[str, Sequence[str]]
    ) -> None:
        """Raise ProverError if the circuit looks up a value that it computes itself, and that is out of range.

        Committed values, multipliers and limbs have been checked before; ezkl would never return.
        """

    def largest_tolerances(self, spec: StatementSpec, kappa: int) -> tuple[int, int]:
        """The tolerances ``(tau_s, tau_g)`` that honest rounding needs; a request that states larger asks for less.

        Parameters
        ----------
        kappa : int
            log2 of the largest Frobenius norm of the encoded curvature, `ModelManifest.curvature_bits`.
        """
        return 0, 0

    @abstractmethod
    def distance(self, spec: StatementSpec, public: PublicInputs) -> float | None:
        """The certified distance of one chunk in integer weight units, see `zkapex.proofs.chunk.certificate`.

        None if a proof says nothing about the weights that are not masked.
        """


def powers(base: int, count: int) -> list[int]:
    """``base^0 .. base^(count - 1)`` in the field."""
    values = [1]
    for _ in range(count - 1):
        values.append(values[-1] * base % MODULUS)
    return values[:count]


def outer(mask: npt.NDArray[np.bool_], rows: list[int], columns: list[int]) -> list[str]:
    """``m_ij rows_i columns_j``, row by row; nothing is computed where nothing is masked."""
    values = [0] * mask.size
    width = mask.shape[1]
    for i, j in np.argwhere(mask).tolist():
        values[i * width + j] = rows[i] * columns[j] % MODULUS
    return felts(values)

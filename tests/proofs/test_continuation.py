"""Proofs that commitments hold the same: taken for the same values only, and for what they were made for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny import built

from zkapex.circuits.field import MODULUS, random_elements
from zkapex.errors import CommitmentError
from zkapex.proofs.chunk.commitment import commit
from zkapex.proofs.chunk.continuation import Pair, prove_equal, verify_equal
from zkapex.proofs.chunk.witness import SaltedVector

VECTORS = 3


def rows(vector: str, seed: int) -> tuple[list[str], list[tuple[int, ...]]]:
    """Commitments to vectors made of a seed, and their fresh salts."""
    circuit, rng = built("kfac"), np.random.default_rng(seed)
    parts = circuit.spec.parts(vector)
    salts = [random_elements(parts["salts"]) for _ in range(VECTORS)]
    values = [rng.integers(-100, 100, parts["values"]) for _ in range(VECTORS)]
    return [commit(circuit, SaltedVector(v, s).vector()).hex() for v, s in zip(values, salts, strict=True)], salts


@pytest.mark.parametrize("vector", ["theta_u", "factor"])
def test_the_same_values_under_other_salts(vector: str) -> None:
    circuit = built("kfac")
    (before, old), (after, new) = rows(vector, 1), rows(vector, 1)
    assert not set(before) & set(after)
    pair = Pair(vector, before, after, "11" * 32)
    proof = prove_equal(circuit, pair, old, new)
    verify_equal(circuit, pair, proof)
    first, *rest = proof.responses
    other = f"{(int(first, 16) + 1) % MODULUS:064x}"
    for wrong_pair, wrong in (
        (replace(pair, context="22" * 32), proof),
        (replace(pair, before=before[::-1]), proof),
        (replace(pair, after=after[:-1]), proof),
        (pair, proof.model_copy(update={"responses": (other, *rest)})),
        (pair, proof.model_copy(update={"responses": tuple(rest)})),
        (pair, proof.model_copy(update={"responses": (f"{int(first, 16) + MODULUS:064x}", *rest)})),
        (pair, proof.model_copy(update={"commitment": after[0]})),
    ):
        with pytest.raises(CommitmentError):
            verify_equal(circuit, wrong_pair, wrong)


def test_other_values_are_not_the_same() -> None:
    (before, old), (after, new) = rows("theta_u", 1), rows("theta_u", 2)
    with pytest.raises(CommitmentError, match="do not hold"):
        prove_equal(built("kfac"), Pair("theta_u", before, after, "11" * 32), old, new)

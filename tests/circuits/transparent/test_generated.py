"""Arbitrary values in every row, slot and position of whole proofs: each is refused, or nothing reads it.

What reads a slot is taken from the program of the statement, all multipliers in place. Of rows of masks it is known:
that of P may be anything, those of S and V have to sum to zero and to vanish. Positions beyond the slots are padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import second_verifier
from make_vectors import CASES, Case, states
from second_field import Refused
from transparent_checker import Checker, read_slots
from transparent_forger import forged
from transparent_vectors import load, reason

from zkapex.circuits.transparent import enrol
from zkapex.circuits.transparent.field import Array, P
from zkapex.circuits.transparent.iop import MASKS
from zkapex.circuits.transparent.program import Program
from zkapex.circuits.transparent.prove import STATEMENTS
from zkapex.circuits.transparent.transcript import Transcript


class Reader(Checker):
    """Keeps the program that a statement makes."""

    program: Program

    def finish(self, program: Program) -> None:
        self.program = program


def read(case: Case) -> dict[str, np.ndarray]:
    """Which slots of each row something reads, ``[rows, slots]``."""
    side = Reader(case.layout, Transcript("reader"))
    side.strict = False
    for prefix, rows in states(case).items():
        side.put(prefix, "state", rows)
    if case.terms is None:
        enrol.enrol(side, case.layout, case.witness, case.moment)
    else:
        STATEMENTS[type(case.terms)].run(side, case.terms, case.witness)
    slots = case.layout.parameters.slots
    known = {
        "mask.p": np.zeros((3, slots), bool),
        "mask.s": np.ones((9, slots), bool),
        "mask.v": np.ones((9, slots), bool),
    }
    return {name: known[name] if name in MASKS else read_slots(side.program, name) for name in side.counts}


def places(found: dict[str, np.ndarray], k: int, rng: np.random.Generator) -> Iterator[tuple[str, int, int, bool]]:
    """(rows, row, position, whether something reads it): one that is read, one not, one of padding, of all."""
    for name, slots in found.items():
        for wanted in (True, False):
            where = np.argwhere(slots == wanted)
            if len(where):
                row, slot = (int(i) for i in where[int(rng.integers(len(where)))])
                yield name, row, slot, wanted
        if len(slots):
            yield name, int(rng.integers(len(slots))), int(rng.integers(slots.shape[1], k)), False


def attempt(name: str, case: Case, at: tuple[str, int, int], value: int) -> tuple[dict[str, Any], bytes]:
    """A proof with a value added at one place."""

    def change(rows: str, messages: Array) -> None:
        if rows == at[0]:
            messages[at[1], at[2]] = (int(messages[at[1], at[2]]) + value) % P

    return forged(load(name).about, case.witness, states(case), b"generated", change=change)


def accepted(about: dict[str, Any], proof: bytes) -> bool:
    why = reason(about, proof)
    # nothing but the statement itself may be wrong with it
    assert why in ("", "the sum over slots is wrong", "a condition does not hold at every slot")
    return not why


@pytest.mark.parametrize("name", CASES)
def test_an_arbitrary_value_is_refused_where_something_reads_it_and_harmless_elsewhere(name: str) -> None:
    make, parameters = CASES[name]
    case, rng = make(parameters), np.random.default_rng(11)
    every = list(places(read(case), parameters.k, rng))
    assert {wanted for *_, wanted in every} == {True, False}
    for i in rng.permutation(len(every))[:6]:
        rows, row, position, wanted = every[i]
        about, proof = attempt(name, case, (rows, row, position), int(rng.integers(2, P, dtype=np.uint64)))
        assert accepted(about, proof) is not wanted, (rows, row, position)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CASES)
def test_both_verifiers_say_the_same_of_many_such_values(name: str) -> None:
    make, parameters = CASES[name]
    case, rng = make(parameters), np.random.default_rng(12)
    for rows, row, position, wanted in places(read(case), parameters.k, rng):
        about, proof = attempt(name, case, (rows, row, position), int(rng.integers(2, P, dtype=np.uint64)))
        assert accepted(about, proof) is not wanted, (rows, row, position)
        if wanted:
            with pytest.raises(Refused, match=r"S sums to something else|V does not vanish"):
                second_verifier.verify(about, proof)
        else:
            second_verifier.verify(about, proof)

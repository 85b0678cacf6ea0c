"""Proofs that an earlier release made are accepted by this one, and by a verifier that shares no code with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import second_verifier
from make_vectors import CASES, made
from second_field import Refused
from transparent_vectors import layout, load, names, verify

from zkapex.circuits.transparent.params import TARGET
from zkapex.errors import InputError, VerificationError

SECOND = ("mask-only", "same-weights")
"""What the second verifier checks by default: it is slow."""


def first(about: dict[str, Any], proof: bytes) -> bool:
    try:
        verify(about, proof)
    except (InputError, VerificationError, ValueError):  # the last, of layouts that do not fit their arrays
        return False
    return True


def second(about: dict[str, Any], proof: bytes) -> bool:
    try:
        second_verifier.verify(about, proof)
    except (Refused, ValueError):
        return False
    return True


def mutations(about: dict[str, Any], proof: bytes, rng: np.random.Generator) -> Iterator[tuple[dict[str, Any], bytes]]:
    """What is said and the proof, one of them changed in one place, of every field once."""
    y = layout(about)
    k = y.parameters.k
    parts = [0, 32, 64, 96, 96 + 24 * k, 96 + 72 * k, 96 + 120 * k, len(proof)]
    if about["statement"] == "same-state":
        parts = [0, 32, 32 + 24 * k, 32 + 72 * k, 32 + 120 * k, len(proof)]
    for start, stop in pairwise(parts):
        at = int(rng.integers(start, stop))
        yield about, proof[:at] + bytes([proof[at] ^ (1 << int(rng.integers(8)))]) + proof[at + 1 :]
        yield about, proof[:start] + bytes(stop - start) + proof[stop:]
    yield about, proof[:-1]
    yield about, proof + b"\0"
    for name, root in about["roots"].items():
        yield {**about, "roots": {**about["roots"], name: root[:-1] + ("0" if root[-1] != "0" else "1")}}, proof
    yield {**about, "context": about["context"] + "00"}, proof
    for name, values in about["public"].items():
        if isinstance(values, bool):
            changed: Any = not values
        elif not np.size(values):
            continue
        else:
            changed = np.array(values)
            at_ = tuple(int(rng.integers(n)) for n in changed.shape)
            changed[at_] = 1 - changed[at_] if name in ("mask", "on_result") else changed[at_] + 1
            changed = changed.tolist()
        yield {**about, "public": {**about["public"], name: changed}}, proof
    for name, value in about["layout"].items():
        if name != "parameters" and value:
            yield {**about, "layout": {**about["layout"], name: value + 1}}, proof


@pytest.mark.parametrize("name", names())
def test_what_was_proved_then_is_accepted_now(name: str) -> None:
    vector = load(name)
    assert hashlib.sha256(vector.proof).hexdigest() == vector.about["proof_sha256"]
    assert len(vector.proof) < 50_000
    verify(vector.about, vector.proof)
    with pytest.raises(ValueError, match="soundness"):
        verify(vector.about, vector.proof, TARGET)  # of 8 queries


def test_every_statement_has_a_vector_that_says_how_it_was_made() -> None:
    from zkapex.circuits.transparent.prove import STATEMENTS

    vectors = [load(name).about for name in names()]
    enrolments = {"enrolment", "enrolment-moment"}
    assert {about["statement"] for about in vectors} == {one.name for one in STATEMENTS.values()} | enrolments
    assert set(names()) == set(CASES)
    for about in vectors:
        assert about["made_by"]["zkapex"]
        assert "tests/support/make_vectors.py" in about["made_by"]["command"]


@pytest.mark.parametrize("name", SECOND)
def test_the_second_verifier_agrees_on_a_small_one(name: str) -> None:
    vector, rng = load(name), np.random.default_rng(7)
    second_verifier.verify(vector.about, vector.proof)
    every = list(mutations(vector.about, vector.proof, rng))
    for i in rng.permutation(len(every))[:6]:
        assert (first(*every[i]), second(*every[i])) == (False, False)


def test_the_second_verifier_shares_no_code_with_the_first() -> None:
    support = Path(second_verifier.__file__).parent
    for path in support.glob("second_*.py"):
        text = path.read_text()
        assert "zkapex." not in text.replace("zkapex:transparent", "")
        assert "numba" not in text


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", names())
def test_both_verifiers_agree_on_every_mutation(name: str) -> None:
    vector = load(name)
    second_verifier.verify(vector.about, vector.proof)
    for i, (about, proof) in enumerate(mutations(vector.about, vector.proof, np.random.default_rng(3))):
        assert (first(about, proof), second(about, proof)) == (False, False), i


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["guarded-targets", "same-state"])
def test_a_proof_of_full_size_is_accepted_by_both(name: str) -> None:
    about, proof = made(name, full=True)
    verify(about, proof, TARGET)
    second_verifier.verify(about, proof)
    assert not second(about, proof[:-1] + bytes([proof[-1] ^ 1]))

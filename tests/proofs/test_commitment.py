"""Points of G1: on the curve, in one encoding, and in the relation ezkl's commitments are really in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py_ecc.optimized_bn128 import G1, field_modulus, multiply, normalize
from tiny import empty, honest, honest_expected, tiny

from zkapex.circuits.field import MODULUS, felts, random_elements, to_felt
from zkapex.circuits.halo2.store import RESERVED_ROWS
from zkapex.errors import CommitmentError
from zkapex.proofs.chunk.commitment import POINT_BYTES, Point, commit
from zkapex.proofs.chunk.witness import SaltedVector

SCALARS = st.integers(1, MODULUS - 1)


def times(scalar: int) -> Point:
    x, y = normalize(multiply(G1, scalar))
    return Point(x.n, y.n)


@settings(max_examples=20, deadline=None)
@given(SCALARS)
def test_encodings_round_trip(scalar: int) -> None:
    point = times(scalar)
    assert len(point.to_bytes()) == POINT_BYTES
    assert Point.from_bytes(point.to_bytes()) == Point.from_hex(point.hex()) == point


@settings(max_examples=20, deadline=None)
@given(SCALARS, SCALARS)
def test_addition_is_the_groups(a: int, b: int) -> None:
    if (a + b) % MODULUS:
        assert times(a) + times(b) == times((a + b) % MODULUS)
    if a != b:
        assert times(a) - times(b) == times((a - b) % MODULUS)
    assert times(a) + times(a) == times(2 * a % MODULUS)


def test_the_point_at_infinity_is_refused_wherever_it_could_come_from() -> None:
    with pytest.raises(CommitmentError, match="infinity"):
        times(5) - times(5)
    with pytest.raises(CommitmentError, match="curve"):
        Point.from_bytes(bytes(POINT_BYTES))
    with pytest.raises(CommitmentError, match="curve"):
        Point(0, 0)


@settings(max_examples=20, deadline=None)
@given(SCALARS, st.sampled_from([(1, 0), (0, 1), (1, 1)]))
def test_coordinates_beyond_the_modulus_are_refused(scalar: int, add: tuple[int, int]) -> None:
    point = times(scalar)
    x, y = (c + k * field_modulus for c, k in zip((point.x, point.y), add, strict=True))
    with pytest.raises(CommitmentError, match="canonical"):
        Point.from_bytes(x.to_bytes(32, "big") + y.to_bytes(32, "big"))
    with pytest.raises(CommitmentError, match="canonical"):
        Point(-1, point.y)


@given(st.binary(min_size=POINT_BYTES, max_size=POINT_BYTES))
def test_bytes_are_a_point_or_a_commitment_error(data: bytes) -> None:
    try:
        point = Point.from_bytes(data)
    except CommitmentError:
        return
    assert point.to_bytes() == data


@pytest.mark.parametrize("text", ["", "zz" * 64, "00", "0" * 127, " " + "00" * 63 + "0"])
def test_text_that_is_no_point_is_refused(text: str) -> None:
    with pytest.raises(CommitmentError):
        Point.from_hex(text)


def test_upper_case_is_another_encoding_and_refused() -> None:
    with pytest.raises(CommitmentError, match="lower-case"):
        Point.from_hex(times(2**200 + 11).hex().upper())
    with pytest.raises(CommitmentError, match="bytes"):
        Point.from_bytes(b"\1" * 63)


def test_real_commitments_are_deterministic_and_bind_values_and_salts() -> None:
    vector = honest().theta_p.vector()
    assert commit(tiny(), vector) == commit(tiny(), vector) == honest_expected().theta_p
    for at in (0, len(vector) // 2, len(vector) - 1):
        changed = [*vector]
        changed[at] = to_felt(int.from_bytes(bytes.fromhex(vector[at]), "little") + 1)
        assert commit(tiny(), changed) != honest_expected().theta_p


@pytest.mark.parametrize("seed", range(3))
def test_the_homomorphic_relation_between_real_commitments(seed: int) -> None:
    """com(theta_u) == com(theta_p) + com(delta) - com(0), salts included: check 4 of the statement."""
    rng = np.random.default_rng(seed)
    p, u = (SaltedVector(rng.integers(-2020, 2021, (32, 32))) for _ in range(2))
    salts = tuple((a - b) % MODULUS for a, b in zip(u.salts, p.salts, strict=True))
    delta = SaltedVector(u.values - p.values, salts)
    points = {n: commit(tiny(), v.vector()) for n, v in (("p", p), ("u", u), ("d", delta))}
    assert points["u"] - points["p"] + empty() == points["d"]
    other = SaltedVector(delta.values, random_elements(4))
    assert points["u"] - points["p"] + empty() != commit(tiny(), other.vector())


def test_a_vector_longer_than_the_column_is_refused() -> None:
    rows = 1 << tiny().spec.log2_rows
    with pytest.raises(CommitmentError, match="does not fit"):
        commit(tiny(), felts(range(rows)))
    assert commit(tiny(), felts(range(rows - RESERVED_ROWS)))

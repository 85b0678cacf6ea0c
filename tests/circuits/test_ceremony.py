"""Reference strings from elsewhere: a sound one passes, and every way to spoil one is refused."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from secrets import randbelow

import ezkl
import pytest
from federation import refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from py_ecc.optimized_bn128 import FQ2, FQ12, G1, G2, add, b2, field_modulus, final_exponentiate, multiply, normalize
from tiny import SRS_FILE

from zkapex.circuits.field import MODULUS
from zkapex.circuits.halo2.ceremony import check_srs, evaluations, final_power
from zkapex.circuits.halo2.points import linear_combination
from zkapex.circuits.halo2.sums import KEY, SETTINGS, adder, linear_combinations
from zkapex.errors import InputError, VerificationError

LOG2_ROWS = SRS_FILE.read_bytes()[0]
"""Of the reference string the tests share."""
K = 3
N = 2**K
LAGRANGE, G2_AT = 4 + N * 64, 4 + 2 * N * 64
S_G2_AT = G2_AT + 128
ROOT = pow(7, (MODULUS - 1) >> K, MODULUS)
"""Of unity, of order N."""


def fe(value: int) -> bytes:
    return (int(value) * 2**256 % field_modulus).to_bytes(32, "little")


def g1(scalar: int) -> bytes:
    if scalar % MODULUS == 0:
        return bytes(64)
    x, y = normalize(multiply(G1, scalar % MODULUS))
    return fe(x) + fe(y)


def g2(scalar: int) -> bytes:
    if scalar % MODULUS == 0:
        return bytes(128)
    point = multiply(G2, scalar % MODULUS)
    x, y = (c / point[2] for c in point[:2])
    return b"".join(fe(v) for c in (x, y) for v in c.coeffs)


def lagrange(s: int, i: int) -> int:
    """l_i(s), as the product it is defined by."""
    value = 1
    for j in range(N):
        if j != i:
            top, bottom = s - pow(ROOT, j, MODULUS), pow(ROOT, i, MODULUS) - pow(ROOT, j, MODULUS)
            value = value * top * pow(bottom, -1, MODULUS) % MODULUS
    return value


@cache
def made(s: int) -> bytes:
    """The reference string of a trapdoor, from the definition."""
    powers = b"".join(g1(pow(s, i, MODULUS)) for i in range(N))
    return K.to_bytes(4, "little") + powers + b"".join(g1(lagrange(s, i)) for i in range(N)) + g2(1) + g2(s)


SECRET = 0x1234567890ABCDEF1234567890ABCDEF
GOOD = made(SECRET)


def refuses(tmp_path: Path, data: bytes, *, thorough: bool = True) -> str:
    path = tmp_path / "given.srs"
    path.write_bytes(data)
    error = refused(lambda: check_srs(path, K, thorough=thorough), VerificationError)
    assert str(path) in error.what
    assert "trust" in error.fix
    return f"{error.what} {error.why}"


def put(at: int, new: bytes, data: bytes = GOOD) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def test_what_ezkl_generates_passes(tmp_path: Path) -> None:
    ezkl.gen_srs(str(tmp_path / "srs"), 4)
    check_srs(tmp_path / "srs", 4)
    check_srs(SRS_FILE, LOG2_ROWS, thorough=False)


def test_what_follows_from_the_definition_passes(tmp_path: Path) -> None:
    (tmp_path / "srs").write_bytes(GOOD)
    check_srs(tmp_path / "srs", K)


@pytest.mark.parametrize(
    ("trapdoor", "what"),
    [
        (0, "infinity"),
        (1, "infinity"),
        (MODULUS - 1, "infinity"),
        (ROOT, "infinity"),
        (pow(ROOT, 3, MODULUS), "infinity"),
        (pow(5, (MODULUS - 1) // 3, MODULUS), "two of its powers are equal"),
    ],
    ids=["0", "1", "-1", "root", "another root", "of order 3"],
)
@pytest.mark.parametrize("thorough", [False, True])
def test_degenerate_trapdoors_are_refused(tmp_path: Path, trapdoor: int, what: str, thorough: bool) -> None:
    assert what in refuses(tmp_path, made(trapdoor), thorough=thorough)


OTHER = made(SECRET + 1)
SPOILT: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "rows"),
    "its size alone": (GOOD[:4], "bytes"),
    "too short": (GOOD[:-1], "bytes"),
    "too long": (GOOD + b"\0", "bytes"),
    "another size": (put(0, b"\x04"), "2^4 rows"),
    "a huge size": (put(0, b"\xff\xff\xff\xff"), "rows"),
    "trapdoor 0": (put(S_G2_AT, g2(0)), "trapdoor is 0"),
    "trapdoor 1": (put(S_G2_AT, g2(1)), "trapdoor is 1"),
    "another trapdoor": (put(S_G2_AT, g2(SECRET + 1)), "not those of its trapdoor"),
    "trapdoor off the curve": (put(S_G2_AT, fe(1) + bytes(96)), "not in the group"),
    "another generator of G2": (put(G2_AT, g2(2)), "generator of G2"),
    "another generator of G1": (put(4, g1(2)), "generator of G1"),
    "equal powers": (put(4 + 64, g1(1)), "two of its powers"),
    "the first power of another": (put(4 + 64, g1(SECRET + 1)), "not those of its trapdoor"),
    "all powers of another": (put(4, OTHER[4:LAGRANGE]), "not those of its trapdoor"),
    "a power off the curve": (put(4 + 2 * 64, fe(1) + fe(1)), "power 2 is not on the curve"),
    "a power at infinity": (put(4 + 2 * 64, bytes(64)), "power 2 is the point at infinity"),
    "a Lagrange point off the curve": (put(LAGRANGE, fe(5) + fe(1)), "Lagrange point 0 is not on the curve"),
    "a Lagrange point at infinity": (put(LAGRANGE + 64, bytes(64)), "Lagrange point 1 is the point at infinity"),
    "a coordinate that is not canonical": (put(4, b"\xff" * 32), "not canonical"),
}
ONLY_THOROUGHLY: dict[str, tuple[bytes, str]] = {
    "a later power": (put(4 + 5 * 64, g1(77)), "not those of its trapdoor"),
    "the last power": (put(4 + (N - 1) * 64, g1(77)), "not those of its trapdoor"),
    "later powers exchanged": (
        put(4 + 5 * 64, GOOD[4 + 6 * 64 : 4 + 7 * 64] + GOOD[4 + 5 * 64 : 4 + 6 * 64]),
        "powers",
    ),
    "a Lagrange point": (put(LAGRANGE + 64, g1(77)), "Lagrange points do not belong"),
    "Lagrange points exchanged": (
        put(LAGRANGE, GOOD[LAGRANGE + 64 : LAGRANGE + 128] + GOOD[LAGRANGE : LAGRANGE + 64]),
        "Lagrange points do not belong",
    ),
    "Lagrange points of another": (put(LAGRANGE, OTHER[LAGRANGE:G2_AT]), "Lagrange points do not belong"),
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("thorough", [False, True])
def test_spoilt_files_are_refused(tmp_path: Path, name: str, thorough: bool) -> None:
    data, what = SPOILT[name]
    assert what in refuses(tmp_path, data, thorough=thorough)


@pytest.mark.parametrize("name", ONLY_THOROUGHLY)
def test_points_that_do_not_belong_together_are_refused(tmp_path: Path, name: str) -> None:
    data, what = ONLY_THOROUGHLY[name]
    assert what in refuses(tmp_path, data)


def test_a_twist_point_outside_the_group_is_refused(tmp_path: Path) -> None:
    """On the curve is not enough in G2, whose cofactor is large: some small x have a y."""
    q = field_modulus
    for candidate in range(1, 50):
        x = FQ2([candidate, 1])
        square = x * x * x + b2
        a, b = (int(c) for c in square.coeffs)
        norm = pow(a * a + b * b, (q + 1) // 4, q)
        if norm * norm % q != (a * a + b * b) % q:
            continue
        for half in ((a + norm) * pow(2, -1, q) % q, (a - norm) * pow(2, -1, q) % q):
            c = pow(half, (q + 1) // 4, q)
            if c * c % q == half and c:
                y = FQ2([c, b * pow(2 * c, -1, q) % q])
                assert y * y == square
                spoilt = put(S_G2_AT, b"".join(fe(int(v)) for e in (x, y) for v in e.coeffs))
                assert "not in the group" in refuses(tmp_path, spoilt)
                return
    pytest.fail("no point was found")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(GOOD) - 1), flip=st.integers(1, 255))
def test_no_byte_can_change(tmp_path: Path, at: int, flip: int) -> None:
    refuses(tmp_path, put(at, bytes([GOOD[at] ^ flip])))


def test_files_that_are_not_there_or_not_readable(tmp_path: Path) -> None:
    refused(lambda: check_srs(tmp_path / "none", K), InputError)
    for rows in (0, -1, 29):
        refused(lambda rows=rows: check_srs(tmp_path / "none", rows), InputError)


def test_a_file_is_measured_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.srs"
    shutil.copyfile(SRS_FILE, path)
    os.truncate(path, 2**33)
    assert "bytes" in refused(lambda: check_srs(path, LOG2_ROWS), VerificationError).what


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, MODULUS + 5)), max_size=12))
@settings(max_examples=40, deadline=None)
def test_linear_combinations_are_py_eccs(terms: list[tuple[int, int]]) -> None:
    total, points = None, []
    for multiple, scalar in terms:
        point = multiply(G1, multiple)
        x, y = normalize(point)
        points.append((int(x), int(y)))
        product = multiply(point, scalar % MODULUS)
        total = product if total is None else add(total, product)
    found = linear_combination(points, [scalar for _, scalar in terms])
    if total is None or total[2] == 0:
        assert found is None
    else:
        assert found == tuple(int(v) for v in normalize(total))


@given(st.integers(0, 5), st.data())
def test_evaluations_are_those_of_the_polynomial(k: int, data: st.DataObject) -> None:
    size = 1 << k
    coefficients = data.draw(st.lists(st.integers(0, MODULUS), min_size=size, max_size=size))
    root = pow(7, (MODULUS - 1) >> k, MODULUS)
    values = [sum(c * pow(root, i * j, MODULUS) for j, c in enumerate(coefficients)) % MODULUS for i in range(size)]
    assert evaluations(coefficients) == values


def test_large_sums_are_those_of_small_ones(tmp_path: Path) -> None:
    """By ezkl, as one commits; the last rows, which ezkl keeps for blinding, are added here."""
    power = normalize(multiply(G1, SECRET))
    x, y = (int(v) for v in power)
    points = [(1, 2), (x, y)] * 256
    tail = g2(1) + g2(SECRET)
    vectors = [
        [randbelow(MODULUS) for _ in points],
        [0] * 511 + [5],
        [0] * 512,
        [1, MODULUS - 1] * 256,
        [1, 0, MODULUS - 1, 0] * 128,
    ]
    found = linear_combinations(points, vectors, tail)
    assert found == [linear_combination(points, vector) for vector in vectors]
    assert found[1] is not None
    assert found[2] is None
    assert found[4] is None


@pytest.mark.parametrize("place", [("power", 1), ("power", 200), ("power", 511), ("Lagrange", 0), ("Lagrange", 511)])
def test_points_of_long_strings_that_do_not_belong_are_refused(
    place: tuple[str, int], long_string: bytes, tmp_path: Path
) -> None:
    """Where ezkl adds them up: the first, one in the middle, and those at the end that ezkl keeps for blinding."""
    kind, number = place
    at = 4 + (512 * (kind == "Lagrange") + number) * 64
    (tmp_path / "srs").write_bytes(put(at, g1(77), long_string))
    error = refused(lambda: check_srs(tmp_path / "srs", 9), VerificationError)
    assert ("Lagrange points do not belong" if kind == "Lagrange" else "not those of its trapdoor") in error.what


@pytest.fixture(scope="module")
def long_string(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("long") / "srs"
    ezkl.gen_srs(str(path), 9)
    check_srs(path, 9)
    return path.read_bytes()


def test_the_key_that_adds_is_what_ezkl_makes(tmp_path: Path) -> None:
    assert adder(SRS_FILE, tmp_path) == (KEY.read_bytes(), SETTINGS.read_bytes())


def test_the_final_power_is_py_eccs() -> None:
    element = FQ12([randbelow(field_modulus) for _ in range(12)])
    assert final_power(element) == final_exponentiate(element)

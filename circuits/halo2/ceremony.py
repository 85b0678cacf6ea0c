"""Checking a structured reference string that somebody else made, before anything is committed to with it.

A reference string for circuits of n = 2^k rows is, in halo2's ``RawBytes`` layout (ezkl's)::

    k           4 bytes, little-endian
    g           n points of G1: G, sG, s^2 G, ...           (64 bytes each)
    g_lagrange  n points of G1: l_0(s) G, l_1(s) G, ...     (64 bytes each)
    g2, s_g2    two points of G2: H, sH                     (128 bytes each)

where s is the trapdoor nobody should know and l_i are the Lagrange polynomials over the n-th roots of unity. A
coordinate is 32 little-endian bytes holding ``x * 2^256 mod q`` (Montgomery's form), an element of the extension field
its two coefficients, and the point at infinity all zeros.

What can be checked is that all points are what they must be for *some* s, and that s is none of the values at which
commitments hide nothing. Nobody can check that s was forgotten: that is what a ceremony's transcript is for.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from py_ecc.optimized_bn128 import (
    FQ,
    FQ2,
    FQ12,
    G2,
    b2,
    is_inf,
    is_on_curve,
    multiply,
    neg,
    pairing,
)

from zkapex.circuits.field import MODULUS
from zkapex.circuits.halo2.points import FE, G1_BYTES, Affine, Jacobian, Q, add, affine_of, encoded, negative, times
from zkapex.circuits.halo2.sums import linear_combinations
from zkapex.errors import InputError, StorageError, VerificationError

G2_BYTES = 128
MAX_LOG2_ROWS = 28
"""BN254's scalar field has roots of unity of order up to 2^28."""

_UNMONTGOMERY = pow(2, -256, Q)
_ROOT = pow(7, (MODULUS - 1) >> MAX_LOG2_ROWS, MODULUS)
"""The root of unity of order 2^28 that halo2 takes its domains from."""
_GENERATOR = (1, 2)
_COEFFICIENT_BITS = 64
"""Of random linear combinations: what is wrong goes unnoticed with probability 2^-64, drawn anew each time."""

Twist = tuple[FQ2, FQ2, FQ2]
_TWIST_ROOT = pow(82, (Q - 1) // 6, Q)


def check_srs(path: Path, log2_rows: int, *, thorough: bool = True) -> None:
    """Return only if the file is a reference string for 2^log2_rows rows that hides what is committed to with it.

    Parameters
    ----------
    path : Path
    log2_rows : int
        k, of the circuit it is for.
    thorough : bool
        Whether all powers and all Lagrange points are checked against the trapdoor (by random linear combinations, two
        Miller loops), or only the first power. A file that fails only there lets the one who altered it make
        commitments that mean something else to the verifier than to the prover.

    Raises
    ------
    VerificationError
        It is of another size or format, has points that are none, or its trapdoor is one at which commitments do not
        hide (0, 1 or another root of unity of order 2^log2_rows or less).
    InputError
        There is no such file, or `log2_rows` is out of range.
    StorageError
        It could not be read.
    """
    if not 1 <= log2_rows <= MAX_LOG2_ROWS:
        raise InputError(f"there are no circuits of 2^{log2_rows} rows", fix=f"choose 1 to {MAX_LOG2_ROWS}")
    count = 1 << log2_rows
    data = _read(path, 4 + 2 * count * G1_BYTES + 2 * G2_BYTES, log2_rows)
    powers = _points(path, data, 4, count, "power")
    lagrange = _points(path, data, 4 + count * G1_BYTES, count, "Lagrange point")
    end = 4 + 2 * count * G1_BYTES
    if _g2(path, data, end) != (G2[0], G2[1]):
        raise _wrong(path, "its generator of G2 is not BN254's")
    trapdoor = _trapdoor(path, data, end + G2_BYTES)
    if powers[0] != _GENERATOR:
        raise _wrong(path, "its first power is not the generator of G1")
    if len(set(powers)) != count:
        raise _wrong(path, "two of its powers are equal", "its trapdoor is a root of unity of a small order")
    if thorough:
        _check_all(path, powers, lagrange, trapdoor, data[end:])
    elif not _times_trapdoor(powers[1], powers[0], trapdoor):
        raise _wrong(path, "its powers are not those of its trapdoor")


def height_of(path: Path) -> int:
    """log2 of the number of points a file in this layout has, as it says itself and its size agrees.

    Raises
    ------
    VerificationError
        They do not agree.
    InputError
        There is no such file.
    """
    try:
        with path.open("rb") as file:
            log2_rows = int.from_bytes(file.read(4), "little")
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise InputError(f"there is no reference string {path}") from None
    except OSError as e:
        raise StorageError(f"the reference string {path} could not be read", why=str(e)) from e
    if not 1 <= log2_rows <= MAX_LOG2_ROWS or size != 4 + (2 << log2_rows) * G1_BYTES + 2 * G2_BYTES:
        raise _wrong(path, f"it has {size} bytes and says it has 2^{log2_rows} rows, which do not belong together")
    return log2_rows


def truncated(path: Path, log2_rows: int) -> bytes:
    """The reference string for fewer rows that a larger one contains, as bytes.

    Its powers are the first ones of the larger string. Its Lagrange points are not among the larger one's: they are the
    powers' inverse Fourier transform, ``l_i = 1/n sum_j w^(-ij) s^j G``, made here by the fast transform over points
    (``n/2 log2 n`` multiplications, 2 CPU-s for 2^10 rows, 9 for 2^12).

    Raises
    ------
    VerificationError, InputError, StorageError
        As `height_of`; or if it has fewer rows than wanted.
    """
    k = height_of(path)
    if log2_rows > k or log2_rows < 1:
        raise InputError(f"{path} is for 2^{k} rows, and cannot be made longer", fix=f"import one for 2^{log2_rows}")
    count = 1 << log2_rows
    with path.open("rb") as file:
        file.seek(4)
        powers = file.read(count * G1_BYTES)
        file.seek(4 + (2 << k) * G1_BYTES)
        tail = file.read(2 * G2_BYTES)
    if log2_rows == k:
        return path.read_bytes()
    points: list[Jacobian] = [(*point, 1) for point in _points(path, powers, 0, count, "power")]
    lagrange = b"".join(encoded(point) for point in _inverse_transform(points))
    return log2_rows.to_bytes(4, "little") + powers + lagrange + tail


def _inverse_transform(points: list[Jacobian]) -> list[Affine]:
    """``1/n sum_j w^(-ij) points[j]`` for all i, w being halo2's root of unity of order n."""
    size = len(points)
    bits = size.bit_length() - 1
    values = list(points)
    for i in range(size):
        j = int(f"{i:0{bits}b}"[::-1], 2)
        if i < j:
            values[i], values[j] = values[j], values[i]
    half = 1
    while half < size:
        step = pow(_ROOT, -((1 << MAX_LOG2_ROWS) // (2 * half)), MODULUS)
        twiddle = 1
        for i in range(half):
            for start in range(i, size, 2 * half):
                other = times(values[start + half], twiddle)
                values[start], values[start + half] = add(values[start], other), add(values[start], negative(other))
            twiddle = twiddle * step % MODULUS
        half *= 2
    share = pow(size, -1, MODULUS)
    return [affine_of(times(value, share)) for value in values]


def _check_all(path: Path, powers: Sequence[Affine], lagrange: Sequence[Affine], trapdoor: Twist, tail: bytes) -> None:
    """Check all powers against the trapdoor, and the Lagrange points against the powers.

    For a random polynomial p of degree below n - 1 with coefficients c_j: ``sum c_j g_(j+1)`` must be s times ``sum c_j
    g_j``, and the latter must be ``sum p(w^i) l_i``, both being p(s) G.
    """
    coefficients = [secrets.randbits(_COEFFICIENT_BITS) for _ in powers[1:]]
    value, shifted = linear_combinations(powers, ([*coefficients, 0], [0, *coefficients]), tail)
    if value is None or shifted is None or not _times_trapdoor(shifted, value, trapdoor):
        raise _wrong(path, "its powers are not those of its trapdoor")
    if linear_combinations(lagrange, [evaluations([*coefficients, 0])], tail) != [value]:
        raise _wrong(path, "its Lagrange points do not belong to its powers")


def _times_trapdoor(product: Affine, point: Affine, trapdoor: Twist) -> bool:
    """Whether `product` is s times `point`: ``e(product, H) e(-point, sH) == 1``, with one final exponentiation."""
    left = pairing(G2, _fq(product), final_exponentiate=False)
    right = pairing(trapdoor, neg(_fq(point)), final_exponentiate=False)
    return final_power(left * right) == FQ12.one()


def final_power(f: FQ12) -> FQ12:
    """``f^((q^12 - 1) / r)``, a third of py_ecc's work: raising to q^6 and q^2 moves coefficients alone.

    The exponent is ``(q^6 - 1) (q^2 + 1) (q^4 - q^2 + 1) / r``. Of the element w whose powers py_ecc's coefficients
    belong to, ``w^(q^6) = -w``, and ``w^(q^2) = 82^((q - 1) / 6) w``, since 82 is the norm of ``w^6 = 9 + i``.
    """
    f = FQ12([-c if i % 2 else c for i, c in enumerate(f.coeffs)]) / f
    f = FQ12([c * pow(_TWIST_ROOT, i, Q) for i, c in enumerate(f.coeffs)]) * f
    return f ** ((Q**4 - Q**2 + 1) // MODULUS)


def evaluations(coefficients: Sequence[int]) -> list[int]:
    """Values of a polynomial at the powers of halo2's root of unity of order n, for n = 2^k coefficients (mod r)."""
    values = [c % MODULUS for c in coefficients]
    size = len(values)
    bits = size.bit_length() - 1
    for i in range(size):
        j = int(f"{i:0{bits}b}"[::-1], 2) if bits else 0
        if i < j:
            values[i], values[j] = values[j], values[i]
    half = 1
    while half < size:
        step = pow(_ROOT, (1 << MAX_LOG2_ROWS) // (2 * half), MODULUS)
        twiddles = [1]
        for _ in range(half - 1):
            twiddles.append(twiddles[-1] * step % MODULUS)
        for start in range(0, size, 2 * half):
            for i, twiddle in enumerate(twiddles, start):
                other = values[i + half] * twiddle % MODULUS
                values[i], values[i + half] = (values[i] + other) % MODULUS, (values[i] - other) % MODULUS
        half *= 2
    return values


def _read(path: Path, size: int, log2_rows: int) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(4)
            if (k := int.from_bytes(head, "little")) != log2_rows:
                raise _wrong(path, f"it says 2^{k} rows, not 2^{log2_rows}")
            found = os.fstat(file.fileno()).st_size
            if found != size:  # before it is read: a file may be of any size
                raise _wrong(path, f"it has {found} bytes; one for 2^{log2_rows} rows has {size}")
            return head + file.read(size - 4)
    except FileNotFoundError:
        raise InputError(f"there is no reference string {path}") from None
    except OSError as e:
        raise StorageError(f"the reference string {path} could not be read", why=str(e)) from e


def _points(path: Path, data: bytes, start: int, count: int, what: str) -> list[Affine]:
    """Points of G1, which has cofactor 1: on the curve is in the group."""
    points = []
    for i in range(count):
        at = start + i * G1_BYTES
        x, y = _coordinates(path, data, at, 2)
        if x == y == 0:
            raise _wrong(path, f"{what} {i} is the point at infinity", "its trapdoor is 0 or a root of unity")
        if (y * y - x * x * x - 3) % Q:
            raise _wrong(path, f"{what} {i} is not on the curve")
        points.append((x, y))
    return points


def _g2(path: Path, data: bytes, at: int) -> tuple[FQ2, FQ2]:
    a, b, c, d = _coordinates(path, data, at, 4)
    return FQ2([a, b]), FQ2([c, d])


def _trapdoor(path: Path, data: bytes, at: int) -> Twist:
    """The point sH: of the right group, and not of a trapdoor everybody knows."""
    x, y = _g2(path, data, at)
    if x == y == FQ2.zero():
        raise _wrong(path, "its trapdoor is 0")
    if (x, y) == (G2[0], G2[1]):
        raise _wrong(path, "its trapdoor is 1")
    point = (x, y, FQ2.one())
    if not is_on_curve(point, b2) or not is_inf(multiply(point, MODULUS)):
        raise _wrong(path, "the point of its trapdoor is not in the group")
    return point


def _coordinates(path: Path, data: bytes, at: int, count: int) -> list[int]:
    values = [int.from_bytes(data[at + i * FE : at + (i + 1) * FE], "little") for i in range(count)]
    if max(values) >= Q:
        raise _wrong(path, f"the coordinate at byte {at} is not canonical")
    return [value * _UNMONTGOMERY % Q for value in values]


def _fq(point: Affine) -> tuple[FQ, FQ, FQ]:
    return FQ(point[0]), FQ(point[1]), FQ.one()


def _wrong(path: Path, what: str, why: str = "") -> VerificationError:
    return VerificationError(
        f"{path} is not a usable reference string: {what}", why=why, fix="obtain it again, from a source you trust"
    )

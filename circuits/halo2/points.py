"""Points of BN254's G1 on plain integers: py_ecc's field elements make the same take several times as long."""

from __future__ import annotations

from collections.abc import Sequence

FE, G1_BYTES = 32, 64
"""Bytes of a coordinate, and of a point, in a reference string."""

Q = 21888242871839275222246405745257275088696311157297823662689037894645226208583
"""Of the coordinates, prime."""

Affine = tuple[int, int]
Jacobian = tuple[int, int, int]
"""``(X, Y, Z)`` for ``x = X / Z^2, y = Y / Z^3``; Z = 0 is infinity."""

NOWHERE: Jacobian = (1, 1, 0)
"""The point at infinity."""


def add(p: Jacobian, q: Jacobian) -> Jacobian:
    """``p + q``."""
    x1, y1, z1 = p
    x2, y2, z2 = q
    if not z1:
        return q
    if not z2:
        return p
    zz1 = z1 * z1 % Q
    u2, s2 = x2 * zz1 % Q, y2 * z1 * zz1 % Q
    if z2 != 1:  # the points of the file have 1
        zz2 = z2 * z2 % Q
        x1, y1 = x1 * zz2 % Q, y1 * z2 * zz2 % Q
    h, r = (u2 - x1) % Q, (s2 - y1) % Q
    if not h:
        return NOWHERE if r else double(p)
    hh = h * h % Q
    hhh, v = h * hh % Q, x1 * hh % Q
    x3 = (r * r - hhh - 2 * v) % Q
    return x3, (r * (v - x3) - y1 * hhh) % Q, z1 * z2 * h % Q


def double(p: Jacobian) -> Jacobian:
    """``2 p``."""
    x, y, z = p
    if not z:
        return p
    yy = y * y % Q
    s = 4 * x * yy % Q
    m = 3 * x * x % Q
    x3 = (m * m - 2 * s) % Q
    return x3, (m * (s - x3) - 8 * yy * yy) % Q, 2 * y * z % Q


def negative(p: Jacobian) -> Jacobian:
    """``-p``."""
    return p[0], -p[1] % Q, p[2]


def times(p: Jacobian, k: int) -> Jacobian:
    """``k p`` by windows of 4 bits, of points with any Z."""
    if k == 1 or not p[2]:
        return p
    table = [NOWHERE, p]
    for _ in range(14):
        table.append(add(table[-1], p))
    out = NOWHERE
    for shift in reversed(range(0, k.bit_length(), 4)):
        if out[2]:
            out = double(double(double(double(out))))
        digit = k >> shift & 15
        if digit:
            out = add(out, table[digit])
    return out


def affine_of(p: Jacobian) -> Affine:
    """A point that is not at infinity, with Z = 1."""
    inverse = pow(p[2], -1, Q)
    return p[0] * inverse**2 % Q, p[1] * inverse**3 % Q


def encoded(point: Affine) -> bytes:
    """As reference strings have it: Montgomery's form, little-endian."""
    return b"".join((value * (1 << 256) % Q).to_bytes(FE, "little") for value in point)


def linear_combination(points: Sequence[Affine], scalars: Sequence[int]) -> Affine | None:
    """``sum scalars[i] * points[i]`` by Pippenger's buckets; None is the point at infinity."""
    window = max(2, len(points).bit_length() - 3)
    bits = max((scalar.bit_length() for scalar in scalars), default=0)
    total, mask = NOWHERE, (1 << window) - 1
    for shift in reversed(range(0, bits, window)):
        for _ in range(window):
            total = double(total)
        buckets = [NOWHERE] * (mask + 1)
        for point, scalar in zip(points, scalars, strict=True):
            digit = scalar >> shift & mask
            if digit:
                buckets[digit] = add(buckets[digit], (*point, 1))
        running = part = NOWHERE
        for bucket in reversed(buckets[1:]):
            running = add(running, bucket)
            part = add(part, running)
        total = add(total, part)
    x, y, z = total
    if not z:
        return None
    inverse = pow(z, -1, Q)
    return x * inverse**2 % Q, y * inverse**3 % Q

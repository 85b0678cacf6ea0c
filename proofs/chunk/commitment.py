"""KZG commitments as points of BN254's G1: parsing, checking, and the homomorphic relation between them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import ezkl
from py_ecc.optimized_bn128 import FQ, Z1, add, field_modulus, neg, normalize

from zkapex.circuits.field import to_felt
from zkapex.circuits.halo2.store import Circuit
from zkapex.errors import CommitmentError
from zkapex.proofs.chunk.witness import SaltedVector

POINT_BYTES = 64

_BATCH = 32
"""Commitments made in one call: 32 columns of 2^15 field elements take 34 MB, and ezkl's text of them twice as much."""


@dataclass(frozen=True)
class Point:
    """An affine point of G1, never the point at infinity.

    Attributes
    ----------
    x, y : int
        Coordinates, canonical representatives below the base field's modulus.

    Raises
    ------
    CommitmentError
        If the coordinates are not canonical or the point is not on the curve. G1 has cofactor 1, so a point on the
        curve is in the group.
    """

    x: int
    y: int

    def __post_init__(self) -> None:
        q = field_modulus
        if not (0 <= self.x < q and 0 <= self.y < q):
            raise CommitmentError("a commitment's coordinates are not canonical field elements")
        if (self.y * self.y - self.x * self.x * self.x - 3) % q:
            raise CommitmentError("a commitment is not a point on the curve")

    @classmethod
    def from_bytes(cls, data: bytes) -> Point:
        """From 64 bytes: big-endian x, then y, as they lead a proof."""
        if len(data) != POINT_BYTES:
            raise CommitmentError(f"a commitment has {len(data)} bytes, expected {POINT_BYTES}")
        return cls(int.from_bytes(data[:32], "big"), int.from_bytes(data[32:], "big"))

    @classmethod
    def from_hex(cls, text: str) -> Point:
        """From 128 lower-case hex digits."""
        try:
            data = bytes.fromhex(text)
        except ValueError:
            raise CommitmentError("a commitment is not hexadecimal") from None
        if data.hex() != text:
            raise CommitmentError("a commitment is not lower-case hexadecimal")
        return cls.from_bytes(data)

    def to_bytes(self) -> bytes:
        """64 bytes, big-endian x then y."""
        return self.x.to_bytes(32, "big") + self.y.to_bytes(32, "big")

    def hex(self) -> str:
        """128 lower-case hex digits."""
        return self.to_bytes().hex()

    def __add__(self, other: Point) -> Point:
        return _affine(add(self._jacobian(), other._jacobian()))

    def __sub__(self, other: Point) -> Point:
        return _affine(add(self._jacobian(), neg(other._jacobian())))

    def _jacobian(self) -> tuple[FQ, FQ, FQ]:
        return FQ(self.x), FQ(self.y), FQ.one()


def _affine(point: tuple[FQ, FQ, FQ]) -> Point:
    if point[2] == Z1[2]:
        raise CommitmentError("a combination of commitments is the point at infinity")
    x, y = normalize(point)
    return Point(x.n, y.n)


def commit(circuit: Circuit, vector: Sequence[str]) -> Point:
    """The commitment ezkl makes to `vector` (field elements as `zkapex.circuits.field.to_felt` writes them)."""
    points = _kzg_commit(circuit, list(vector))
    if len(points) != 1:
        raise CommitmentError(f"a vector of {len(vector)} values does not fit one column")
    return points[0]


def _kzg_commit(circuit: Circuit, message: list[str]) -> list[Point]:
    points = ezkl.kzg_commit(message, str(circuit.vk), str(circuit.settings), str(circuit.srs.path))
    coordinates = ((int.from_bytes(bytes.fromhex(c), "little") for c in (p.x, p.y)) for p in points)
    return [Point(x, y) for x, y in coordinates]


def commit_salted(circuit: Circuit, vectors: Iterable[SaltedVector]) -> Iterator[Point]:
    """The commitments to many vectors of small integers, in order; about twice as fast as one by one.

    Much of a single commitment's time goes into reading the reference string, so `_BATCH` are made at a time: ezkl
    splits what is longer than a column into several. And much of the rest goes into negative values, which are as large
    as the field: a constant is added to all values, and its commitment subtracted again.
    """
    shift, width, zero = circuit.spec.weight_limit, circuit.column_rows, to_felt(0)
    empty = empty_commitment(circuit)
    excess: dict[int, Point] = {}
    waiting = iter(vectors)
    while batch := list(itertools.islice(waiting, _BATCH)):
        message: list[str] = []
        for vector in batch:
            shifted = SaltedVector(vector.values + shift, vector.salts)
            message += [zero] * (-len(message) % width) + shifted.vector()
        points = _kzg_commit(circuit, message)
        if len(points) != len(batch):
            raise CommitmentError(f"ezkl made {len(points)} commitments of {len(batch)} vectors")
        for vector, point in zip(batch, points, strict=True):
            size = vector.values.size
            if size not in excess:
                excess[size] = commit(circuit, [to_felt(shift)] * size) - empty
            yield point - excess[size]


def empty_commitment(circuit: Circuit) -> Point:
    """The commitment to the empty vector: the constant in the homomorphic relation (blinding rows are not zero)."""
    return commit(circuit, [to_felt(0)])

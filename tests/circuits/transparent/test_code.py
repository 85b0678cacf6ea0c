"""Field, code and tree against arithmetic in Python's integers."""

from __future__ import annotations

import numpy as np
import pytest

from zkapex.circuits.transparent import field as f
from zkapex.circuits.transparent.code import BLOWUP, Code, sparse_times
from zkapex.circuits.transparent.merkle import Tree, largest_opening, opened
from zkapex.errors import CommitmentError, ProofError

EDGES = [0, 1, 2, 0xFFFFFFFF, 1 << 32, f.P - 1, f.P - 2, 1 << 63, f.P - (1 << 32), (1 << 63) + 1]


def test_arithmetic_at_the_edges() -> None:
    a, b = (x.reshape(-1) for x in np.meshgrid(np.array(EDGES, np.uint64), np.array(EDGES, np.uint64)))
    for mine, python in ((f.plus, int.__add__), (f.minus, int.__sub__), (f.times, int.__mul__)):
        wanted = [python(int(x), int(y)) % f.P for x, y in zip(a, b, strict=True)]
        assert mine(a, b).tolist() == wanted


def test_the_extension_is_a_field_of_three_coefficients() -> None:
    """w^3 = w + 1, and w^3 - w - 1 has no root in F_p: it divides no power of x^p - x short of the third."""
    w = np.array([0, 1, 0], np.uint64)
    assert f.prod(f.prod(w, w), w).tolist() == [1, 1, 0]

    def power(exponent: int) -> np.ndarray:
        result, base = np.array([1, 0, 0], np.uint64), w
        while exponent:
            if exponent & 1:
                result = f.prod(result, base)
            base, exponent = f.prod(base, base), exponent >> 1
        return result

    assert power(f.P).tolist() != [0, 1, 0]  # w is in no F_p
    assert power(f.P**3).tolist() == [0, 1, 0]
    root = (power(f.P), power(f.P**2))
    assert f.plus(f.plus(w, root[0]), root[1]).tolist() == [0, 0, 0]  # its conjugates are distinct and sum to zero
    assert root[0].tolist() != root[1].tolist()


def test_integers_of_any_sign() -> None:
    assert f.residues([0, 1, -1, -(2**62), 2**62]).tolist() == [0, 1, f.P - 1, f.P - 2**62, 2**62]


@pytest.mark.parametrize("k", [64, 512, 1024, 2048, 4096])
def test_transforms(k: int) -> None:
    code, rng = Code(k), np.random.default_rng(k)
    messages = rng.integers(0, f.P, (2, k), dtype=np.uint64)
    c = code.coefficients(messages.copy())
    assert (code.messages(c) == messages).all()

    def at(poly: np.ndarray, x: int) -> int:
        total = 0
        for coefficient in poly[::-1]:
            total = (total * x + int(coefficient)) % f.P
        return total

    columns = np.array([0, k - 1, k, 2 * k + 5, code.n - 1])
    word = np.concatenate([code.coset(c, i) for i in range(BLOWUP)], 1)
    assert word[0, columns].tolist() == [at(c[0], int(code.points[i])) for i in columns]
    assert (code.at(c, columns) == word[:, columns]).all()
    assert (code.half(c) == word[:, : 2 * k]).all()
    assert (sparse_times(messages, code.lagrange(columns)) == code.at(c, columns)).all()
    assert pow(int(code.points[k]), k, f.P) == int(code.x_to_k[k])
    assert not set(code.points.tolist()) & set(code.positions.tolist())
    assert len(set(code.points.tolist())) == code.n
    wide = rng.integers(0, f.P, (1, 2 * k), dtype=np.uint64)
    values = f.plus(code.half(wide[:, :k]), f.times(code.half(wide[:, k:]), code.x_to_k[: 2 * k]))
    assert (code.from_half(values) == wide).all()


def test_openings() -> None:
    code, columns = Code(64), np.array([3, 4, 5, 100, 255])
    rows = f.uniform((5, 64), np.random.default_rng(1).bytes)
    tree = Tree(code, "a", {"x": rows[:2], "y": rows[2:]}, b"salt")
    raw = tree.open(columns)
    assert len(raw) <= largest_opening(5, code.n, len(columns))

    def read(data: bytes, label: str = "a", count: int = 5) -> np.ndarray:
        at = [0]

        def take(size: int) -> bytes:
            at[0] += size
            return data[at[0] - size : at[0]]

        return opened(tree.root, label, count, code.n, columns, take)

    assert (read(raw) == code.at(rows, columns)).all()
    for wrong in (0, 8 * 5 * 5 + 3, len(raw) - 1):
        with pytest.raises(CommitmentError):
            read(raw[:wrong] + bytes([raw[wrong] ^ 1]) + raw[wrong + 1 :])
    with pytest.raises(CommitmentError):
        read(raw, label="b")
    with pytest.raises(ProofError, match="not below"):
        read(b"\xff" * 8 + raw[8:])
    other = Tree(code, "a", {"x": rows[:2], "y": rows[2:]}, b"another salt")
    assert other.root != tree.root

"""The processor's vectors against Python's integers and hashlib."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest

from zkapex.circuits.transparent import lanes
from zkapex.circuits.transparent.code import BLOWUP, Code
from zkapex.circuits.transparent.compiled import kernel
from zkapex.circuits.transparent.field import P

Array = np.ndarray
EDGES = [0, 1, 2, 0xFFFFFFFF, 1 << 32, P - 1, P - 2, 1 << 63, P - (1 << 32), (1 << 63) + 1]


@kernel
def _operations(a: Array, b: Array, out: Array) -> None:
    for i in range(0, a.size, lanes.LANES):
        x, y = lanes.load(a, i), lanes.load(b, i)
        lanes.store(out[0], i, lanes.add(x, y))
        lanes.store(out[1], i, lanes.sub(x, y))
        lanes.store(out[2], i, lanes.mul(x, y))
        lanes.store(out[3], i, lanes.spread(a[i]))
        lanes.store(out[4], i, lanes.by_root(x))


@kernel
def _turned(source: Array, target: Array) -> None:
    lanes.turn(source, 3, source.shape[1], target, target.shape[1], target.shape[1])


def test_eight_at_a_time_are_what_one_is() -> None:
    rng = np.random.default_rng(0)
    pairs = np.array([*itertools.product(EDGES, EDGES)], np.uint64)
    pairs = np.concatenate([pairs, rng.integers(0, P, (10_004, 2), dtype=np.uint64)])
    a, b = (np.ascontiguousarray(x) for x in pairs.T)
    assert a.size % lanes.LANES == 0
    out = np.zeros((5, a.size), np.uint64)
    _operations(a, b, out)
    for row, python in zip(out, (int.__add__, int.__sub__, int.__mul__), strict=False):
        assert row.tolist() == [python(int(x), int(y)) % P for x, y in zip(a, b, strict=True)]
    assert out[4].tolist() == [(int(x) << 48) % P for x in a]
    assert (out[3] == np.repeat(a[:: lanes.LANES], lanes.LANES)).all()


def test_eight_rows_are_turned_into_columns() -> None:
    source = np.arange(8 * 13, dtype=np.uint64).reshape(8, 13)
    target = np.zeros((9, 8), np.uint64)
    _turned(source, target)
    assert (target[1:] == source[:, 3:11].T).all()
    assert not target[0].any()


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 19])
def test_rows_do_not_depend_on_those_beside_them(rows: int) -> None:
    code, rng = Code(256), np.random.default_rng(rows)
    messages = rng.integers(0, P, (rows, 256), dtype=np.uint64)
    c, columns = code.coefficients(messages.copy()), np.array([0, 255, 256, 700, 1023])
    assert (code.messages(c) == messages).all()
    for i in range(rows):
        alone = code.coefficients(messages[i : i + 1].copy())
        assert (c[i] == alone[0]).all()
        for number in range(BLOWUP):
            assert (code.coset(c, number)[i] == code.coset(alone, number)[0]).all()
        assert (code.half(c)[i] == code.half(alone)[0]).all()
        assert (code.at(c, columns)[i] == code.at(alone, columns)[0]).all()


@pytest.mark.parametrize("messages", [1, 5, 16, 48])
@pytest.mark.parametrize("words", [0, 1, 13, 14, 16, 17, 31])
def test_many_hashes_are_those_of_hashlib(messages: int, words: int) -> None:
    rng, hashes = np.random.default_rng(words), lanes.Hashes(messages)
    given = rng.integers(0, 1 << 32, (messages, words), dtype=np.uint64).astype(np.uint32)
    data = [lanes.bytes_of(row) for row in given]
    hashes.words(given)
    for count in (1, 7, 8, 40) if messages % lanes.MESSAGES == 0 else ():
        symbols = rng.integers(0, 1 << 64, (count, messages), dtype=np.uint64)
        hashes.symbols(symbols)
        data = [old + column.astype("<u8").tobytes() for old, column in zip(data, symbols.T, strict=True)]
    wanted = [hashlib.sha256(one).digest() for one in data]
    assert [lanes.bytes_of(row) for row in hashes.digests()] == wanted
    assert [lanes.bytes_of(lanes.words_of(one)) for one in data] == data

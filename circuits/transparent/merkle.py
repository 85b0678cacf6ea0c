"""Commitments: rows encoded, one salted leaf for each column of symbols, and a tree of hashes over the columns.

Leaves that are not opened are hidden by a salt of 256 bits each. Words are made coset by coset, eight rows at a time,
hashed and forgotten; to open some columns, rows are encoded once more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from zkapex.circuits.transparent.code import BLOWUP, Code
from zkapex.circuits.transparent.field import Array, P
from zkapex.circuits.transparent.lanes import LANES, Hashes, Words, bytes_of, words_of
from zkapex.errors import CommitmentError, ProofError

DIGEST = 32
Columns = npt.NDArray[np.int64]


class Tree:
    """What the prover keeps of a commitment.

    Parameters
    ----------
    code : Code
    label : str
        What is committed to; part of every leaf, as is the number of rows.
    blocks : mapping of str to uint64 [rows, k]
        Coefficients of rows by name, kept and not copied.
    salt : bytes
        Secret from which the leaves' salts are made.
    """

    def __init__(self, code: Code, label: str, blocks: Mapping[str, Array], salt: bytes) -> None:
        self.code, self.label, self.blocks, self._salt = code, label, dict(blocks), salt
        self.sizes = {name: len(block) for name, block in blocks.items()}
        leaves = np.concatenate([self._leaves(number) for number in range(BLOWUP)])
        self._levels = [bytes_of(leaves)]
        while len(leaves) > 1:
            leaves = _parents(leaves)
            self._levels.append(bytes_of(leaves))

    @property
    def root(self) -> bytes:
        """The commitment."""
        return self._levels[-1]

    def open(self, columns: Columns) -> bytes:
        """Symbols and salts of these columns, and the nodes that lead from them to the root."""
        symbols = np.concatenate([self.code.at(block, columns) for block in self.blocks.values()])
        out = bytearray(np.ascontiguousarray(symbols.T).astype("<u8").tobytes())
        salts: dict[int, bytes] = {}
        for number in sorted({int(c) // self.code.k for c in columns}):
            salts[number] = self._salts(number)
        for column in columns:
            number, inside = divmod(int(column), self.code.k)
            out += salts[number][DIGEST * inside : DIGEST * (inside + 1)]
        for level, index in missing(columns, len(self._levels) - 1):
            out += self._levels[level][DIGEST * index : DIGEST * (index + 1)]
        return bytes(out)

    def _salts(self, number: int) -> bytes:
        seed = b"salts" + number.to_bytes(1, "little") + self._salt
        return hashlib.shake_256(seed).digest(DIGEST * self.code.k)

    def _leaves(self, number: int) -> Words:
        """The leaves of one coset. A few rows are encoded at a time, and nothing is kept of them but what is hashed."""
        k, rows = self.code.k, sum(self.sizes.values())
        head, hashes = words_of(leaf_head(self.label, rows)), Hashes(k)
        hashes.words(np.broadcast_to(head, (k, len(head))))
        hashes.words(words_of(self._salts(number)).reshape(k, -1))
        word = np.empty((LANES, k), np.uint64)
        for block in self.blocks.values():
            for start in range(0, len(block), LANES):
                piece = block[start : start + LANES]
                hashes.symbols(self.code.coset(piece, number, word[: len(piece)]))
        return hashes.digests()


def leaf_head(label: str, rows: int) -> bytes:
    """What every leaf of a commitment starts with."""
    return b"leaf" + hashlib.sha256(f"{label}:{rows}".encode()).digest()


def _parents(level: Words) -> Words:
    hashes = Hashes(len(level) // 2)
    hashes.words(np.broadcast_to(words_of(b"node"), (len(level) // 2, 1)))
    hashes.words(level.reshape(len(level) // 2, -1))
    return hashes.digests()


def missing(columns: Columns, depth: int) -> Iterator[tuple[int, int]]:
    """(level, index) of the nodes that do not follow from these leaves, in the order in which they are needed."""
    known = sorted({int(c) for c in columns})
    for level in range(depth):
        have = set(known)
        parents: list[int] = []
        for i in known:
            if i ^ 1 not in have:
                yield level, i ^ 1
            if not parents or parents[-1] != i >> 1:
                parents.append(i >> 1)
        known = parents


def opened(root: bytes, label: str, rows: int, n: int, columns: Columns, take: Callable[[int], bytes]) -> Array:
    """Read an opening with ``take(number of bytes)`` and return its symbols ``[rows, columns]``.

    Raises
    ------
    ProofError
        A symbol is not the canonical one of its residue class.
    CommitmentError
        The opening does not lead to the root.
    """
    values = np.frombuffer(take(8 * rows * len(columns)), "<u8").reshape(len(columns), rows)
    if (values >= P).any():
        raise ProofError("an opened symbol is not below the field's order")
    head = leaf_head(label, rows)
    known = {}
    for j, column in enumerate(columns):
        known[int(column)] = hashlib.sha256(head + take(DIGEST) + values[j].tobytes()).digest()
    for _ in range(n.bit_length() - 1):
        parents: dict[int, bytes] = {}
        # In the order of `missing`: ascending, each node whose neighbour is unknown takes the next digest.
        for i in sorted(known):
            if i ^ 1 not in known:
                other = take(DIGEST)
            elif i & 1:
                continue
            else:
                other = known[i ^ 1]
            pair = known[i] + other if i % 2 == 0 else other + known[i]
            parents[i >> 1] = hashlib.sha256(b"node" + pair).digest()
        known = parents
    if known != {0: root}:
        raise CommitmentError(f"a path does not lead to the root of {label}")
    return np.ascontiguousarray(values.T).astype(np.uint64)


def largest_opening(rows: int, n: int, queries: int) -> int:
    """Bytes that an opening has at most."""
    return queries * (8 * rows + DIGEST * n.bit_length())

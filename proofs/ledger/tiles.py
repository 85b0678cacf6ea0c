"""A log as files that any web server can publish (https://c2sp.org/tlog-tiles)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from zkapex.errors import LedgerError
from zkapex.proofs.ledger.entry import ENTRY_BYTES
from zkapex.proofs.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    consistency_path,
    inclusion_path,
    leaf_hash,
    node_hash,
    split,
)

WIDTH, HEIGHT = 256, 8
"""Hashes in a full tile, and the levels of the tree it stands for."""


def tile_path(level: int | str, number: int, width: int) -> str:
    """Path of a tile, relative to the log's prefix; `level` is ``entries`` for the entries themselves."""
    digits = f"{number:03d}" if number < 1000 else str(number).zfill(-(-len(str(number)) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    path = "/".join(["tile", str(level), *(f"x{group}" for group in groups[:-1]), groups[-1]])
    return path if width == WIDTH else f"{path}.p/{width}"


def levels(size: int) -> int:
    """Levels of tiles a log of this size has."""
    count = 0
    while size:
        count, size = count + 1, size // WIDTH
    return count


class TileReader:
    """Reads a log of a known size from its folder; believes nothing: callers compare the root with a checkpoint's.

    Parameters
    ----------
    folder : Path
        Where the tiles are.
    size : int
        Entries to read the log at, of a checkpoint.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self.size = size
        self._tile = lru_cache(maxsize=64)(self._read_tile)

    def hash_at(self, height: int, index: int) -> bytes:
        """Hash of the complete subtree of ``2**height`` leaves that starts at leaf ``index << height``."""
        level, within = divmod(height, HEIGHT)
        number, offset = divmod(index << within, WIDTH)
        hashes = self._tile(level, number)[offset : offset + (1 << within)]
        while len(hashes) > 1:
            hashes = [node_hash(a, b) for a, b in zip(hashes[::2], hashes[1::2], strict=True)]
        return hashes[0]

    def range_hash(self, low: int, high: int) -> bytes:
        """Merkle tree hash of entries `low` up to, without, `high`, of a range that occurs in a proof."""
        count = high - low
        if count == 0:
            return EMPTY_ROOT
        if count & (count - 1) == 0 and low % count == 0:
            height = count.bit_length() - 1
            return self.hash_at(height, low >> height)
        middle = low + split(count)
        return node_hash(self.range_hash(low, middle), self.range_hash(middle, high))

    def root(self, size: int | None = None) -> bytes:
        """Root over the first `size` entries, by default all."""
        return self.range_hash(0, self.size if size is None else size)

    def inclusion(self, index: int) -> tuple[bytes, ...]:
        """The proof that an entry is in the log."""
        return inclusion_path(index, self.size, self.range_hash)

    def consistency(self, old: int) -> tuple[bytes, ...]:
        """The proof that the log begins with its first `old` entries."""
        return consistency_path(old, self.size, self.range_hash)

    def entries(self, number: int) -> list[bytes]:
        """The entries of bundle `number`.

        Raises
        ------
        LedgerError
            The file is missing or damaged.
        """
        width = min(WIDTH, self.size - number * WIDTH)
        data = self._read("entries", number, width)
        step = 2 + ENTRY_BYTES
        prefix = ENTRY_BYTES.to_bytes(2, "big")
        if len(data) != width * step or any(data[at : at + 2] != prefix for at in range(0, len(data), step)):
            raise LedgerError(f"{tile_path('entries', number, width)} of the log is damaged")
        return [data[at + 2 : at + step] for at in range(0, len(data), step)]

    def check(self) -> bytes:
        """Recompute every tile from the entries, and compare; the root.

        Raises
        ------
        LedgerError
            A tile is missing, damaged, or not what the entries make it.
        """
        hashes: list[bytes] = []
        for number in range(-(-self.size // WIDTH)):
            hashes += [leaf_hash(data) for data in self.entries(number)]
        for level in range(levels(self.size)):
            above: list[bytes] = []
            for number in range(-(-len(hashes) // WIDTH)):
                ours = hashes[number * WIDTH : (number + 1) * WIDTH]
                if list(self._tile(level, number)) != ours:
                    path = tile_path(level, number, len(ours))
                    raise LedgerError(f"{path} of the log is not what its entries make it")
                if len(ours) == WIDTH:
                    above.append(fold(ours))
            hashes = above
        return self.root()

    def _read_tile(self, level: int, number: int) -> Sequence[bytes]:
        at_level = self.size // WIDTH**level
        width = min(WIDTH, at_level - number * WIDTH)
        if width <= 0:
            raise LedgerError(f"the log of {self.size} entries has no tile {number} at level {level}")
        data = self._read(level, number, width)
        if len(data) != width * HASH_BYTES:
            raise LedgerError(f"{tile_path(level, number, width)} of the log is damaged")
        return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]

    def _read(self, level: int | str, number: int, width: int) -> bytes:
        """A tile's bytes; a full tile that has replaced a partial one serves as well, cut to its width."""
        each = HASH_BYTES if level != "entries" else 2 + ENTRY_BYTES
        for w in dict.fromkeys((width, WIDTH)):
            path = self._folder / tile_path(level, number, w)
            try:
                data = path.read_bytes() if path.is_file() and path.stat().st_size <= each * WIDTH else None
            except OSError as error:
                raise LedgerError(f"{path} could not be read", why=str(error)) from error
            if data is not None:
                return data[: each * width] if w != width else data
        raise LedgerError(f"{tile_path(level, number, width)} of the log is missing")


def fold(hashes: Sequence[bytes]) -> bytes:
    """Merkle tree hash over a power of two of hashes of equal subtrees."""
    row = list(hashes)
    while len(row) > 1:
        row = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(row[::2], row[1::2], strict=True)]
    return row[0]

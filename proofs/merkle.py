"""Merkle trees over lists of byte strings, as in Certificate Transparency (RFC 6962 section 2.1, RFC 9162 section 2.1).

Leaves and inner nodes are hashed with different prefixes, so neither can be passed off as the other.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence

from zkapex.errors import CommitmentError, InputError
from zkapex.proofs.records.record import encode_parts

_LEAF_PREFIX = b"\x00"
_NODE_PREFIX = b"\x01"
HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

RangeHash = Callable[[int, int], bytes]
"""Merkle tree hash of the leaves from the first number on, up to but without the second."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf, 32 bytes."""
    return hashlib.sha256(_LEAF_PREFIX + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node, 32 bytes."""
    return hashlib.sha256(_NODE_PREFIX + left + right).digest()


def split(size: int) -> int:
    """Return the largest power of two smaller than `size` (RFC 6962 section 2.1)."""
    return 1 << (size - 1).bit_length() - 1


def _subtree(hashes: Sequence[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    middle = split(len(hashes))
    return node_hash(_subtree(hashes[:middle]), _subtree(hashes[middle:]))


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the Merkle tree hash of `leaves`, 32 bytes; of an empty list, SHA-256 of nothing."""
    if not leaves:
        return EMPTY_ROOT
    return _subtree([leaf_hash(leaf) for leaf in leaves])


def inclusion_path(index: int, size: int, ranges: RangeHash) -> tuple[bytes, ...]:
    """Return the audit path of leaf `index` in a tree of `size` leaves, from the leaf up (RFC 9162 section 2.1.3.1).

    Raises
    ------
    InputError
        There is no such leaf.
    """
    if not 0 <= index < size:
        raise InputError(f"there is no leaf {index} in a tree of {size}")
    path: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + split(high - low)
        if index < middle:
            path.append(ranges(middle, high))
            high = middle
        else:
            path.append(ranges(low, middle))
            low = middle
    return tuple(reversed(path))


def consistency_path(old: int, new: int, ranges: RangeHash) -> tuple[bytes, ...]:
    """Return the proof that a tree of `new` leaves begins with the one of `old` (RFC 9162 section 2.1.4.1).

    Empty for ``old == new``, and for ``old == 0``, of which there is nothing to prove.

    Raises
    ------
    InputError
        `old` is larger than `new`, or negative.
    """
    if not 0 <= old <= new:
        raise InputError(f"a tree of {new} leaves does not begin with one of {old}")
    if old in (0, new):
        return ()
    path: list[bytes] = []
    low, high, whole = 0, new, True
    while old != high:
        middle = low + split(high - low)
        if old <= middle:
            path.append(ranges(middle, high))
            high = middle
        else:
            path.append(ranges(low, middle))
            low, whole = middle, False
    if not whole:
        path.append(ranges(low, high))
    return tuple(reversed(path))


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> None:
    """Check that the tree of `new` leaves begins with the one of `old` (RFC 9162 section 2.1.4.2).

    Raises
    ------
    CommitmentError
        It does not, or the proof is malformed.
    """
    wrong = CommitmentError(f"a tree of {new} leaves does not begin with the one of {old}")
    if not 0 <= old <= new or any(len(step) != HASH_BYTES for step in path):
        raise CommitmentError("a Merkle consistency proof is malformed", why=f"from {old} to {new} leaves")
    if old in (0, new):
        if path or (old == new and old_root != new_root) or (old == 0 and old_root != EMPTY_ROOT):
            raise wrong
        return
    steps = [old_root, *path] if old & (old - 1) == 0 else list(path)
    if not steps:
        raise wrong
    first, last = old - 1, new - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    left = right = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise CommitmentError("a Merkle consistency proof is too long")
        if first & 1 or first == last:
            left, right = node_hash(step, left), node_hash(step, right)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            right = node_hash(right, step)
        first, last = first >> 1, last >> 1
    if last or not hmac.compare_digest(left, old_root) or not hmac.compare_digest(right, new_root):
        raise wrong


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return the audit path of ``leaves[index]``: the sibling hashes from the leaf up.

    Raises
    ------
    InputError
        There is no such leaf.
    """
    hashes = [leaf_hash(leaf) for leaf in leaves]
    return inclusion_path(index, len(hashes), lambda low, high: _subtree(hashes[low:high]))


def verify_inclusion(tree_root: bytes, leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> None:
    """Check that `leaf` is number `index` of the `size` leaves under `tree_root` (RFC 9162 section 2.1.3.2).

    Raises
    ------
    CommitmentError
        It is not, or the path has the wrong length for that position.
    """
    if not 0 <= index < size or any(len(step) != HASH_BYTES for step in path):
        raise CommitmentError("a Merkle inclusion proof is malformed", why=f"leaf {index} of {size}")
    first, last = index, size - 1
    node = leaf_hash(leaf)
    for step in path:
        if last == 0:
            raise CommitmentError("a Merkle inclusion proof is too long")
        if first & 1 or first == last:
            node = node_hash(step, node)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            node = node_hash(node, step)
        first, last = first >> 1, last >> 1
    if last != 0:
        raise CommitmentError("a Merkle inclusion proof is too short")
    if not hmac.compare_digest(node, tree_root):
        raise CommitmentError(f"leaf {index} is not in the Merkle tree it is said to be in")


def commitment_leaf(chunk: int, point: str) -> bytes:
    """Encode the leaf for one chunk's commitment; `point` is 128 hex digits."""
    return encode_parts("zkapex:chunk-commitment:v1", chunk, bytes.fromhex(point))


def commitment_root(commitments: Sequence[tuple[int, str]]) -> str:
    """Return the root, as 64 hex digits, over (chunk number, point as 128 hex digits) pairs in the order given."""
    return root([commitment_leaf(chunk, point) for chunk, point in commitments]).hex()
